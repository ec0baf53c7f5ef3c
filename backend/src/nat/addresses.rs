//! Detects the removal of pod addresses, which ends the flows from these addresses or moves them.
//!
//! The kernel reports on a netlink socket that an address was removed. The addresses are then tested instead of being
//! read from the message, so a lost message does no harm: the pod has an address as long as a socket can be bound to
//! it. Each worker has a netlink socket of its own in its epoll instance. The socket is opened together with the mode,
//! and therefore in the pod's namespace. It costs nothing until an address changes.
//!
//! The engine calls [`PodAddresses::removed`] when [`event_owner::ADDRESSES`] is ready. If it returns true, each
//! protocol looks up the local ends of its flows in its own [`LocalAddresses`] ([`TcpFlows::on_addresses_removed`] and
//! its counterparts). A table does so in turns, with a [`Walk`].
//!
//! With net.ipv4.ip_nonlocal_bind a socket can be bound to any address. No removal is noticed then, and flows end only
//! when they time out.
//!
//! [`TcpFlows::on_addresses_removed`]: super::tcp::TcpFlows::on_addresses_removed

use crate::nat::event_owner;
use crate::poller::{Interest, Poller, Token};
use crate::time::Instant;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Multicast groups for address changes, in the form of the bits that bind(2) takes.
const GROUPS: u32 = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR).cast_unsigned();
/// Maximum messages read in one turn. The socket stays readable while there are more.
const MESSAGES_PER_TURN: usize = 64;
/// Bytes that are read of each message; its header is shorter.
const HEAD: usize = 64;

/// Receives the kernel's reports about the pod's addresses.
#[derive(Debug)]
pub struct PodAddresses {
    socket: OwnedFd,
}

impl PodAddresses {
    /// Listens to the kernel, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of socket(2) or bind(2), or the poller cannot watch the socket.
    pub fn watch(poller: &Poller) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        poller.add(&socket, Token::new(event_owner::ADDRESSES, 0), Interest::ReadLevel)?;
        Ok(Self { socket })
    }

    /// Reads the reports. True if an address was removed since the last call.
    pub fn removed(&self) -> bool {
        let mut is_removed = false;
        for _ in 0..MESSAGES_PER_TURN {
            let mut head = [0; HEAD];
            match recv(&self.socket, &mut head[..], RecvFlags::empty()) {
                Ok((n, _)) => is_removed |= tells_of_removal(&head[..n]),
                // Messages were lost, and one of them may have reported a removal.
                Err(Errno::NOBUFS) => is_removed = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        is_removed
    }
}

/// True if a message of the kernel (`struct nlmsghdr`) reports the removal of an address. The
/// kernel sends each change separately.
fn tells_of_removal(message: &[u8]) -> bool {
    const KIND_AT: usize = 4;
    let kind = message.get(KIND_AT..).and_then(<[u8]>::first_chunk);
    kind.is_some_and(|kind| u16::from_ne_bytes(*kind) == libc::RTM_DELADDR)
}

/// Flows checked in one turn of the worker. Each check costs a system call.
pub const FLOWS_PER_TURN: usize = 512;

/// A pass over all flows of a protocol, in several turns.
#[derive(Debug)]
pub struct Walk {
    /// Next slot to be checked.
    pub next: usize,
    /// Time of the next turn.
    pub at: Instant,
    /// Results of tests of the pod's addresses since the walk began.
    pub addresses: LocalAddresses,
}

impl Walk {
    /// Starts a walk at the time `now`.
    pub fn begin(now: Instant) -> Self {
        Self {
            next: 0,
            at: now,
            addresses: LocalAddresses::default(),
        }
    }
}

/// Cached tests of the pod's addresses. Each address is tested once.
#[derive(Debug, Default)]
pub struct LocalAddresses {
    known: Vec<(IpAddr, bool)>,
}

impl LocalAddresses {
    /// True if the pod has the address of `local`, the local end of a socket.
    pub fn have(&mut self, local: SocketAddr) -> bool {
        let address = local.ip();
        if let Some((_, has)) = self.known.iter().find(|(known, _)| *known == address) {
            return *has;
        }
        let has = can_be_bound(local);
        self.known.push((address, has));
        has
    }
}

/// False only if the kernel reports that the address does not exist.
fn can_be_bound(mut local: SocketAddr) -> bool {
    local.set_port(0);
    let probe = Socket::new(Domain::for_address(local), Type::DGRAM.cloexec(), None);
    let bound = probe.and_then(|probe| probe.bind(&local.into()));
    !matches!(bound, Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poller::EventBuffer;
    use crate::sys::netns::{enter_fresh, run};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Longest time until an added address is usable.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn is_told(poller: &Poller) -> bool {
        let mut owners = Vec::new();
        let mut buffer = EventBuffer::with_capacity(4);
        let wait = Some(Duration::ZERO);
        poller
            .wait(&mut buffer, wait, |token, _| owners.push(token.owner))
            .unwrap();
        assert!(owners.iter().all(|owner| *owner == event_owner::ADDRESSES));
        !owners.is_empty()
    }

    #[test]
    fn a_removed_address_is_reported_and_no_longer_the_pods() {
        if !enter_fresh() {
            return;
        }
        std::fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/lo/accept_dad", "0").unwrap();
        let poller = Poller::new().unwrap();
        let addresses = PodAddresses::watch(&poller).unwrap();
        assert!(!is_told(&poller));
        for (address, length) in [("192.0.2.7", 32), ("fd00:7::7", 128)] {
            let at = SocketAddr::new(address.parse().unwrap(), 80);
            let change = |what: &str| run(&format!("ip address {what} {address}/{length} dev lo"));
            assert!(!LocalAddresses::default().have(at));
            change("add");
            assert!(
                is_told(&poller) && !addresses.removed(),
                "an added address ends nothing"
            );
            // The kernel reports an IPv6 address first, and makes it usable on a thread of its own.
            let deadline = Instant::now() + PATIENCE;
            while !LocalAddresses::default().have(at) {
                assert!(Instant::now() < deadline, "{address} is not usable");
                thread::yield_now();
            }
            let mut local = LocalAddresses::default();
            assert!(local.have(at));
            assert!(!addresses.removed());
            change("del");
            assert!(is_told(&poller) && addresses.removed());
            assert!(!is_told(&poller), "taken");
            assert!(local.have(at), "asked once");
            assert!(!LocalAddresses::default().have(at));
        }
    }

    #[test]
    fn loopback_and_the_wildcard_are_always_there() {
        let mut local = LocalAddresses::default();
        for at in ["127.0.0.1:1", "0.0.0.0:0", "[::]:0", "[::1]:1"] {
            assert!(local.have(at.parse().unwrap()), "{at}");
        }
        assert!(!tells_of_removal(&[]) && !tells_of_removal(&[21, 0, 0, 0, 20, 0]));
        assert!(tells_of_removal(&[20, 0, 0, 0, 21, 0, 0, 0]));
    }
}
