//! The ports of a network: which endpoint of the tunnel a MAC is behind, which MAC an address has,
//! and which tunnelled frames may come in.
//!
//! A [`Table`] is complete and never changes. Its owner, a configuration or a watch over a file of
//! peers, makes the next one and hands it to the workers as a whole, which read it without a lock.
//! Nothing is learned from traffic: a frame neither creates an entry nor moves one, so that no
//! sender can take over the address of another.
//!
//! Geneve has no authentication: the underlay is trusted as far as outer source addresses go. A
//! frame is admitted if its outer source is an endpoint of the network and its inner source MAC is
//! bound there. The epoch fences the loser of a move: frames of an epoch lower than the known one
//! are refused.

use crate::config::PeerConfig;
use crate::counters::DropReason;
use crate::packet::MacAddr;
use crate::packet::geneve::{FrameOption, Vni};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A tunnel endpoint of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it receives. Processes of one node differ in the port only.
    pub endpoint: SocketAddr,
    /// It understands [`FrameOption`]. Every other peer drops frames that have it.
    pub knows_frame_option: bool,
    /// MACs without a binding may be there too: a kernel or OVS behind which hosts come and go.
    pub has_other_macs: bool,
}

/// Where an interface of the network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses, for which the network answers ARP and neighbour solicitations.
    pub addresses: Vec<IpAddr>,
    /// The [`Peer`] it is behind.
    pub endpoint: SocketAddr,
    /// How often it was bound; `None` of a static binding.
    pub epoch: Option<u32>,
}

/// A peer or a binding that was left out of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No process of another endpoint can be reached there.
    #[error("endpoint {peer} cannot be a peer of {own}: give another unicast address of its family, and a port")]
    Endpoint {
        /// The peer.
        peer: SocketAddr,
        /// This process's endpoint.
        own: SocketAddr,
    },
    /// The binding's endpoint is no peer.
    #[error("MAC {mac} is bound to {endpoint}, which is no peer of the network: add the peer")]
    NoPeer {
        /// MAC of the binding.
        mac: MacAddr,
        /// Its endpoint.
        endpoint: SocketAddr,
    },
    /// The MAC is a group address, or zero.
    #[error("{0} cannot be the MAC of an interface: give a unicast MAC")]
    Mac(MacAddr),
    /// One MAC at two endpoints, and no epoch decides.
    #[error("MAC {mac} is bound to {first} and to {second}: give one of the interfaces another MAC")]
    DoubleMac {
        /// The MAC.
        mac: MacAddr,
        /// Where it remains.
        first: SocketAddr,
        /// Where it was left out.
        second: SocketAddr,
    },
    /// Two MACs have one address.
    #[error("address {address} belongs to {first} and to {second}: give one of the interfaces another address")]
    DoubleAddress {
        /// The address.
        address: IpAddr,
        /// The MAC it remains with.
        first: MacAddr,
        /// The MAC without it.
        second: MacAddr,
    },
}

/// A frame that may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// As the table has it.
    Known,
    /// At a later epoch than the table's: its sender took the interface over, and the owner of the
    /// table has yet to learn where.
    Ahead,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index in `endpoints`.
    peer: u32,
    epoch: Option<u32>,
}

/// What is known of a peer, or of all peers with one address.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    has_other_macs: bool,
    knows_frame_option: bool,
}

/// Bindings of one network, as of one moment.
pub struct Table {
    vni: Vni,
    /// Ordered; `kinds` has the same order.
    endpoints: Box<[SocketAddr]>,
    kinds: Box<[Kind]>,
    macs: HashMap<MacAddr, Place>,
    addresses: HashMap<IpAddr, MacAddr>,
    sources: HashMap<IpAddr, Kind>,
}

impl Table {
    /// The table of configured `peers` for the process with endpoint `own`, and what had to be left
    /// out.
    pub fn new(vni: Vni, own: SocketAddr, peers: &[PeerConfig]) -> (Self, Vec<TableError>) {
        let endpoints = peers.iter().map(|peer| Peer {
            endpoint: peer.vtep,
            knows_frame_option: peer.knows_frame_option,
            has_other_macs: peer.macs.is_empty(),
        });
        let bindings = peers.iter().flat_map(|peer| {
            let addresses = std::iter::once(peer.addresses.clone()).chain(std::iter::repeat_with(Vec::new));
            peer.macs.iter().zip(addresses).map(|(mac, addresses)| Binding {
                mac: *mac,
                addresses,
                endpoint: peer.vtep,
                epoch: None,
            })
        });
        Self::of(vni, own, endpoints, bindings)
    }

    /// The table of a process with endpoint `own`, and what had to be left out. Entries of `own` do
    /// not count, so that all processes can have one list. A peer that is named several times is one. Of several bindings of one MAC the one with the highest epoch counts:
    /// two are seen while an interface moves.
    pub fn of(
        vni: Vni,
        own: SocketAddr,
        peers: impl IntoIterator<Item = Peer>,
        bindings: impl IntoIterator<Item = Binding>,
    ) -> (Self, Vec<TableError>) {
        let mut errors = Vec::new();
        let own = canonical(own);
        let peers = usable(own, peers, &mut errors);
        let mut sources: HashMap<IpAddr, Kind> = HashMap::with_capacity(peers.len());
        for peer in &peers {
            let source = sources.entry(peer.endpoint.ip()).or_default();
            source.has_other_macs |= peer.has_other_macs;
            source.knows_frame_option |= peer.knows_frame_option;
        }
        let others = bindings
            .into_iter()
            .filter(|binding| canonical(binding.endpoint) != own);
        let mut bindings: Vec<Binding> = others.collect();
        bindings.sort_by_key(|binding| (binding.mac, Reverse(binding.epoch)));
        let mut table = Self {
            vni,
            endpoints: peers.iter().map(|peer| peer.endpoint).collect(),
            kinds: peers.iter().map(Kind::of).collect(),
            macs: HashMap::with_capacity(bindings.len()),
            addresses: HashMap::with_capacity(bindings.iter().map(|binding| binding.addresses.len()).sum()),
            sources,
        };
        for binding in bindings {
            let counts = table.bind(&binding).unwrap_or_else(|error| {
                errors.push(error);
                false
            });
            for address in binding.addresses.iter().filter(|_| counts) {
                match table.addresses.entry(address.to_canonical()) {
                    Entry::Vacant(entry) => {
                        entry.insert(binding.mac);
                    }
                    Entry::Occupied(entry) if *entry.get() == binding.mac => {}
                    Entry::Occupied(entry) => errors.push(TableError::DoubleAddress {
                        address: *entry.key(),
                        first: *entry.get(),
                        second: binding.mac,
                    }),
                }
            }
        }
        (table, errors)
    }

    /// Enters a binding, and says whether it is the one of its MAC that counts. They come in the
    /// order of falling epochs.
    fn bind(&mut self, binding: &Binding) -> Result<bool, TableError> {
        let &Binding { mac, epoch, .. } = binding;
        if mac.is_multicast() || mac == MacAddr::default() {
            return Err(TableError::Mac(mac));
        }
        let endpoint = canonical(binding.endpoint);
        let peer = self
            .endpoints
            .binary_search(&endpoint)
            .ok()
            .and_then(|peer| u32::try_from(peer).ok());
        let peer = peer.ok_or(TableError::NoPeer { mac, endpoint })?;
        match self.macs.entry(mac) {
            Entry::Vacant(entry) => {
                entry.insert(Place { peer, epoch });
            }
            Entry::Occupied(entry) if entry.get().epoch != epoch => return Ok(false),
            Entry::Occupied(entry) if entry.get().peer != peer => {
                return Err(TableError::DoubleMac {
                    mac,
                    first: self.endpoints[entry.get().peer as usize],
                    second: endpoint,
                });
            }
            Entry::Occupied(_) => {}
        }
        Ok(true)
    }

    /// The network's identifier, for frames sent to its peers.
    pub const fn vni(&self) -> Vni {
        self.vni
    }

    /// Index of the endpoint that `mac` is behind, in [`endpoints`](Self::endpoints).
    #[inline]
    pub fn index_of(&self, mac: MacAddr) -> Option<usize> {
        self.macs.get(&mac).map(|place| place.peer as usize)
    }

    /// The endpoint that `mac` is behind.
    pub fn endpoint_of(&self, mac: MacAddr) -> Option<SocketAddr> {
        self.endpoints.get(self.index_of(mac)?).copied()
    }

    /// Whether the endpoint with this index has MACs without a binding.
    pub fn has_other_macs(&self, index: usize) -> bool {
        self.kinds.get(index).is_some_and(|kind| kind.has_other_macs)
    }

    /// Whether frames to the endpoint with this index may have [`FrameOption`].
    pub fn knows_frame_option(&self, index: usize) -> bool {
        self.kinds.get(index).is_some_and(|kind| kind.knows_frame_option)
    }

    /// The MAC of the interface with this address.
    pub fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.addresses.get(&address.to_canonical()).copied()
    }

    /// All endpoints, each once: those that broadcast goes to.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Checks a frame of the network that came from `source` and claims to be from `mac`, maybe
    /// with hawser's option. The port that it came from is the sender's choice and says nothing.
    ///
    /// # Errors
    /// Why the frame is dropped.
    #[inline]
    pub fn admit(&self, source: IpAddr, mac: MacAddr, option: Option<&FrameOption>) -> Result<Admitted, DropReason> {
        let source = source.to_canonical();
        let Some(place) = self.macs.get(&mac) else {
            return self.admit_unbound(source, mac, option);
        };
        let peer = place.peer as usize;
        let (endpoint, kind) = (self.endpoints[peer], self.kinds[peer]);
        let epochs = option.and_then(|option| Some((place.epoch?, option.epoch)));
        match epochs {
            Some((known, sent)) if sent < known => {
                self.source(source)?;
                Err(DropReason::TunnelStaleEpoch)
            }
            Some((known, sent)) if sent > known => match self.source(source)? {
                of if of.knows_frame_option => Ok(Admitted::Ahead),
                _ => Err(DropReason::TunnelOption),
            },
            _ if endpoint.ip() != source => {
                self.source(source)?;
                Err(DropReason::TunnelSpoofedMac)
            }
            _ if option.is_some() && !kind.knows_frame_option => Err(DropReason::TunnelOption),
            _ => Ok(Admitted::Known),
        }
    }

    fn admit_unbound(
        &self,
        source: IpAddr,
        mac: MacAddr,
        option: Option<&FrameOption>,
    ) -> Result<Admitted, DropReason> {
        let of = self.source(source)?;
        if !of.has_other_macs || mac.is_multicast() {
            return Err(DropReason::TunnelUnknownMac);
        }
        // Such a peer has no bindings, and what has none has no epoch.
        if option.is_some() {
            return Err(DropReason::TunnelOption);
        }
        Ok(Admitted::Known)
    }

    fn source(&self, source: IpAddr) -> Result<Kind, DropReason> {
        self.sources.get(&source).copied().ok_or(DropReason::TunnelUnknownPeer)
    }
}

impl Kind {
    const fn of(peer: &Peer) -> Self {
        Self {
            has_other_macs: peer.has_other_macs,
            knows_frame_option: peer.knows_frame_option,
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("vni", &self.vni)
            .field("endpoints", &self.endpoints.len())
            .field("macs", &self.macs.len())
            .field("addresses", &self.addresses.len())
            .finish()
    }
}

/// An endpoint in the form in which the kernel names the source of a datagram.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

/// The peers that `own` can reach, ordered by their endpoints, each once.
fn usable(own: SocketAddr, peers: impl IntoIterator<Item = Peer>, errors: &mut Vec<TableError>) -> Vec<Peer> {
    let is_usable = |peer: &Peer| {
        let ip = peer.endpoint.ip();
        let is_group = ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        // What is on this host's loopback can be reached from there only.
        let is_reachable = ip.is_ipv4() == own.is_ipv4() && (own.ip().is_loopback() || !ip.is_loopback());
        let is_host = !ip.is_unspecified() && !is_group && peer.endpoint.port() != 0;
        is_host && is_reachable
    };
    let peers = peers.into_iter().map(|peer| Peer {
        endpoint: canonical(peer.endpoint),
        ..peer
    });
    let peers = peers.filter(|peer| peer.endpoint != own);
    let (mut peers, others): (Vec<Peer>, Vec<Peer>) = peers.partition(is_usable);
    errors.extend(others.iter().map(|peer| TableError::Endpoint {
        peer: peer.endpoint,
        own,
    }));
    peers.sort_by_key(|peer| peer.endpoint);
    peers.dedup_by(|again, first| {
        let is_double = again.endpoint == first.endpoint;
        if is_double {
            first.has_other_macs |= again.has_other_macs;
            first.knows_frame_option &= again.knows_frame_option;
        }
        is_double
    });
    peers
}

#[cfg(test)]
#[path = "forwarding_tests.rs"]
mod tests;
