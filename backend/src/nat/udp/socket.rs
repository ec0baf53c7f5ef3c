//! Creates the host sockets of flows and listeners.
//!
//! Several sockets share a port: a listener and the flows of its clients, or the flows from one port of the guest.
//! Linux permits that if all have SO_REUSEADDR, and then prefers the connected socket for its peer's datagrams. But
//! with SO_REUSEADDR on every bind, two programs could use one port without noticing. So the first socket on a port is
//! bound without the option, which shows whether the port is free. The option is set afterwards, for the sockets that
//! follow.

use crate::sys::datagram;
use crate::sys::traffic_class::watch_traffic_class;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Buffer size requested in either direction, in bytes. The kernel grants at most net.core.[rw]mem_max. A burst of the
/// guest has up to 64 frames of up to 64 KiB each.
const BUFFER: usize = 4 << 20;

/// Whether another socket of this worker already has the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortUse {
    /// No socket has the port.
    First,
    /// At least one socket has the port.
    Shared,
}

/// A socket for the family of `like`, with large buffers.
fn open(like: IpAddr) -> io::Result<(Socket, Domain)> {
    let domain = domain_of(like);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    // Smaller buffers lose bursts sooner, but that is no reason to fail.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    Ok((socket, domain))
}

/// The socket family of an address.
pub(super) const fn domain_of(address: IpAddr) -> Domain {
    match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

/// The wildcard address of the family of `like`.
pub(super) const fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn bind(socket: &Socket, address: SocketAddr, port_use: PortUse) -> io::Result<()> {
    socket.set_reuse_address(port_use == PortUse::Shared)?;
    socket.bind(&address.into())?;
    socket.set_reuse_address(true)
}

fn watch_class(socket: &Socket, domain: Domain) {
    // If this fails, received datagrams have no traffic class.
    let _ = watch_traffic_class(socket, domain, true);
}

/// A flow's socket and its properties.
#[derive(Debug)]
pub(super) struct FlowSocket {
    /// Connected socket.
    pub socket: Socket,
    /// Family of the socket.
    pub domain: Domain,
    /// The requested port, if it was available.
    pub kept_port: Option<u16>,
}

fn finish(socket: &Socket, domain: Domain, peer: SocketAddr, coalesce: bool) -> io::Result<()> {
    datagram::watch_errors(socket, domain)?;
    watch_class(socket, domain);
    if coalesce {
        // If this fails, datagrams are received one by one.
        let _ = datagram::set_coalescing(socket, true);
    }
    socket.connect(&peer.into())
}

/// A socket towards `peer`, from `port` if that is free and otherwise from any port.
///
/// # Errors
/// The error of socket(2) or connect(2).
pub(super) fn outbound(peer: SocketAddr, port: u16, port_use: PortUse, coalesce: bool) -> io::Result<FlowSocket> {
    let (socket, domain) = open(peer.ip())?;
    let from = SocketAddr::new(any(peer.ip()), port);
    let kept = port != 0 && bind(&socket, from, port_use).is_ok();
    finish(&socket, domain, peer, coalesce)?;
    Ok(FlowSocket {
        socket,
        domain,
        kept_port: kept.then_some(port),
    })
}

/// A socket towards the client `peer`, from the client's destination address `local`.
///
/// # Errors
/// The error of socket(2), bind(2) or connect(2).
pub(super) fn inbound(local: SocketAddr, peer: SocketAddr, coalesce: bool) -> io::Result<FlowSocket> {
    let (socket, domain) = open(peer.ip())?;
    bind(&socket, local, PortUse::Shared)?;
    finish(&socket, domain, peer, coalesce)?;
    Ok(FlowSocket {
        socket,
        domain,
        kept_port: None,
    })
}

/// A socket for clients of any port, which reports the port of each datagram. Clients never see
/// the socket's own `address`.
///
/// # Errors
/// The error of socket(2) or bind(2).
pub fn listening_at_any_port(address: SocketAddr) -> io::Result<Socket> {
    let (socket, domain) = listening(address)?;
    datagram::watch_local_port(&socket, domain)?;
    Ok(socket)
}

/// A socket that waits for clients on `address`.
///
/// # Errors
/// The error of socket(2) or bind(2).
pub(super) fn listening(address: SocketAddr) -> io::Result<(Socket, Domain)> {
    let (socket, domain) = open(address.ip())?;
    datagram::watch_local_address(&socket, domain)?;
    watch_class(&socket, domain);
    bind(&socket, address, PortUse::First)?;
    Ok((socket, domain))
}
