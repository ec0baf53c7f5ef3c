//! Tracks the MTU of the path to each endpoint of the tunnel.
//!
//! A [`Path`] holds the size of the longest datagram that fits into one packet, derived from the MTU of the kernel's
//! route to the endpoint. The route to an address of this host is the loopback, which carries 64 KiB. So a process on
//! the same node is not a special case, but a path with a large MTU.
//!
//! When a path shrinks, the kernel refuses a datagram (EMSGSIZE). The cause is a lower MTU of a link or route, or a
//! router on the way that reported one (RFC 1191). The route is then read again, and once a minute until it carries as
//! much as before. A route that does not exist at the start is also read once a minute. This module reads no clock:
//! `now` is an argument.

use crate::forwarding::Table;
use crate::packet::geneve::mtu::Family;
use crate::packet::geneve::{BASE_LEN, FrameOption};
use crate::packet::{EthernetHeader, Ipv4Header, Ipv6Header, UdpHeader};
use crate::sys::datagram::{self, MAX_PAYLOAD};
use crate::time::Instant;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Time between two readings of a route that has shrunk or does not exist.
const REREAD: Duration = Duration::from_secs(60);

/// The path to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Address and port of the endpoint.
    pub(super) to: SocketAddr,
    /// True if frames to the endpoint may have hawser's option.
    pub(super) knows_frame_option: bool,
    /// Maximum bytes of UDP payload in one packet.
    pub(super) datagram_max: usize,
    /// Whether the path is to be probed once the guest sends on it.
    is_unproven: bool,
}

/// The paths to all endpoints of a table, in its order.
pub(super) struct Paths<R = fn(SocketAddr) -> io::Result<usize>> {
    of: Box<[Path]>,
    /// Paths whose routes must be read again.
    unsettled: Vec<Unsettled>,
    /// Time of the next reading of these routes.
    reread_at: Option<Instant>,
    /// Bytes that a route is assumed to carry until it exists.
    fallback: usize,
    /// Reads a route and returns the UDP payload, in bytes, of the longest packet on it.
    route: R,
}

/// A path that may carry more later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsettled {
    /// Index in the table.
    index: usize,
    /// Bytes of the longest datagram that the path has carried; `None` if its route was never read.
    full: Option<usize>,
}

impl Paths {
    /// The paths to the endpoints of `table`, whose network has IP packets of up to `mtu` bytes. A route that does not
    /// exist yet is assumed to carry packets of that size.
    pub(super) fn new(table: &Table, mtu: u16) -> Self {
        Self::of(table, mtu, route)
    }
}

impl<R: Fn(SocketAddr) -> io::Result<usize>> Paths<R> {
    fn of(table: &Table, mtu: u16, route: R) -> Self {
        let mut paths = Self {
            of: Box::default(),
            unsettled: Vec::new(),
            reread_at: None,
            fallback: BASE_LEN + FrameOption::LEN + EthernetHeader::LEN + usize::from(mtu),
            route,
        };
        paths.follow(table);
        paths
    }

    /// Replaces the table. Routes to remaining endpoints are not read again.
    pub(super) fn follow(&mut self, table: &Table) {
        let (known, waiting) = (std::mem::take(&mut self.of), std::mem::take(&mut self.unsettled));
        let (route, unsettled) = (&self.route, &mut self.unsettled);
        let mut carries = |index, to: SocketAddr| {
            if let Ok(at) = known.binary_search_by_key(&to, |path| path.to) {
                let of_path = waiting.iter().filter(|path| path.index == at);
                unsettled.extend(of_path.map(|path| Unsettled { index, ..*path }));
                return known[at].datagram_max;
            }
            route(to).unwrap_or_else(|_| {
                unsettled.push(Unsettled { index, full: None });
                self.fallback
            })
        };
        let path = |(index, &to)| {
            let knows_frame_option = table.knows_frame_option(index);
            let before = known.binary_search_by_key(&to, |path| path.to).map(|at| known[at]);
            let was_probed = before.is_ok_and(|path| path.knows_frame_option && !path.is_unproven);
            Path {
                to,
                knows_frame_option,
                datagram_max: carries(index, to),
                is_unproven: knows_frame_option && !was_probed,
            }
        };
        self.of = table.endpoints().iter().enumerate().map(path).collect();
        // The readings are due immediately, so that the first timer sets the interval.
        let first = self.reread_at.unwrap_or(Instant::from_nanos(0));
        self.reread_at = (!self.unsettled.is_empty()).then_some(first);
    }

    /// The path to the endpoint with this index in the table.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Path> {
        self.of.get(index).copied()
    }

    /// The path with this index, once, if it is to be probed.
    #[inline]
    pub(super) fn take_unproven(&mut self, index: usize) -> Option<Path> {
        let path = self.of.get_mut(index).filter(|path| path.is_unproven)?;
        path.is_unproven = false;
        Some(*path)
    }

    /// Number of paths.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.reread_at
    }

    /// Handles a datagram to `to` that was too big. True if the path now carries less.
    pub(super) fn on_too_big(&mut self, now: Instant, to: SocketAddr) -> bool {
        let Ok(index) = self.of.binary_search_by_key(&to, |path| path.to) else {
            return false;
        };
        let Ok(carries) = (self.route)(to) else { return false };
        let full = self.of[index].datagram_max;
        if carries >= full {
            return false;
        }
        self.of[index].datagram_max = carries;
        if !self.unsettled.iter().any(|path| path.index == index) {
            self.unsettled.push(Unsettled {
                index,
                full: Some(full),
            });
        }
        self.reread_at = self.reread_at.or(Some(now + REREAD));
        true
    }

    /// Reads the routes that are due, and returns how many of them have changed.
    pub(super) fn on_timer(&mut self, now: Instant) -> u64 {
        if self.reread_at.is_none_or(|at| now < at) {
            return 0;
        }
        let Self {
            of, unsettled, route, ..
        } = self;
        let mut changed = 0;
        unsettled.retain(|path| {
            let Ok(carries) = route(of[path.index].to) else {
                return true;
            };
            let known = std::mem::replace(&mut of[path.index].datagram_max, carries);
            changed += u64::from(known != carries);
            path.full.is_some_and(|full| carries < full)
        });
        self.reread_at = (!self.unsettled.is_empty()).then(|| now + REREAD);
        changed
    }

    #[cfg(test)]
    pub(super) fn set_datagram_max(&mut self, datagram_max: usize) {
        for path in &mut self.of {
            path.datagram_max = datagram_max;
        }
    }
}

/// UDP payload, in bytes, of the longest packet on the route to `to`.
fn route(to: SocketAddr) -> io::Result<usize> {
    let domain = Domain::for_address(to);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.connect(&to.into())?;
    let mtu = usize::try_from(datagram::path_mtu(&socket, domain)?).unwrap_or(0);
    let headers = match Family::from(to.ip()) {
        Family::Ipv4 => Ipv4Header::LEN,
        Family::Ipv6 => Ipv6Header::LEN,
    };
    Ok(mtu.saturating_sub(headers + UdpHeader::LEN).min(MAX_PAYLOAD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forwarding::{Peer, Table};
    use crate::packet::geneve::Vni;
    use std::cell::Cell;

    fn at(endpoint: &str) -> SocketAddr {
        endpoint.parse().unwrap()
    }

    fn table() -> Table {
        let peers = ["192.0.2.2:6081", "192.0.2.1:6081"].map(|endpoint| Peer {
            endpoint: at(endpoint),
            knows_frame_option: endpoint.contains(".2:"),
            has_other_macs: false,
        });
        Table::of(Vni::new(7).unwrap(), at("192.0.2.9:6081"), peers, []).0
    }

    #[test]
    fn a_path_that_shrinks_is_read_again_until_it_carries_what_it_did() {
        let carries = Cell::new(1472);
        let mut paths = Paths::of(&table(), 1400, |_| Ok(carries.get()));
        let second = paths.get(1).unwrap();
        assert_eq!((second.to, second.knows_frame_option), (at("192.0.2.2:6081"), true));
        assert_eq!((second.datagram_max, paths.deadline()), (1472, None));
        let now = Instant::from_nanos(5);
        assert!(!paths.on_too_big(now, second.to), "the route has not changed");
        carries.set(1272);
        assert!(!paths.on_too_big(now, at("192.0.2.77:1")));
        assert!(paths.on_too_big(now, second.to));
        assert_eq!(paths.get(1).unwrap().datagram_max, 1272);
        assert_eq!(paths.get(0).unwrap().datagram_max, 1472, "the other is as it was");
        assert_eq!(paths.deadline(), Some(now + REREAD));
        carries.set(1372);
        assert_eq!(paths.on_timer(now), 0, "not due yet");
        assert_eq!(paths.on_timer(now + REREAD), 1);
        assert_eq!(paths.get(1).unwrap().datagram_max, 1372);
        assert_eq!(paths.deadline(), Some(now + REREAD + REREAD));
        carries.set(1472);
        assert_eq!(paths.on_timer(now + REREAD + REREAD), 1);
        assert_eq!((paths.get(1).unwrap().datagram_max, paths.deadline()), (1472, None));
    }

    #[test]
    fn a_route_that_does_not_exist_is_read_once_it_does() {
        let exists = Cell::new(false);
        let route = |_: SocketAddr| -> io::Result<usize> {
            if exists.get() {
                Ok(1400)
            } else {
                Err(io::ErrorKind::NetworkUnreachable.into())
            }
        };
        let mut paths = Paths::of(&table(), 1400, route);
        assert_eq!(paths.get(0).unwrap().datagram_max, 8 + 12 + 14 + 1400);
        let now = paths.deadline().unwrap();
        assert_eq!((paths.on_timer(now), paths.deadline()), (0, Some(now + REREAD)));
        exists.set(true);
        assert_eq!((paths.on_timer(now + REREAD), paths.deadline()), (2, None));
        assert_eq!(paths.get(1).unwrap().datagram_max, 1400);
    }

    #[test]
    fn another_table_keeps_what_is_known_of_the_paths_that_stay() {
        let (carries, reads) = (Cell::new(1472), Cell::new(0));
        let route = |_: SocketAddr| {
            reads.set(reads.get() + 1);
            Ok(carries.get())
        };
        let mut paths = Paths::of(&table(), 1400, route);
        carries.set(1272);
        assert!(paths.on_too_big(Instant::from_nanos(5), at("192.0.2.2:6081")));
        carries.set(9000);
        reads.set(0);
        let peers = ["192.0.2.2:6081", "192.0.2.3:6081"].map(|endpoint| Peer {
            endpoint: at(endpoint),
            knows_frame_option: false,
            has_other_macs: false,
        });
        paths.follow(&Table::of(Vni::new(7).unwrap(), at("192.0.2.9:6081"), peers, []).0);
        let of: Vec<_> = (0..paths.len()).map(|index| paths.get(index).unwrap()).collect();
        assert_eq!(
            of.iter().map(|path| path.datagram_max).collect::<Vec<_>>(),
            [1272, 9000]
        );
        assert!(
            of.iter().all(|path| !path.knows_frame_option),
            "as the new table has it"
        );
        assert_eq!(reads.get(), 1, "the route to the peer that is new");
        let now = paths.deadline().unwrap();
        carries.set(1472);
        assert_eq!(paths.on_timer(now), 1, "the path that had shrunk, at its new place");
        assert_eq!(paths.get(0).unwrap().datagram_max, 1472);
        assert_eq!(paths.get(1).unwrap().datagram_max, 9000);
    }

    #[test]
    fn the_loopback_carries_64_kib() {
        assert_eq!(route(at("127.0.0.2:6081")).unwrap(), MAX_PAYLOAD);
        assert!(route(at("[::1]:6081")).unwrap() >= 65_000);
    }
}
