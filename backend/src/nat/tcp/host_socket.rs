//! Host sockets of streams: made, accepted, and closed in the way the guest's connection is.

use crate::sys::datagram;
use crate::sys::stream::set_peek_offset;
use crate::sys::traffic_class::set_traffic_class;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections the kernel keeps for us; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A socket that does not wait, towards `target`, set up as every stream of the guest is.
///
/// # Errors
/// What socket(2) and setsockopt(2) say.
pub fn open(target: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let stream = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    set_up(&stream)?;
    Ok(stream)
}

/// Sets the options of every host socket: no Nagle delay, since the guest has decided when to
/// send; keepalive; urgent bytes in line; and peeks that continue where the last one ended.
fn set_up(stream: &Socket) -> io::Result<()> {
    stream.set_tcp_nodelay(true)?;
    stream.set_keepalive(true)?;
    stream.set_out_of_band_inline(true)?;
    set_peek_offset(stream, 0)
}

/// A socket that listens at `address`. What it accepts has its options.
///
/// # Errors
/// What socket(2), bind(2) and listen(2) say.
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

/// The next client of a socket of [`listen`], and its address.
///
/// # Errors
/// What accept(2) says.
pub fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let (stream, address) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let address = address.and_then(|any| any.try_into().ok());
    // The kernel names the peer of every TCP connection.
    let address = address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((stream.into(), address))
}

/// Has what the socket sends carry a DSCP, in the place it has in the header. ECN stays the
/// kernel's, which speaks it with the peer.
pub fn set_dscp(stream: &Socket, dscp: u8) {
    // Without it segments go as all others do.
    let _ = stream
        .domain()
        .and_then(|domain| set_traffic_class(stream, domain, dscp));
}

/// Default TTL of a host (net.ipv4.ip_default_ttl).
const USUAL_TTL: u8 = 64;

/// Has what the socket sends carry a TTL or hop limit.
pub fn set_ttl(stream: &Socket, ttl: u8) {
    if ttl != USUAL_TTL {
        // It fails for 0, which no router passes on either.
        let _ = stream
            .domain()
            .and_then(|domain| datagram::set_ttl(stream, domain, ttl));
    }
}

/// Makes closing the socket a reset, so that its peer sees RST.
pub fn make_close_a_reset(stream: &Socket) {
    // Without the option the peer sees FIN instead: late, but not wrong.
    let _ = stream.set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stream::{has_peek_offset, peek_offset};
    use std::net::TcpStream;

    #[test]
    fn what_is_accepted_has_the_options_of_who_listened() {
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
