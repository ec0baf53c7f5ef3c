//! Makes the peers of a running tunnel and their counters readable from other threads.
//!
//! Each worker has [`Peers`]: the forwarding table and, in its order, the counters of each peer. The worker is the only
//! writer; it uses plain stores and takes no lock to count. For a new table it creates new [`Peers`], copies the counts
//! of the peers that stay, and publishes them. The lock of the [`TunnelView`] is taken only then.

use crate::counters::{PeerCount, PeerCounters, PeerLevel};
use crate::forwarding::Table;
use crate::packet::geneve::GenevePacket;
use crate::packet::{EthernetHeader, MacAddr};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// The peers of one worker, readable from other threads.
#[derive(Debug)]
pub struct TunnelView(Mutex<Arc<Peers>>);

/// A table and the counters of its endpoints.
#[derive(Debug)]
pub struct Peers {
    table: Arc<Table>,
    /// Sorted like the table's endpoints.
    counters: Box<[PeerCounters]>,
}

impl TunnelView {
    pub(super) const fn new(peers: Arc<Peers>) -> Self {
        Self(Mutex::new(peers))
    }

    /// The worker's current peers.
    pub fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, peers: Arc<Peers>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }
}

impl Peers {
    /// The peers of `table`, with the counts of peers that were also in `before`.
    pub(super) fn follow(table: Arc<Table>, before: Option<&Self>) -> Self {
        let counters = |endpoint: &SocketAddr| {
            let counters = PeerCounters::default();
            if let Some(known) = before.and_then(|before| before.of(*endpoint)) {
                counters.merge(known);
            }
            counters
        };
        Self {
            counters: table.endpoints().iter().map(counters).collect(),
            table,
        }
    }

    /// Peers without any entry, for unit tests.
    #[cfg(test)]
    pub(super) fn none(own: SocketAddr) -> Self {
        let vni = crate::packet::geneve::Vni::new(0).expect("24 bits");
        Self::follow(Arc::new(Table::new(vni, own, &[]).0), None)
    }

    /// The forwarding table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Endpoints and their counters.
    pub fn all(&self) -> impl Iterator<Item = (SocketAddr, &PeerCounters)> {
        self.table.endpoints().iter().copied().zip(&self.counters)
    }

    /// Counters of the endpoint at `to`.
    pub fn of(&self, to: SocketAddr) -> Option<&PeerCounters> {
        self.at(self.table.position_of(to)?)
    }

    /// Counters of the endpoint with this index in the table.
    #[inline]
    pub(super) fn at(&self, index: usize) -> Option<&PeerCounters> {
        self.counters.get(index)
    }

    /// Counts datagrams that the kernel accepted for the endpoint at `to`.
    pub(super) fn sent(&self, to: SocketAddr, datagrams: usize, bytes: usize) {
        if let Some(peer) = self.of(to) {
            peer.add(PeerCount::SentDatagrams, datagrams as u64);
            peer.add(PeerCount::SentBytes, bytes as u64);
        }
    }

    /// Counts datagrams that were not sent to the endpoint at `to`.
    pub(super) fn not_sent(&self, to: SocketAddr, datagrams: usize) {
        if let Some(peer) = self.of(to) {
            peer.add(PeerCount::SendDrops, datagrams as u64);
        }
    }

    /// Sets a level of the endpoint at `to`.
    pub(super) fn set(&self, to: SocketAddr, level: PeerLevel, n: usize) {
        if let Some(peer) = self.of(to) {
            peer.set(level, n as u64);
        }
    }

    /// Index of the peer that sent a datagram from `source`. Several peers may have that address, and the source port
    /// does not distinguish them: the peer of the inner source MAC is used, or otherwise the first one.
    pub(super) fn sender(&self, source: IpAddr, mac: Option<MacAddr>) -> Option<usize> {
        let source = source.to_canonical();
        let endpoints = self.table.endpoints();
        let has_source = |index: &usize| endpoints.get(*index).is_some_and(|endpoint| endpoint.ip() == source);
        let bound = mac.and_then(|mac| self.table.index_of(mac)).filter(has_source);
        let first = || Some(endpoints.partition_point(|endpoint| endpoint.ip() < source)).filter(has_source);
        bound.or_else(first)
    }
}

/// The peer that sent the last message. While it keeps sending, no search is needed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastSender(Option<(IpAddr, Option<MacAddr>, Option<usize>)>);

impl LastSender {
    /// Counts a message whose first datagram is `datagram`.
    pub(super) fn received(
        &mut self,
        peers: &Peers,
        source: Option<IpAddr>,
        datagram: &[u8],
        (count, bytes): (usize, usize),
    ) {
        let Some(source) = source else { return };
        let mac = source_mac(datagram);
        let index = match self.0 {
            Some((known, known_mac, index)) if (known, known_mac) == (source, mac) => index,
            _ => {
                let index = peers.sender(source, mac);
                self.0 = Some((source, mac, index));
                index
            }
        };
        if let Some(peer) = index.and_then(|index| peers.at(index)) {
            peer.add(PeerCount::ReceivedDatagrams, count as u64);
            peer.add(PeerCount::ReceivedBytes, bytes as u64);
        }
    }
}

/// Counts a datagram from `source` that was dropped.
#[cold]
pub(super) fn refused(peers: &Peers, source: Option<IpAddr>, datagram: &[u8]) {
    let index = source.and_then(|source| peers.sender(source, source_mac(datagram)));
    if let Some(peer) = index.and_then(|index| peers.at(index)) {
        peer.add(PeerCount::ReceiveDrops, 1);
    }
}

/// Source MAC of the frame in a datagram.
fn source_mac(datagram: &[u8]) -> Option<MacAddr> {
    let packet = GenevePacket::parse(datagram, datagram.len()).ok()?;
    let frame = datagram.get(packet.frame().ok()?..)?;
    Some(MacAddr(*frame.get(EthernetHeader::SRC)?.first_chunk()?))
}
