//! Host sockets for echo requests.
//!
//! A ping socket (SOCK_DGRAM, IPPROTO_ICMP) needs no privilege except a group within the sysctl
//! net.ipv4.ping_group_range. A raw socket needs CAP_NET_RAW. Neither is connected. The kernel assigns a reply to a
//! ping socket by the identifier alone, whatever the socket is connected to (ping_lookup in net/ipv4/ping.c). So one
//! socket serves an identifier for all hosts, and the peer of a reply is checked here.

use crate::packet::icmp::{v4, v6};
use crate::sys::datagram;
use crate::sys::traffic_class::watch_traffic_class;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Requested size of the receive queue in bytes: the replies to a sweep arrive together. The kernel
/// grants at most net.core.rmem_max.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The kind of socket that the system permits for echo requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoSupport {
    /// Ping sockets are permitted.
    Ping,
    /// Only raw sockets are permitted.
    Raw,
    /// No socket is permitted: the guest's echo requests to the network are not answered.
    None,
}

/// The permitted kind of socket, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoAvailability {
    /// Support for IPv4.
    pub ipv4: EchoSupport,
    /// Support for IPv6.
    pub ipv6: EchoSupport,
}

impl EchoAvailability {
    /// Tests what kind of socket the system permits.
    pub fn find_out() -> Self {
        Self {
            ipv4: EchoSupport::find_out(Domain::IPV4, Protocol::ICMPV4),
            ipv6: EchoSupport::find_out(Domain::IPV6, Protocol::ICMPV6),
        }
    }

    /// The kind of socket for the family of `like`.
    pub const fn of(self, like: IpAddr) -> EchoSupport {
        match like {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl EchoSupport {
    fn find_out(domain: Domain, protocol: Protocol) -> Self {
        let works = |kind: Type| Socket::new(domain, kind.cloexec(), Some(protocol)).is_ok();
        if works(Type::DGRAM) {
            Self::Ping
        } else if works(Type::RAW) {
            Self::Raw
        } else {
            Self::None
        }
    }
}

/// A ping socket and its identifier: `ident` if that is free, otherwise one that the kernel chooses.
///
/// # Errors
/// The error of socket(2), setsockopt(2) or bind(2).
pub(super) fn ping(like: IpAddr, ident: u16) -> io::Result<(Socket, u16)> {
    let (domain, protocol, _, any) = family(like);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))?;
    // The kernel creates ping sockets with SO_REUSEADDR on. With that option it gives one identifier to several
    // sockets, including those of other programs, and delivers a reply to any of them.
    socket.set_reuse_address(false)?;
    // The port of a ping socket is its identifier.
    let bind = |port: u16| socket.bind(&SocketAddr::new(any, port).into());
    bind(ident).or_else(|_| bind(0))?;
    finish(&socket, domain)?;
    let bound = socket.local_addr()?.as_socket().map_or(ident, |at| at.port());
    Ok((socket, bound))
}

/// A raw socket that receives all echo replies of the pod.
///
/// # Errors
/// The error of socket(2) or setsockopt(2).
pub(super) fn raw(like: IpAddr) -> io::Result<Socket> {
    let (domain, protocol, reply, _) = family(like);
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    datagram::pass_only_icmp_type(&socket, domain, reply)?;
    finish(&socket, domain)?;
    Ok(socket)
}

fn finish(socket: &Socket, domain: Domain) -> io::Result<()> {
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    // If this fails, replies have no traffic class.
    let _ = watch_traffic_class(socket, domain, true);
    datagram::watch_errors(socket, domain)
}

/// Socket family, protocol, reply type and unspecified address.
const fn family(like: IpAddr) -> (Domain, Protocol, u8, IpAddr) {
    match like {
        IpAddr::V4(_) => (
            Domain::IPV4,
            Protocol::ICMPV4,
            v4::ECHO_REPLY,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ),
        IpAddr::V6(_) => (
            Domain::IPV6,
            Protocol::ICMPV6,
            v6::ECHO_REPLY,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ),
    }
}
