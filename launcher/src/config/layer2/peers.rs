//! The peers of a layer2 NIC: those of `--peer`, and those in the file of `--peers`.
//!
//! A [`PeerSource`] reads and checks them at the start, and again whenever the file has changed. A single fault rejects
//! the whole version, so the peers in use never come from two versions of the file. Every fault in the file is reported
//! with its line number.

use super::file::{self, MAX_FILE, ReadError};
use super::subnets::{Addressing, Subnet, Subnets};
use hawser_backend::forwarding::{self, Table, TableError};
use hawser_config::PeerConfig;
use hawser_manifest::nic::Layer2Spec;
use hawser_manifest::peers::{self, ListedPeer};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use std::collections::HashSet;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Peers that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeersError {
    /// The file cannot be read.
    #[error("--peers={path}: {1}; give a readable file with one peer per line", path = .0.display())]
    Unreadable(PathBuf, String),
    /// The file is larger than any list of peers.
    #[error("--peers={path} has more than {MAX_FILE} bytes: give a file with one peer per line", path = .0.display())]
    TooLarge(PathBuf),
    /// A line of the file is invalid.
    #[error("{path}:{1}", path = .0.display())]
    Line(PathBuf, peers::PeersError),
    /// The peers contradict each other.
    #[error("{path}: {1}", path = .0.display())]
    Table(PathBuf, TableError),
    /// A peer that does not suit the network or the other peers.
    #[error("{place}: {fault}")]
    Peer {
        /// The place of its configuration.
        place: Place,
        /// What is wrong with it.
        fault: PeerFault,
    },
}

/// Where a peer is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An option.
    Option,
    /// A line of the file.
    Line(PathBuf, usize),
    /// An entry of a request, from 0.
    Entry(usize),
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("--peer"),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Entry(index) => write!(f, "peers[{index}]"),
        }
    }
}

/// What is wrong with a peer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerFault {
    /// An address outside the network.
    #[error("{0} is not in the network: choose an address in one of its subnets")]
    Outside(IpAddr),
    /// A subnet of the network contains the peer's tunnel endpoint.
    #[error("{subnet} covers {address}, which is an end of the tunnel: choose a subnet that does not")]
    Underlay {
        /// The subnet, with its option.
        subnet: Subnet,
        /// The end of the tunnel.
        address: IpAddr,
    },
    /// One endpoint is on the loopback and the other is not, so no datagram can pass between them.
    #[error(
        "{peer} cannot be reached from {own}: a loopback address works only between processes of this host that \
            both use one; give addresses that reach both"
    )]
    Loopback {
        /// The peer's endpoint.
        peer: SocketAddr,
        /// This process's endpoint.
        own: SocketAddr,
    },
    /// Two guests have the same MAC.
    #[error("two guests have the MAC {0}: give each its own")]
    MacTwice(MacAddr),
    /// Two guests have the same address.
    #[error("two guests have the address {0}, or it is the gateway's: give each its own")]
    AddressTwice(IpAddr),
    /// Two guests have the same name.
    #[error("two guests have the name {0}: give each its own")]
    NameTwice(String),
    /// The peer's endpoint cannot be reached from this process's endpoint.
    #[error(transparent)]
    Endpoint(#[from] TableError),
}

/// A peer, and where it is configured.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    at: At,
    pub(super) peer: PeerConfig,
}

/// Where a peer is configured.
#[derive(Clone, Copy, Debug)]
enum At {
    Option,
    /// A line of the file.
    Line(usize),
    /// An entry of a request.
    Entry(usize),
}

/// Where a NIC's peers are configured.
#[derive(Clone, Debug)]
pub(super) struct PeerList {
    options: Vec<PeerConfig>,
    file: Option<PathBuf>,
    /// Digest of the file when it was last parsed.
    seen: Option<u64>,
}

/// The NIC's properties that its peers must fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerRules {
    /// The process's own tunnel endpoint.
    pub(super) own: SocketAddr,
    /// MAC of the NIC.
    pub(super) mac: MacAddr,
    pub(super) subnets: Subnets,
    pub(super) addressing: Addressing,
}

/// The peers of a NIC, wherever they are configured.
#[derive(Clone, Debug)]
pub(crate) struct PeerSource {
    vni: Vni,
    list: PeerList,
    rules: PeerRules,
}

impl PeerList {
    pub(super) fn of(mode: &Layer2Spec) -> Self {
        Self {
            options: mode.peers.clone(),
            file: mode.peers_file.clone(),
            seen: None,
        }
    }

    /// The text of the file; none without a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn text(&self) -> Result<String, PeersError> {
        let Some(path) = &self.file else {
            return Ok(String::new());
        };
        file::read(path).map_err(|error| match error {
            ReadError::Unreadable(why) => PeersError::Unreadable(path.clone(), why),
            ReadError::TooLarge => PeersError::TooLarge(path.clone()),
        })
    }

    /// The peers of the options and those of `text`, not yet checked against each other.
    ///
    /// # Errors
    /// The first line that is wrong by itself.
    pub(super) fn parse(&mut self, text: &str) -> Result<Vec<Placed>, PeersError> {
        self.seen = Some(file::digest(text));
        let listed = peers::parse(text).map_err(|error| PeersError::Line(self.path(), error))?;
        let of_options = self.options.iter().map(|peer| Placed {
            at: At::Option,
            peer: peer.clone(),
        });
        let of_file = listed.into_iter().map(|ListedPeer { line, peer }| Placed {
            at: At::Line(line),
            peer,
        });
        Ok(of_options.chain(of_file).collect())
    }

    fn path(&self) -> PathBuf {
        self.file.clone().unwrap_or_default()
    }

    /// The place of a peer.
    fn place(&self, at: At) -> Place {
        match at {
            At::Option => Place::Option,
            At::Line(line) => Place::Line(self.path(), line),
            At::Entry(index) => Place::Entry(index),
        }
    }

    /// Checks the peers against the network and each other, and leaves out the lines for this process itself, so that
    /// all processes can share one file.
    ///
    /// # Errors
    /// The first peer with a fault.
    pub(super) fn check(&self, peers: Vec<Placed>, rules: &PeerRules) -> Result<Vec<PeerConfig>, PeersError> {
        let mut seen = Seen::new(rules);
        let others = peers.into_iter().filter(|placed| placed.peer.vtep != rules.own);
        let checked = others.map(|Placed { at, peer }| match rules.check(&peer, &mut seen) {
            Ok(()) => Ok(peer),
            Err(fault) => Err(PeersError::Peer {
                place: self.place(at),
                fault,
            }),
        });
        checked.collect()
    }
}

impl PeerRules {
    fn check(&self, peer: &PeerConfig, seen: &mut Seen) -> Result<(), PeerFault> {
        let (vtep, own) = (peer.vtep, self.own);
        if let Some(subnet) = self.subnets.covering(vtep.ip()) {
            let address = vtep.ip();
            return Err(PeerFault::Underlay { subnet, address });
        }
        if vtep.ip().is_loopback() != own.ip().is_loopback() {
            return Err(PeerFault::Loopback { peer: vtep, own });
        }
        forwarding::check_endpoint(own, vtep)?;
        if peer.is_moved && peer.macs == [self.mac] {
            // This is the NIC's own guest, and these are its addresses.
            return seen
                .place
                .replace(vtep)
                .map_or(Ok(()), |_| Err(PeerFault::MacTwice(self.mac)));
        }
        if let Some(mac) = peer.macs.iter().find(|mac| !seen.macs.insert(**mac)) {
            return Err(PeerFault::MacTwice(*mac));
        }
        for address in &peer.addresses {
            if self.subnets.covering(*address).is_none() {
                return Err(PeerFault::Outside(*address));
            }
            if !seen.addresses.insert(*address) {
                return Err(PeerFault::AddressTwice(*address));
            }
        }
        match &peer.name {
            Some(name) if !seen.names.insert(name.to_ascii_lowercase()) => Err(PeerFault::NameTwice(name.clone())),
            _ => Ok(()),
        }
    }
}

impl PeerSource {
    pub(super) const fn new(vni: Vni, list: PeerList, rules: PeerRules) -> Self {
        Self { vni, list, rules }
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.list.file.as_deref()
    }

    /// The text of the file; none without a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn text(&self) -> Result<String, PeersError> {
        self.list.text()
    }

    /// True if the content of the file has changed since the last call of [`table`](Self::table).
    pub(crate) fn is_new(&self, text: &str) -> bool {
        self.list.seen != Some(file::digest(text))
    }

    /// The forwarding table of all peers with `text` as the content of the file, and their number.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn table(&mut self, text: &str) -> Result<(Table, usize), PeersError> {
        let placed = self.list.parse(text)?;
        self.table_of(placed)
    }

    /// The peers of the options, or those that replaced them.
    pub(crate) fn listed(&self) -> &[PeerConfig] {
        &self.list.options
    }

    /// Replaces the peers of the options. Returns the forwarding table of all peers, and their number.
    ///
    /// # Errors
    /// The first fault; nothing has changed then.
    pub(crate) fn replace(&mut self, peers: Vec<PeerConfig>) -> Result<(Table, usize), PeersError> {
        let placed = peers.iter().cloned().enumerate();
        let placed = placed.map(|(index, peer)| Placed {
            at: At::Entry(index),
            peer,
        });
        let made = self.table_of(placed.collect())?;
        self.list.options = peers;
        Ok(made)
    }

    fn table_of(&self, placed: Vec<Placed>) -> Result<(Table, usize), PeersError> {
        let peers = self.list.check(placed, &self.rules)?;
        match Table::new(self.vni, self.rules.own, &peers) {
            (table, errors) if errors.is_empty() => Ok((table, peers.len())),
            (_, mut errors) => Err(PeersError::Table(self.list.path(), errors.swap_remove(0))),
        }
    }
}

/// MACs, addresses and names that already belong to a guest or the gateway.
struct Seen {
    /// Endpoint of the NIC's own guest, if it is elsewhere.
    place: Option<SocketAddr>,
    macs: HashSet<MacAddr>,
    addresses: HashSet<IpAddr>,
    names: HashSet<String>,
}

impl Seen {
    fn new(rules: &PeerRules) -> Self {
        Self {
            place: None,
            macs: HashSet::from([rules.mac]),
            addresses: rules.addressing.guests().chain(rules.addressing.gateways()).collect(),
            names: HashSet::new(),
        }
    }
}
