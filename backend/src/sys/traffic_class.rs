//! DSCP and ECN of what a socket sends and gets: TOS in IPv4, traffic class in IPv6.
//!
//! Nothing here is newer than any kernel we meet.

use super::datagram::control_int;
use super::option::IntOption;
use socket2::{Domain, Socket};
use std::io;

/// Sets DSCP and ECN of what a socket sends. The kernel keeps ECN of a stream to itself
/// (net/ipv4/ip_sockglue.c, `__ip_sock_set_tos`).
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_traffic_class(socket: &Socket, domain: Domain, class: u8) -> io::Result<()> {
    match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_TCLASS).set(socket, class.into()),
        _ => IntOption(libc::SOL_IP, libc::IP_TOS).set(socket, class.into()),
    }
}

/// Has the kernel report DSCP and ECN of each datagram, or no longer.
///
/// # Errors
/// What setsockopt(2) says.
pub fn watch_traffic_class(socket: &Socket, domain: Domain, watch: bool) -> io::Result<()> {
    match domain {
        Domain::IPV6 => socket.set_recv_tclass_v6(watch),
        _ => socket.set_recv_tos_v4(watch),
    }
}

/// DSCP and ECN in IP_TOS, a byte, or IPV6_TCLASS, a C `int`.
pub(super) fn received_class(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<u8> {
    match (level, kind) {
        (libc::SOL_IP, libc::IP_TOS) => data.first().copied(),
        (libc::SOL_IPV6, libc::IPV6_TCLASS) => u8::try_from(control_int(data)?).ok(),
        _ => None,
    }
}

/// What [`set_traffic_class`] has set.
///
/// # Errors
/// What getsockopt(2) says.
pub fn traffic_class(socket: &Socket, domain: Domain) -> io::Result<u8> {
    let class = match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_TCLASS).get(socket)?,
        _ => IntOption(libc::SOL_IP, libc::IP_TOS).get(socket)?,
    };
    u8::try_from(class).map_err(|_| io::ErrorKind::InvalidData.into())
}
