//! The sockets of a port beside those of its tunnels, and where its names come from.

use super::probe::ProbeSocket;
use super::sender::sending_socket;
use super::{OverlaySetup, event_owner, name_server};
use crate::config::{Layer2Config, NetworkRole};
use crate::poller::{Interest, Token};
use crate::sys::datagram;
use crate::sys::traffic_class::watch_traffic_class;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Size of the receive buffer, enough for a burst from many peers while the worker is busy.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The socket from which paths to other processes are probed.
pub(super) fn probe_socket(setup: &OverlaySetup<'_>) -> io::Result<ProbeSocket> {
    let local = setup.mode.vtep;
    let socket = sending_socket(Domain::for_address(local), local)?;
    let socket = ProbeSocket::new(socket.into(), setup.mode.vni);
    setup
        .poller
        .add(&socket, Token::new(event_owner::PROBES, 0), Interest::ReadLevel)?;
    Ok(socket)
}

/// The pod's name servers, to which a gateway passes queries.
pub(super) fn dns_forward(mode: &Layer2Config) -> Vec<IpAddr> {
    match &mode.role {
        NetworkRole::Primary(network) => network.dns_forward.clone(),
        NetworkRole::Secondary(_) => Vec::new(),
    }
}

/// The socket of the gateway's name server over TCP. Without it, connections lead to the pod's name server.
pub(super) fn names(mode: &Layer2Config) -> Option<(Arc<Socket>, SocketAddr)> {
    let NetworkRole::Primary(_) = mode.role else {
        return None;
    };
    let listening = name_server::listen().map(|(socket, at)| (Arc::new(socket), at));
    listening
        .inspect_err(|error| log::warn!("names of the network are not found over TCP: {error}; is the loopback up?"))
        .ok()
}

/// A socket that receives on `local`. If `shared`, it is one of several on that address.
pub(super) fn endpoint(local: SocketAddr, shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(local);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(local))?;
    watch_traffic_class(&socket, domain, true)?;
    // Linux before 5.0 delivers datagrams one by one.
    let _ = datagram::set_coalescing(&socket, true);
    // A smaller buffer than requested causes more drops, but is no reason not to start.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}
