//! A served NIC, as the API, the event log and hotplug see it.
//!
//! These callers do not depend on how a NIC is served. A new kind of NIC is a variant here and in [`Nic`](super::Nic).
//! Functions that a kind does not support return `None`, and the API refuses the request with a reason.

use super::followed::{FileState, FollowedFile};
use super::passed_through::PassedThrough;
use super::peers::{ChangeError, NetworkPeers, PeersChange};
use crate::mode::Mode;
use crate::vmm::{Card, Passed};
use hawser_backend::capture::{Busy, CaptureRules, CaptureStream};
use hawser_backend::counters::{Counters, Gauge, PeerCounters};
use hawser_backend::policy::SnoopSource;
use hawser_backend::port::{ForwardError, PeerReport, Port};
use hawser_config::{Forward, Rates, TunnelEnd};
use hawser_manifest::plan::NicPlan;
use hawser_packet::MacAddr;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A served NIC. Clones are handles to the same NIC.
#[derive(Clone)]
pub(crate) enum ServedNic {
    /// hawser is the back end of the device.
    VhostUser {
        /// Port that serves the NIC.
        port: Arc<Port>,
        /// The peers of its network, if it is on one that spans nodes.
        peers: Option<NetworkPeers>,
        /// The file of its Services, if it follows one.
        services: Option<Arc<FollowedFile>>,
    },
    /// A virtual function that the VMM passes to the guest.
    PassedThrough(Arc<PassedThrough>),
}

/// State of a NIC.
#[derive(Clone, Debug)]
pub(crate) struct NicStatus {
    /// Name of the NIC.
    pub name: String,
    /// The guest's MAC, if it is known.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's device.
    pub mtu: u16,
    /// Mode of the NIC.
    pub mode: Mode,
    /// Number of queue pairs offered.
    pub queue_pairs: u16,
    /// True if the guest's link is up.
    pub link_up: bool,
    /// True if a driver in the guest has started the queues.
    pub driver_runs: bool,
    /// Addresses that the guest holds from hawser's DHCP servers.
    pub leased: Vec<IpAddr>,
    /// Addresses that the guest was seen to use, most recently seen first.
    pub seen: Vec<SeenAddress>,
    /// Problems that keep the guest from using the NIC as configured, one sentence each.
    pub warnings: Vec<String>,
    /// The virtual function of a NIC without a port.
    pub vf: Option<VfStatus>,
}

/// A virtual function that is passed to the guest.
#[derive(Clone, Debug)]
pub(crate) struct VfStatus {
    /// Its PCI address.
    pub address: String,
    /// Its number at its physical function.
    pub number: u32,
    /// Name of that.
    pub pf: String,
    /// Driver of that.
    pub driver: String,
    /// VLAN; 0: none.
    pub vlan: u16,
    /// Frames and bytes to the guest, and from the guest, if the driver counts them.
    pub traffic: Option<[u64; 4]>,
}

/// An address that the guest has used.
#[derive(Clone, Debug)]
pub(crate) struct SeenAddress {
    /// The address itself.
    pub address: IpAddr,
    /// MAC with which it was used.
    pub mac: MacAddr,
    /// Protocol in which it was seen: `arp`, `nd` or `dhcp`.
    pub source: &'static str,
}

/// Where packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CapturePlace {
    /// The guest's NIC.
    Nic,
    /// The tunnel's outer packets.
    Tunnel,
}

/// The local end of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelStatus {
    /// Network, and address and port of the end.
    pub end: TunnelEnd,
    /// Number of peers.
    pub peers: usize,
    /// Number of peers to which the host does not split batches as it should.
    pub limited_peers: u64,
}

/// Counters and state of a NIC, for the metrics.
#[derive(Debug)]
pub(crate) struct NicMetrics {
    /// Counters and gauges of the NIC.
    pub counters: Counters,
    /// True if the guest's link is up.
    pub link_up: bool,
    /// Reason why the NIC is no longer served. `None` while it is.
    pub failure: Option<String>,
    /// What became of the file of its network's peers.
    pub peers_file: FileState,
    /// What became of the file of its Services.
    pub services_file: FileState,
    /// The endpoints of its network, and what crossed to and from each.
    pub peers: Vec<(SocketAddr, PeerCounters)>,
}

impl ServedNic {
    /// Name of the NIC.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::VhostUser { port, .. } => &port.config().name,
            Self::PassedThrough(device) => &device.name,
        }
    }

    /// State of the NIC.
    pub(crate) fn status(&self) -> NicStatus {
        match self {
            Self::VhostUser { port, .. } => NicStatus {
                warnings: warnings(port, [self.peers_file(), self.services_file()]),
                ..status(port)
            },
            Self::PassedThrough(device) => device.status(),
        }
    }

    /// The local end of a tunnel. `None` if the NIC's network does not span nodes.
    pub(crate) fn tunnel(&self) -> Option<TunnelStatus> {
        match self {
            Self::VhostUser { port, .. } => port.config().mode.properties().tunnel().map(|end| TunnelStatus {
                end,
                peers: port.peer_count(),
                limited_peers: port.counters().level(Gauge::TunnelLimitedPeers),
            }),
            Self::PassedThrough(_) => None,
        }
    }

    /// The peers of a network that spans nodes.
    pub(crate) fn peers(&self) -> Vec<PeerReport> {
        match self {
            Self::VhostUser { port, .. } => port.peers(),
            Self::PassedThrough(_) => Vec::new(),
        }
    }

    /// The peers file of the network, if the NIC follows one.
    pub(crate) fn peers_file(&self) -> Option<&FollowedFile> {
        match self {
            Self::VhostUser { peers, .. } => peers.as_ref()?.file(),
            Self::PassedThrough(_) => None,
        }
    }

    /// Changes the peers of its network; `None` if it is on none that spans nodes, or a file has them.
    pub(crate) fn change_peers(&self, change: PeersChange, epoch: Option<u64>) -> Option<Result<(), ChangeError>> {
        match self {
            Self::VhostUser { port, peers, .. } => Some(peers.as_ref()?.list()?.change(port, change, epoch)),
            Self::PassedThrough(_) => None,
        }
    }

    /// Number of the last change of its peers that had one.
    pub(crate) fn peers_epoch(&self) -> Option<u64> {
        match self {
            Self::VhostUser { peers, .. } => peers.as_ref()?.list()?.epoch(),
            Self::PassedThrough(_) => None,
        }
    }

    /// The file of Services, if the NIC follows one.
    pub(crate) fn services_file(&self) -> Option<&FollowedFile> {
        match self {
            Self::VhostUser { services, .. } => services.as_deref(),
            Self::PassedThrough(_) => None,
        }
    }

    /// The addresses that the guest was seen to use, most recently seen first.
    pub(crate) fn seen(&self) -> Vec<SeenAddress> {
        match self {
            Self::VhostUser { port, .. } => seen(port),
            Self::PassedThrough(_) => Vec::new(),
        }
    }

    /// Counters and state of the NIC, for the metrics.
    pub(crate) fn metrics(&self) -> NicMetrics {
        match self {
            Self::VhostUser { port, .. } => NicMetrics {
                counters: port.counters(),
                link_up: port.link().is_up(),
                failure: port.health().failure().map(str::to_owned),
                peers_file: self.peers_file().map(FollowedFile::state).unwrap_or_default(),
                services_file: self.services_file().map(FollowedFile::state).unwrap_or_default(),
                peers: port.peer_counters(),
            },
            Self::PassedThrough(device) => device.metrics(),
        }
    }

    /// The flags that plug the NIC of the plan into a VMM. `None` if it has none.
    pub(crate) fn card<'a>(&'a self, plan: &'a NicPlan) -> Option<Card<'a>> {
        match self {
            Self::VhostUser { port, .. } => Some(Card {
                socket: &plan.socket,
                vmm_listens: false,
                port: port.config().into(),
                device: plan.device.clone(),
                bus: None,
            }),
            Self::PassedThrough(_) => None,
        }
    }

    /// Flags that plug a virtual function into a VMM; `None` for other NICs.
    pub(crate) fn passed(&self) -> Option<Passed<'_>> {
        match self {
            Self::VhostUser { .. } => None,
            Self::PassedThrough(device) => device.card(),
        }
    }

    /// True if the guest's link is up.
    pub(crate) fn is_link_up(&self) -> bool {
        match self {
            Self::VhostUser { port, .. } => port.link().is_up(),
            Self::PassedThrough(device) => device.is_link_up(),
        }
    }

    /// True if the operator has set the link up.
    pub(crate) fn is_link_wanted(&self) -> bool {
        match self {
            Self::VhostUser { port, .. } => port.link().is_wanted(),
            Self::PassedThrough(device) => device.is_link_wanted(),
        }
    }

    /// True if the VMM accepts changes of the link state from hawser.
    pub(crate) fn is_link_told(&self) -> bool {
        match self {
            Self::VhostUser { port, .. } => port.link().is_told(),
            Self::PassedThrough(_) => true,
        }
    }

    /// Tells the segment of a port that the guest is there. False if the NIC has no port.
    pub(crate) fn announce(&self) -> bool {
        match self {
            Self::VhostUser { port, .. } => {
                port.announce(port.config().mac);
                true
            }
            Self::PassedThrough(_) => false,
        }
    }

    /// Sets the link up or down.
    pub(crate) fn set_link(&self, up: bool) {
        match self {
            Self::VhostUser { port, .. } => port.set_link(up),
            Self::PassedThrough(device) => device.set_link(up),
        }
    }

    /// The port forwards to the guest.
    pub(crate) fn forwards(&self) -> Vec<Forward> {
        match self {
            Self::VhostUser { port, .. } => port.forwards(),
            Self::PassedThrough(_) => Vec::new(),
        }
    }

    /// Adds a forward.
    ///
    /// # Errors
    /// [`ForwardError`]
    pub(crate) fn add_forward(&self, forward: &Forward) -> Result<(), ForwardError> {
        match self {
            Self::VhostUser { port, .. } => port.add_forward(forward),
            Self::PassedThrough(_) => Err(ForwardError::NoGateway),
        }
    }

    /// Removes the forward with the transport, address and ports of `forward` on the host, and
    /// returns it.
    ///
    /// # Errors
    /// [`ForwardError`]
    pub(crate) fn remove_forward(&self, forward: &Forward) -> Result<Forward, ForwardError> {
        match self {
            Self::VhostUser { port, .. } => port.remove_forward(forward),
            Self::PassedThrough(_) => Err(ForwardError::NoGateway),
        }
    }

    /// The rate limits. `None` if hawser does not limit the NIC.
    pub(crate) fn rates(&self) -> Option<Rates> {
        match self {
            Self::VhostUser { port, .. } => Some(port.rates()),
            Self::PassedThrough(_) => None,
        }
    }

    /// Replaces the rate limits. `None` if hawser does not limit the NIC.
    pub(crate) fn set_rates(&self, rates: Rates) -> Option<()> {
        match self {
            Self::VhostUser { port, .. } => {
                port.set_rates(rates);
                Some(())
            }
            Self::PassedThrough(_) => None,
        }
    }

    /// Starts a capture. `None` if no packets pass through hawser at this place.
    pub(crate) fn capture(&self, place: CapturePlace, rules: CaptureRules) -> Option<Result<CaptureStream, Busy>> {
        match (self, place) {
            (Self::VhostUser { port, .. }, CapturePlace::Nic) => Some(port.capture().start(rules)),
            (Self::VhostUser { port, .. }, CapturePlace::Tunnel) => Some(port.outer_capture()?.start(rules)),
            (Self::PassedThrough(_), _) => None,
        }
    }
}

fn status(port: &Port) -> NicStatus {
    let config = port.config();
    let seen = seen(port);
    let last_used = || seen.first().map(|seen| seen.mac);
    NicStatus {
        name: config.name.clone(),
        mac: port.nic_state().mac().or(config.mac).or_else(last_used),
        mtu: config.mtu,
        mode: Mode::of(&config.mode),
        queue_pairs: config.queue_pairs.get(),
        link_up: port.link().is_up(),
        driver_runs: port.counters().level(Gauge::QueuePairs) > 0,
        leased: leased(port),
        seen,
        warnings: Vec::new(),
        vf: None,
    }
}

fn seen(port: &Port) -> Vec<SeenAddress> {
    let seen = port.snooped().into_iter().map(|(snooped, _)| SeenAddress {
        address: snooped.address,
        mac: snooped.mac,
        source: match snooped.source {
            SnoopSource::Arp => "arp",
            SnoopSource::NeighbourDiscovery => "nd",
            SnoopSource::Dhcp => "dhcp",
        },
    });
    seen.collect()
}

/// The addresses that the guest holds from hawser's own DHCP servers.
fn leased(port: &Port) -> Vec<IpAddr> {
    let held = port.held_leases();
    let [v4, v6] = port.config().mode.properties().leases();
    let held = [v4.filter(|_| held.has_v4()), v6.filter(|_| held.has_v6())];
    held.into_iter().flatten().collect()
}

fn warnings(port: &Port, files: [Option<&FollowedFile>; 2]) -> Vec<String> {
    let stranger = port.held_leases().stranger();
    let of_lease = stranger
        .zip(port.config().mode.properties().lease_client())
        .map(|(stranger, client)| {
            format!("the guest requests its address with the MAC {stranger}, but the lease is for {client}")
        });
    let failed = port.health().failure();
    let of_failure = failed.map(|why| format!("it has failed and is no longer served: {why}"));
    let of_files = files.into_iter().flatten().filter_map(FollowedFile::warning);
    of_failure.into_iter().chain(of_lease).chain(of_files).collect()
}
