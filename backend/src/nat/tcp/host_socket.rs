//! Host sockets of streams: how they are created, accepted, and closed to match the guest's
//! connection.

use crate::sys::datagram;
use crate::sys::stream::set_peek_offset;
use crate::sys::traffic_class::set_traffic_class;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Backlog of listening sockets. The kernel limits it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A non-blocking socket towards `target`, with the options of every stream of the guest.
///
/// # Errors
/// The error of socket(2) or setsockopt(2).
pub(super) fn open(target: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let stream = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    set_up(&stream)?;
    Ok(stream)
}

/// Sets the options of every host socket: no Nagle delay, since the guest has decided when to send; keepalive; urgent
/// bytes in line; and peeks that continue where the last one ended.
fn set_up(stream: &Socket) -> io::Result<()> {
    stream.set_tcp_nodelay(true)?;
    stream.set_keepalive(true)?;
    stream.set_out_of_band_inline(true)?;
    set_peek_offset(stream, 0)
}

/// A socket that listens on `address`. Accepted sockets inherit its options.
///
/// # Errors
/// The error of socket(2), bind(2) or listen(2).
pub fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Accepts the next client of a socket from [`listen`]. Returns its socket and its address.
///
/// # Errors
/// The error of accept(2).
pub(super) fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let (stream, address) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let address = address.and_then(|any| any.try_into().ok());
    // The kernel reports the peer of every TCP connection.
    let address = address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((stream.into(), address))
}

/// Sets the DSCP of the segments that the socket sends, in its position in the header field. The
/// kernel keeps control of ECN, which it negotiates with the peer.
pub(super) fn set_dscp(stream: &Socket, dscp: u8) {
    // If this fails, segments carry the default DSCP.
    let _ = stream
        .domain()
        .and_then(|domain| set_traffic_class(stream, domain, dscp));
}

/// Default TTL of a host (net.ipv4.ip_default_ttl).
const USUAL_TTL: u8 = 64;

/// Sets the TTL or hop limit of the packets that the socket sends.
pub(super) fn set_ttl(stream: &Socket, ttl: u8) {
    if ttl != USUAL_TTL {
        // This fails for 0, which no router would forward either.
        let _ = stream
            .domain()
            .and_then(|domain| datagram::set_ttl(stream, domain, ttl));
    }
}

/// Makes close(2) reset the connection, so that the peer sees RST.
pub(super) fn make_close_a_reset(stream: &Socket) {
    // If this fails, the peer sees FIN instead, which is late but not wrong.
    let _ = stream.set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stream::{has_peek_offset, peek_offset};
    use std::net::TcpStream;

    #[test]
    fn an_accepted_socket_has_the_options_of_its_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let at = listener.local_addr().unwrap().as_socket().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let (stream, from) = accept(&listener).unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            assert!(stream.tcp_nodelay().unwrap() && stream.keepalive().unwrap());
            assert!(stream.out_of_band_inline().unwrap() && stream.nonblocking().unwrap());
            assert!(!has_peek_offset() || peek_offset(&stream).unwrap() == Some(0));
        }
    }
}
