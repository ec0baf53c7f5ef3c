//! DSCP and ECN of sent and received packets: TOS in IPv4, traffic class in IPv6.
//!
//! Everything here is older than any supported kernel.

use super::datagram::control_int;
use super::option::IntOption;
use socket2::{Domain, Socket};
use std::io;

/// Sets DSCP and ECN of packets that a socket sends. The kernel keeps control of ECN on stream
/// sockets (net/ipv4/ip_sockglue.c, `__ip_sock_set_tos`).
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_traffic_class(socket: &Socket, domain: Domain, class: u8) -> io::Result<()> {
    match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_TCLASS).set(socket, class.into()),
        _ => IntOption(libc::SOL_IP, libc::IP_TOS).set(socket, class.into()),
    }
}

/// Starts or stops reports of DSCP and ECN with each datagram.
///
/// # Errors
/// The error of setsockopt(2).
pub fn watch_traffic_class(socket: &Socket, domain: Domain, watch: bool) -> io::Result<()> {
    match domain {
        Domain::IPV6 => socket.set_recv_tclass_v6(watch),
        _ => socket.set_recv_tos_v4(watch),
    }
}

/// Reads DSCP and ECN from IP_TOS, which is a byte, or IPV6_TCLASS, which is a C `int`.
pub(super) fn received_class(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Option<u8> {
    match (level, kind) {
        (libc::SOL_IP, libc::IP_TOS) => data.first().copied(),
        (libc::SOL_IPV6, libc::IPV6_TCLASS) => u8::try_from(control_int(data)?).ok(),
        _ => None,
    }
}

/// The value that [`set_traffic_class`] has set on the socket.
///
/// # Errors
/// The error of getsockopt(2).
pub fn traffic_class(socket: &Socket, domain: Domain) -> io::Result<u8> {
    let class = match domain {
        Domain::IPV6 => IntOption(libc::SOL_IPV6, libc::IPV6_TCLASS).get(socket)?,
        _ => IntOption(libc::SOL_IP, libc::IP_TOS).get(socket)?,
    };
    u8::try_from(class).map_err(|_| io::ErrorKind::InvalidData.into())
}
