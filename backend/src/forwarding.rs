//! The forwarding table of a network: the tunnel endpoint behind which each MAC is, the MAC of each address, and the
//! tunnelled frames to admit.
//!
//! A [`Table`] is immutable. Its owner, the configuration or the watcher of a peers file, builds a new one and passes
//! it to the workers, which read it without a lock. Nothing is learned from traffic: a frame neither creates nor moves
//! an entry, so a sender cannot take over the address of another.
//!
//! Geneve has no authentication: the underlay is trusted as far as outer source addresses go. A frame is admitted if
//! its outer source is an endpoint of the network and its inner source MAC is bound there. Epochs fence off the old
//! location after a move: frames with an epoch lower than the known one are refused.

use crate::config::{Families, PeerConfig};
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
    /// The address and port at which it receives. Processes on one node differ only in the port.
    pub endpoint: SocketAddr,
    /// Whether the peer supports [`FrameOption`]. Other peers drop frames with this option.
    pub knows_frame_option: bool,
    /// Whether MACs without a binding may be behind it, for example hosts behind a kernel tunnel or OVS.
    pub has_other_macs: bool,
}

/// The location of an interface of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// MAC of the interface.
    pub mac: MacAddr,
    /// Addresses of the interface, for which the network answers ARP and neighbour solicitations.
    pub addresses: Vec<IpAddr>,
    /// Endpoint of the [`Peer`] that the interface is behind.
    pub endpoint: SocketAddr,
    /// How many times the interface has been bound; `None` for a static binding.
    pub epoch: Option<u32>,
}

/// The reason why a peer or a binding was left out of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The peer's endpoint is unusable for another process.
    #[error("endpoint {peer} cannot be a peer of {own}: give another unicast address of its family, and a port")]
    Endpoint {
        /// Configured endpoint of the peer.
        peer: SocketAddr,
        /// Endpoint of this process.
        own: SocketAddr,
    },
    /// The binding names an endpoint that is not among the peers.
    #[error("MAC {mac} is bound to {endpoint}, which is not a peer of the network: add the peer")]
    NoPeer {
        /// MAC of the binding.
        mac: MacAddr,
        /// Endpoint in the binding.
        endpoint: SocketAddr,
    },
    /// The MAC is a group address or zero.
    #[error("{0} cannot be the MAC of an interface: give a unicast MAC")]
    Mac(MacAddr),
    /// One MAC is bound to two endpoints, and the epochs do not decide between them.
    #[error("MAC {mac} is bound to {first} and to {second}: give one of the interfaces another MAC")]
    DoubleMac {
        /// MAC with the two bindings.
        mac: MacAddr,
        /// One MAC is bound to two endpoints, and neither binding has the higher epoch.
        first: SocketAddr,
        /// The endpoint whose binding was left out.
        second: SocketAddr,
    },
    /// Two MACs are bound to the same address.
    #[error("address {address} belongs to {first} and to {second}: give one of the interfaces another address")]
    DoubleAddress {
        /// Address in both bindings.
        address: IpAddr,
        /// MAC that keeps the address.
        first: MacAddr,
        /// MAC that is bound without the address.
        second: MacAddr,
    },
}

/// How an admitted frame relates to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The frame matches the table.
    Known,
    /// The frame's MAC has no binding, and its sender may have any.
    Unbound,
    /// The frame's epoch is later than the table's: the sender has taken over the interface, and the table has not been
    /// updated yet.
    Ahead,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index in `endpoints`.
    peer: u32,
    epoch: Option<u32>,
    /// Families in which the interface has an address.
    families: Families,
}

/// Properties of a peer, or of all peers with one address.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    has_other_macs: bool,
    knows_frame_option: bool,
}

/// A snapshot of the bindings of one network.
pub struct Table {
    vni: Vni,
    /// Sorted. `kinds` has the same order.
    endpoints: Box<[SocketAddr]>,
    kinds: Box<[Kind]>,
    macs: HashMap<MacAddr, Place>,
    addresses: HashMap<IpAddr, MacAddr>,
    sources: HashMap<IpAddr, Kind>,
    names: Names,
}

/// Names of interfaces, in lower case, and the addresses that they stand for.
#[derive(Default)]
struct Names {
    addresses: HashMap<Box<str>, Box<[IpAddr]>>,
    names: HashMap<IpAddr, Box<str>>,
}

impl Names {
    /// The names of configured peers other than `own`. If several peers have the same name, the first one keeps it.
    fn of(own: SocketAddr, peers: &[PeerConfig]) -> Self {
        let mut all = Self::default();
        let others = peers.iter().filter(|peer| canonical(peer.vtep) != canonical(own));
        for (name, peer) in others.filter_map(|peer| Some((peer.name.as_deref()?, peer))) {
            let name: Box<str> = name.to_ascii_lowercase().into();
            let addresses: Box<[IpAddr]> = peer.addresses.iter().map(IpAddr::to_canonical).collect();
            for address in &addresses {
                all.names.entry(*address).or_insert_with(|| name.clone());
            }
            all.addresses.entry(name).or_insert(addresses);
        }
        all
    }
}

impl Table {
    /// Builds the table for the process with endpoint `own` from the configured `peers`. Also returns an error for each
    /// entry that was left out.
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
        let (mut table, errors) = Self::of(vni, own, endpoints, bindings);
        table.names = Names::of(own, peers);
        (table, errors)
    }

    /// Builds the table for the process with endpoint `own`. Also returns an error for each entry that was left out.
    /// Entries for `own` are ignored, so all processes can share one list. Peers that are listed several times are
    /// merged. If a MAC has several bindings, as it has while an interface moves, the one with the highest epoch is
    /// used.
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
            names: Names::default(),
        };
        for binding in bindings {
            let counts = table.bind(&binding).unwrap_or_else(|error| {
                errors.push(error);
                false
            });
            let place = table.macs.get_mut(&binding.mac).filter(|_| counts);
            let Some(place) = place else { continue };
            for address in binding.addresses.iter().map(IpAddr::to_canonical) {
                place.families.ipv4 |= address.is_ipv4();
                place.families.ipv6 |= address.is_ipv6();
                match table.addresses.entry(address) {
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

    /// Adds a binding and returns whether it is the one to use for its MAC. Must be called in order of descending
    /// epochs.
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
                let families = Families::default();
                entry.insert(Place { peer, epoch, families });
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

    /// The identifier of the network, carried by frames to its peers.
    pub const fn vni(&self) -> Vni {
        self.vni
    }

    /// Index in [`endpoints`](Self::endpoints) of the endpoint that `mac` is behind.
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

    /// The endpoint with any MACs that a frame from `source` came from, the first of several with this address.
    pub fn endpoint_with_other_macs(&self, source: IpAddr) -> Option<SocketAddr> {
        let source = source.to_canonical();
        let first = self.endpoints.partition_point(|endpoint| endpoint.ip() < source);
        let all = self.endpoints.iter().zip(&self.kinds).skip(first);
        all.take_while(|(endpoint, _)| endpoint.ip() == source)
            .find(|(_, kind)| kind.has_other_macs)
            .map(|(endpoint, _)| *endpoint)
    }

    /// Whether frames to the endpoint with this index may carry [`FrameOption`].
    pub fn knows_frame_option(&self, index: usize) -> bool {
        self.kinds.get(index).is_some_and(|kind| kind.knows_frame_option)
    }

    /// Whether a peer at this address knows [`FrameOption`], as every process of hawser does that is configured alike.
    pub fn knows_frame_option_at(&self, source: IpAddr) -> bool {
        self.source(source.to_canonical())
            .is_ok_and(|kind| kind.knows_frame_option)
    }

    /// The MAC of the interface with this address.
    pub fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.addresses.get(&address.to_canonical()).copied()
    }

    /// The MAC that answers for `address`: that of the interface with this address or, for a link-local address, that of
    /// the interface from whose MAC it is made.
    pub fn neighbour(&self, address: IpAddr) -> Option<MacAddr> {
        self.mac_of(address).or_else(|| match address {
            IpAddr::V6(address) => MacAddr::of_link_local(address).filter(|mac| self.macs.contains_key(mac)),
            IpAddr::V4(_) => None,
        })
    }

    /// Addresses that belonged to another MAC in an earlier table, followed by addresses that were not in it, each with
    /// its current MAC.
    pub fn moved_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = (IpAddr, MacAddr)> + 'a {
        let of = move |was_known: bool| {
            self.addresses.iter().filter_map(move |(address, mac)| {
                let before = earlier.addresses.get(address);
                (before.is_some() == was_known && before != Some(mac)).then_some((*address, *mac))
            })
        };
        of(true).chain(of(false))
    }

    /// True if the interface `mac` may claim `address`: no other interface has it and, if the table has addresses of
    /// `mac` in this family, it is one of them. Interfaces choose their own link-local addresses, except those that are
    /// made from the MAC of another interface.
    pub fn may_claim(&self, mac: MacAddr, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if let Some(owner) = self.addresses.get(&address) {
            return *owner == mac;
        }
        match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                MacAddr::of_link_local(v6).is_none_or(|owner| owner == mac || !self.macs.contains_key(&owner))
            }
            _ => !self.macs.get(&mac).is_some_and(|place| place.families.has(address)),
        }
    }

    /// The bindings: endpoint, MAC and addresses of each interface.
    pub fn bindings(&self) -> impl Iterator<Item = (SocketAddr, MacAddr, Vec<IpAddr>)> {
        let mut addresses: HashMap<MacAddr, Vec<IpAddr>> = HashMap::new();
        for (address, mac) in &self.addresses {
            addresses.entry(*mac).or_default().push(*address);
        }
        self.macs.iter().map(move |(mac, place)| {
            let mut addresses = addresses.remove(mac).unwrap_or_default();
            addresses.sort_unstable();
            (self.endpoints[place.peer as usize], *mac, addresses)
        })
    }

    /// The addresses of the interface with a name in lower case.
    pub fn addresses_of(&self, name: &str) -> Option<&[IpAddr]> {
        self.names.addresses.get(name).map(|addresses| &**addresses)
    }

    /// The name of the interface with an address.
    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.names.names.get(&address.to_canonical()).map(|name| &**name)
    }

    /// Index of an endpoint in [`endpoints`](Self::endpoints).
    pub fn position_of(&self, endpoint: SocketAddr) -> Option<usize> {
        self.endpoints.binary_search(&endpoint).ok()
    }

    /// All endpoints, without duplicates. Broadcasts go to each of them.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Checks a frame of the network that arrived from `source` with source address `mac`, and with hawser's option if
    /// there was one. The source port is not checked, since senders choose it freely.
    ///
    /// # Errors
    /// The reason for dropping the frame.
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
        // Such a peer has no bindings and therefore no epoch.
        if option.is_some() {
            return Err(DropReason::TunnelOption);
        }
        Ok(Admitted::Unbound)
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

/// Converts an endpoint to the form in which the kernel reports a datagram's source.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

/// Checks that the process with endpoint `own` can reach another at `peer`.
///
/// # Errors
/// [`TableError::Endpoint`]
pub fn check_endpoint(own: SocketAddr, peer: SocketAddr) -> Result<(), TableError> {
    let ip = peer.ip();
    let is_group = ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    // A loopback address can be reached only from this host.
    let is_reachable = ip.is_ipv4() == own.is_ipv4() && (own.ip().is_loopback() || !ip.is_loopback());
    let is_host = !ip.is_unspecified() && !is_group && peer.port() != 0;
    if is_host && is_reachable {
        Ok(())
    } else {
        Err(TableError::Endpoint { peer, own })
    }
}

/// The peers that `own` can reach, sorted by endpoint and without duplicates.
fn usable(own: SocketAddr, peers: impl IntoIterator<Item = Peer>, errors: &mut Vec<TableError>) -> Vec<Peer> {
    let peers = peers.into_iter().map(|peer| Peer {
        endpoint: canonical(peer.endpoint),
        ..peer
    });
    let mut peers: Vec<Peer> = peers.filter(|peer| peer.endpoint != own).collect();
    peers.retain(|peer| {
        let checked = check_endpoint(own, peer.endpoint);
        errors.extend(checked.clone().err());
        checked.is_ok()
    });
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
