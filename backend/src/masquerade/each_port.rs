//! Forwards every free port of the pod without a program in the kernel: with a socket for each port, transport and family.
//!
//! This needs no privilege, but descriptors and kernel memory (about 4 kB for TCP and 3 kB for UDP). So the ports from
//! which the kernel chooses those of outgoing connections are left out, and a part of the descriptors is kept for flows.
//! TCP comes first, and low ports before high ones.

use crate::config::{Families, PortSet, Transport};
use crate::mode::{BoundForward, ForwardSocket, GuestPort};
use crate::nat::{tcp, udp};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// The part of the process's descriptors that listening sockets may take, in quarters.
const QUARTERS: u64 = 3;

/// Listening sockets, and the ports that have none.
#[derive(Debug)]
pub(super) struct EachPort {
    /// Sockets of both transports.
    pub bound: [BoundForward; 2],
    /// Wanted ports that do not reach the guest.
    pub left_out: PortSet,
}

/// Opens a socket for each port in `wanted`, in the network namespace of the calling thread. A port that another program
/// uses, or for which there is no descriptor or right, is left out.
pub(super) fn open(wanted: &PortSet, families: Families) -> EachPort {
    let mut ports = wanted.clone();
    if let Some(range) = outgoing() {
        ports.remove(Transport::Tcp, range.clone());
        ports.remove(Transport::Udp, range);
    }
    let most = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |limit| limit / 4 * QUARTERS);
    let mut left = usize::try_from(most).unwrap_or(usize::MAX);
    let mut served = PortSet::default();
    let bound = [Transport::Tcp, Transport::Udp].map(|transport| {
        let mut sockets = Vec::new();
        for port in (1..=u16::MAX).filter(|port| ports.contains(transport, *port)) {
            match of_port(transport, port, families) {
                Ok(found) if found.len() <= left => {
                    left -= found.len();
                    served.insert(transport, port..=port);
                    sockets.extend(found);
                }
                // Descriptors are used up.
                Ok(_) => break,
                Err(e) if is_out_of_descriptors(&e) => break,
                Err(_) => {}
            }
        }
        BoundForward { transport, sockets }
    });
    let mut left_out = wanted.clone();
    left_out.remove_all(&served);
    EachPort { bound, left_out }
}

fn of_port(transport: Transport, port: u16, families: Families) -> io::Result<Vec<ForwardSocket>> {
    let listen = match transport {
        Transport::Tcp => tcp::listen,
        Transport::Udp => udp::listen,
    };
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = any.into_iter().filter(|any| families.has(*any));
    let socket = |any| {
        let at = SocketAddr::new(any, port);
        let socket = listen(at)?;
        let guest_port = GuestPort::One(port);
        Ok(ForwardSocket { socket, at, guest_port })
    };
    addresses.map(socket).collect()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The ports from which the kernel chooses those of outgoing connections. Sockets there would take them from the pod and
/// from the guest's own connections.
fn outgoing() -> Option<RangeInclusive<u16>> {
    /// The sysctl applies to IPv6 too.
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(RANGE).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
        _ => None,
    }
}
