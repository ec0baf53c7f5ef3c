//! Chooses the host's local port for a connection of the guest.
//!
//! By default the kernel tries ports one by one, including those in TIME_WAIT. After 15,000 connections to the same
//! peer have ended, a connect(2) takes 1 to 3 ms, during which every flow of the worker waits. So the kernel is first
//! limited to the guest's own port, which is probably free, and then to a few ports at random positions. Each of these
//! searches is short. If the guest's port is outside the kernel's range (below 1024 for NFS and the like, or chosen by
//! a program), the socket is bound to it instead. Only then does the kernel search all ports, at a limited rate: if
//! almost none is free, a guest that keeps trying would stall every flow. Unlike with bind(2), the port stays available
//! for connections to other peers.

use crate::sys::stream::{has_port_range, set_port_range};
use crate::time::Instant;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Number of ports per search.
const WINDOW: u16 = 32;
/// Number of searches at random positions. If one port in fifty is free, all of them fail once in a million times.
const SEARCHES: usize = 32;
/// Minimum time between two searches of all ports, each of which takes up to 3 ms.
const PAUSE: Duration = Duration::from_millis(50);
/// The default range of Linux.
const USUAL: RangeInclusive<u16> = 32_768..=60_999;

/// Result of connecting from a guest's port outside the kernel's range.
#[derive(Debug)]
pub(super) enum OwnPort {
    /// The port was used. Contains the result of connect(2).
    Used(io::Result<()>),
    /// The socket is bound to the port, but the port is in use towards this peer.
    Bound,
    /// The port is not available, and the socket is unchanged.
    Unavailable,
}

/// Range of local ports in this network namespace.
#[derive(Clone, Debug)]
pub(super) struct LocalPorts {
    all: RangeInclusive<u16>,
    /// Earliest time for the next search of all ports.
    again: Instant,
}

impl LocalPorts {
    /// Reads the range of the calling thread's namespace.
    pub(super) fn of_namespace() -> Self {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self::new(parse(&text).unwrap_or(USUAL))
    }

    const fn new(all: RangeInclusive<u16>) -> Self {
        let again = Instant::from_nanos(0);
        Self { all, again }
    }

    /// Connects from `wanted`, a port outside the kernel's range. Returns `None` if the port is not available. A new
    /// socket is needed if `stream` is [`Bound`](OwnPort::Bound) to the port.
    pub(super) fn connect_from_own(&self, stream: &Socket, wanted: u16, target: SocketAddr) -> OwnPort {
        if self.all.contains(&wanted) || wanted == 0 || wanted == target.port() {
            return OwnPort::Unavailable;
        }
        // Other connections of the guest may use the port towards other peers. The port is not available if a program
        // listens on it, or if it is below net.ipv4.ip_unprivileged_port_start and CAP_NET_BIND_SERVICE is missing.
        let from = SocketAddr::new(any(target.ip()), wanted);
        if bind(stream, from).is_err() {
            return OwnPort::Unavailable;
        }
        match stream.connect(&target.into()) {
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => OwnPort::Bound,
            done => OwnPort::Used(done),
        }
    }

    /// Connects, from `wanted` if that port is available.
    ///
    /// # Errors
    /// The error of connect(2): usually EINPROGRESS, EAGAIN if no port is free towards `target`.
    pub(super) fn connect(&mut self, now: Instant, stream: &Socket, wanted: u16, target: SocketAddr) -> io::Result<()> {
        if !has_port_range() {
            // Before Linux 6.3 the kernel always searches all ports.
            return stream.connect(&target.into());
        }
        // A socket whose local port equals the target's could connect to itself.
        let guests_own = (wanted != target.port()).then_some(wanted..=wanted);
        let searches = std::iter::repeat_with(|| self.window()).take(SEARCHES);
        let found = guests_own
            .into_iter()
            .chain(searches)
            .find_map(|ports| connect_from(ports, stream, target));
        if let Some(done) = found {
            return done;
        }
        if now >= self.again {
            self.again = now + PAUSE;
            if let Some(done) = connect_from(self.all.clone(), stream, target) {
                return done;
            }
        }
        // The kernel returns the same error if the host has no address for the target.
        let probe = Socket::new(Domain::for_address(target), Type::DGRAM.cloexec(), None)?;
        probe.connect(&target.into())?;
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// A range of ports at a random position.
    fn window(&self) -> RangeInclusive<u16> {
        let (first, last) = (*self.all.start(), *self.all.end());
        let places = u32::from(last.saturating_sub(first).saturating_sub(WINDOW - 1)) + 1;
        let offset = u16::try_from(getrandom::u32().unwrap_or_default() % places).unwrap_or_default();
        let start = first + offset;
        start..=start.saturating_add(WINDOW - 1).min(last)
    }
}

fn bind(stream: &Socket, from: SocketAddr) -> io::Result<()> {
    stream.set_reuse_address(true)?;
    if from.is_ipv6() {
        stream.set_only_v6(true)?;
    }
    stream.bind(&from.into())
}

/// The unspecified address of the family of `like`.
const fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Connects from a port in the range. Returns `None` if no port in the range is free.
fn connect_from(ports: RangeInclusive<u16>, stream: &Socket, target: SocketAddr) -> Option<io::Result<()>> {
    match set_port_range(stream, ports).and_then(|()| stream.connect(&target.into())) {
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => None,
        done => Some(done),
    }
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = text.split_whitespace().map(|word| word.parse().ok());
    Some(bounds.next()??..=bounds.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tcp::host_socket::{make_close_a_reset, open};
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    const NOW: Instant = Instant::from_nanos(7);

    fn connected(target: SocketAddr, port: u16) -> (Socket, u16) {
        let stream = open(target).unwrap();
        stream.set_nonblocking(false).unwrap();
        LocalPorts::of_namespace().connect(NOW, &stream, port, target).unwrap();
        let port = stream.local_addr().unwrap().as_socket().unwrap().port();
        (stream, port)
    }

    /// A free port in the kernel's range.
    fn free_port(listener: &TcpListener) -> u16 {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = stream.local_addr().unwrap().port();
        make_close_a_reset(&stream.into());
        listener.accept().unwrap();
        port
    }

    /// A listener, its address, and a port to connect from.
    fn listening() -> (TcpListener, SocketAddr, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, port) = (listener.local_addr().unwrap(), free_port(&listener));
        (listener, at, port)
    }

    #[test]
    fn a_connection_keeps_the_guest_s_port_to_each_peer() {
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let listeners = [0, 0].map(|port| TcpListener::bind(SocketAddr::new(address, port)).unwrap());
            let port = free_port(&listeners[0]);
            let streams = listeners
                .each_ref()
                .map(|listener| connected(listener.local_addr().unwrap(), port));
            // This needs Linux 6.3. An older kernel chooses the port itself.
            let kept = has_port_range();
            assert!(!kept || streams.iter().all(|(_, from)| *from == port), "{streams:?}");
        }
    }

    #[test]
    fn a_port_that_is_taken_or_rests_in_time_wait_is_replaced() {
        let (listener, at, port) = listening();
        let (first, kept) = connected(at, port);
        let (_second, other) = connected(at, port);
        assert_ne!(kept, other);
        let (mut server, _) = listener.accept().unwrap();
        first.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        assert_eq!((&first).read(&mut [0]).unwrap(), 0);
        drop(first);
        let (_third, other) = connected(at, port);
        assert_ne!(kept, other);
    }

    #[test]
    fn where_no_port_is_free_it_is_said_and_no_other_error() {
        let (_listener, at, port) = listening();
        let (_first, kept) = connected(at, port);
        if !has_port_range() {
            return;
        }
        let mut full = LocalPorts::new(kept..=kept);
        for now in [NOW, NOW + PAUSE / 2] {
            let error = full.connect(now, &open(at).unwrap(), kept, at).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            assert_eq!(full.again, NOW + PAUSE);
        }
    }

    #[test]
    fn a_guest_s_port_that_is_the_target_s_does_not_make_the_socket_its_own_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let stream = open(at).unwrap();
        stream.set_nonblocking(false).unwrap();
        let refused = LocalPorts::new(USUAL).connect(NOW, &stream, at.port(), at).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn windows_lie_within_the_namespace_s_ports() {
        for (text, ports) in [
            ("32768\t60999\n", 32_768..=60_999),
            ("1024 65535", 1024..=65_535),
            ("40000 40010", 40_000..=40_010),
            ("7 7", 7..=7),
        ] {
            assert_eq!(parse(text), Some(ports.clone()));
            let local = LocalPorts::new(ports.clone());
            for window in (0..1000).map(|_| local.window()) {
                assert!(
                    ports.contains(window.start()) && ports.contains(window.end()),
                    "{window:?}"
                );
                assert_eq!(window.len(), usize::from(WINDOW).min(ports.len()));
            }
        }
        assert!(parse("").is_none() && parse("1 x").is_none());
    }
}
