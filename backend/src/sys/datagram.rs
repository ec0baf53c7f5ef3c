//! Options and ancillary data of datagram sockets.
//!
//! UDP_SEGMENT needs Linux 4.18, and UDP_GRO needs 5.0. On an older kernel, setting them fails, and the caller works
//! without them. Everything else is older than any supported kernel.

use super::option::IntOption;
use socket2::{Domain, Socket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

/// Maximum datagrams in one segmented send: 128 since Linux 6.9, 64 before.
pub const MAX_SEGMENTS: usize = 64;

/// Maximum payload bytes of one UDP datagram or one segmented send (65,535 minus the IPv4 and UDP headers).
pub const MAX_PAYLOAD: usize = 65_507;

/// How the kernel treats a datagram larger than the path's MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// Refuses the datagram with EMSGSIZE and reports the MTU on the error queue, for senders that set don't-fragment.
    Refuse,
    /// Fragments the datagram.
    Allow,
}

/// Enables the error queue (IP_RECVERR) for ICMP errors and local errors.
///
/// # Errors
/// The error of setsockopt(2).
pub fn watch_errors(socket: &Socket, domain: Domain) -> io::Result<()> {
    receive_errors(domain).set(socket, 1)
}

/// Disables the error queue and drops its entries.
///
/// # Errors
/// The error of setsockopt(2).
pub fn ignore_errors(socket: &Socket, domain: Domain) -> io::Result<()> {
    receive_errors(domain).set(socket, 0)
}

fn receive_errors(domain: Domain) -> IntOption {
    if domain == Domain::IPV6 {
        IntOption(libc::SOL_IPV6, libc::IPV6_RECVERR)
    } else {
        IntOption(libc::SOL_IP, libc::IP_RECVERR)
    }
}

/// Sets how the kernel treats datagrams above the path's MTU.
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_fragmentation(socket: &Socket, domain: Domain, what: Fragmentation) -> io::Result<()> {
    let v6 = domain == Domain::IPV6;
    let value = match (what, v6) {
        (Fragmentation::Refuse, false) => libc::IP_PMTUDISC_DO,
        (Fragmentation::Refuse, true) => libc::IPV6_PMTUDISC_DO,
        (Fragmentation::Allow, false) => libc::IP_PMTUDISC_WANT,
        (Fragmentation::Allow, true) => libc::IPV6_PMTUDISC_WANT,
    };
    if v6 {
        IntOption(libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER).set(socket, value)
    } else {
        IntOption(libc::SOL_IP, libc::IP_MTU_DISCOVER).set(socket, value)
    }
}

/// Sets the TTL or hop limit of packets that the socket sends.
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_ttl(socket: &Socket, domain: Domain, ttl: u8) -> io::Result<()> {
    match domain {
        Domain::IPV6 => socket.set_unicast_hops_v6(ttl.into()),
        _ => socket.set_ttl_v4(ttl.into()),
    }
}

/// Enables or disables receive coalescing: the kernel delivers runs of datagrams of equal size as one (UDP_GRO).
///
/// # Errors
/// The error of setsockopt(2): ENOPROTOOPT before Linux 5.0.
pub fn set_coalescing(socket: &Socket, on: bool) -> io::Result<()> {
    IntOption(libc::SOL_UDP, libc::UDP_GRO).set(socket, on.into())
}

/// Makes the kernel report the local address to which each datagram was sent.
///
/// # Errors
/// The error of setsockopt(2).
pub fn watch_local_address(socket: &Socket, domain: Domain) -> io::Result<()> {
    match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_RECVPKTINFO).set(socket, 1),
        _ => IntOption(libc::SOL_IP, libc::IP_PKTINFO).set(socket, 1),
    }
}

/// Makes the kernel report the local port to which each datagram was sent.
///
/// # Errors
/// The error of setsockopt(2).
pub fn watch_local_port(socket: &Socket, domain: Domain) -> io::Result<()> {
    match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR).set(socket, 1),
        _ => IntOption(libc::SOL_IP, libc::IP_RECVORIGDSTADDR).set(socket, 1),
    }
}

/// Lets only ICMP or ICMPv6 messages of one type pass to a raw socket.
///
/// # Errors
/// The error of setsockopt(2).
pub fn pass_only_icmp_type(socket: &Socket, domain: Domain, kind: u8) -> io::Result<()> {
    // See include/uapi/linux/icmp.h and icmpv6.h. In both, a set bit means "blocked".
    const ICMP_FILTER: libc::c_int = 1;
    const ICMPV6_FILTER: libc::c_int = 1;
    let mut blocked = [u32::MAX; 8];
    blocked[usize::from(kind / 32)] &= !(1 << (kind % 32));
    let (level, name, words) = match domain {
        Domain::IPV6 => (libc::SOL_ICMPV6, ICMPV6_FILTER, 8),
        _ => (libc::SOL_RAW, ICMP_FILTER, 1),
    };
    // SAFETY: the kernel reads `words` words of `blocked`, which has eight.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, blocked.as_ptr().cast(), words * 4) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The MTU of a connected socket's path, in bytes.
///
/// # Errors
/// The error of getsockopt(2).
pub fn path_mtu(socket: &Socket, domain: Domain) -> io::Result<u32> {
    let mtu = match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_MTU),
        _ => IntOption(libc::SOL_IP, libc::IP_MTU),
    };
    Ok(u32::try_from(mtu.get(socket)?).unwrap_or(0))
}

/// Buffer for control messages, aligned as the kernel requires.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control<const N: usize>(pub [u8; N]);

/// Calls `f` with level, type and data of every control message that the kernel wrote.
///
/// # Safety
/// `message` must be as recvmsg(2) left it, and its control buffer must still be alive.
pub(super) unsafe fn for_each_control(message: &libc::msghdr, mut f: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    // SAFETY: the caller guarantees that the buffer is valid, and the CMSG functions stay inside the buffer.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while !at.is_null() {
            let header = *at;
            let data = libc::CMSG_DATA(at);
            let length = (header.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            f(
                header.cmsg_level,
                header.cmsg_type,
                std::slice::from_raw_parts(data, length),
            );
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
}

/// A C `int` at the start of a control message.
pub(super) fn control_int(data: &[u8]) -> Option<libc::c_int> {
    data.first_chunk().map(|b| libc::c_int::from_ne_bytes(*b))
}

/// The local address in IP_PKTINFO (`in_pktinfo`: index, the address to answer from, the header's destination) or
/// IPV6_PKTINFO (`in6_pktinfo`: address, index).
pub(super) fn local_address(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<IpAddr> {
    match (level, kind) {
        (libc::SOL_IP, libc::IP_PKTINFO) => {
            let address: &[u8; 4] = data.get(4..)?.first_chunk()?;
            Some(Ipv4Addr::from(*address).into())
        }
        (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
            let address: &[u8; 16] = data.first_chunk()?;
            Some(Ipv6Addr::from(*address).into())
        }
        _ => None,
    }
}

/// The local port in IP_ORIGDSTADDR or IPV6_ORIGDSTADDR (socket addresses).
pub(super) fn local_port(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<u16> {
    let is_original = matches!(
        (level, kind),
        (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)
    );
    is_original.then(|| socket_address(data)).flatten().map(|to| to.port())
}

/// Parses a `sockaddr_in` or `sockaddr_in6` from bytes.
pub(super) fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let address: &[u8; 4] = bytes.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new((*address).into(), port).into())
        }
        libc::AF_INET6 => {
            let address: &[u8; 16] = bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new((*address).into(), port, 0, scope).into())
        }
        _ => None,
    }
}
