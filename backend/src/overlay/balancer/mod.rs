//! Services of the cluster (ClusterIP), as the guest reaches them through its gateway.
//!
//! ```text
//!  guest --- to a virtual address ---> balancer -- endpoint in the network ---> tunnel     new ends: guest > endpoint
//!                                         |------- the guest itself ---------> guest       gateway > guest
//!                                         '------- anywhere else, or none ---> NAT engine  a socket to the endpoint
//!  guest <-- from the virtual address --- balancer <-- packets of the endpoint
//! ```
//!
//! For an endpoint in the network, the balancer changes addresses and ports of each packet ([`rewrite`]): the guest
//! only sees the virtual address, and the endpoint only the guest's own. A guest that is its own endpoint sees the
//! gateway as its client. All other flows belong to the NAT engine, which asks [`Balancing`] for the endpoint once, when
//! a flow opens.
//!
//! A reply may arrive at any worker. So each worker has all flows of the port; a new one is put into the mailboxes of
//! the others, which look there when a version number has changed.

mod flows;
mod rewrite;
mod saved;

pub(super) use saved::SavedServiceFlow;

use crate::balance::{Choice, Chooser, ServiceTable, Virtual};
use crate::config::{Layer2Config, NetworkRole};
use crate::counters::{Count, Counters, DropReason};
use crate::forwarding::Table;
use crate::frame::{Checksum, GuestFrame, HEAD_MAX};
use crate::nat::address_map::{Balance, Destination};
use crate::packet::geneve::{GenevePacket, Vni};
use crate::packet::{EthernetHeader, FlowId, Head, MacAddr, TcpFlags, protocol};
use crate::time::Instant;
use flows::{Flow, Flows, From};
use ipnet::IpNet;
use rewrite::{Ends, ends, rewrite};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Interval at which idle flows are removed.
const SWEEP: Duration = Duration::from_secs(10);
/// Offset of the flags in a TCP header.
const TCP_FLAGS: usize = 13;

/// The Services of a port, and the flows to them that its workers share.
#[derive(Debug)]
pub(super) struct Balancing {
    shared: Mutex<Shared>,
    /// Number of flows that were put into mailboxes.
    version: AtomicU64,
    own: [Option<IpNet>; 2],
    gateways: [Option<IpAddr>; 2],
    gateway_mac: MacAddr,
    guest_mac: MacAddr,
}

#[derive(Debug)]
struct Shared {
    chooser: Chooser,
    peers: Arc<Table>,
    /// New flows of other workers, for each worker.
    mail: Vec<Vec<Arc<Flow>>>,
}

/// The location of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The address is the guest's.
    Own,
    /// The address is on the network, at this MAC if that is known.
    Network(Option<MacAddr>),
    /// The address is behind the gateway.
    Outside,
}

impl Balancing {
    /// The Services of a port with this configuration and `workers` workers.
    pub(super) fn new(mode: &Layer2Config, guest_mac: MacAddr, workers: usize) -> Self {
        let (services, gateways) = match &mode.role {
            NetworkRole::Primary(network) => (
                network.services.as_slice(),
                [
                    network.ipv4.map(|link| link.gateway.into()),
                    network.ipv6.map(|link| link.gateway.into()),
                ],
            ),
            NetworkRole::Secondary(_) => (&[][..], [None; 2]),
        };
        let mut chooser = Chooser::default();
        chooser.set_table(Arc::new(ServiceTable::new(services)));
        let (peers, _) = Table::new(mode.vni, mode.vtep, &mode.peers);
        Self {
            shared: Mutex::new(Shared {
                chooser,
                peers: Arc::new(peers),
                mail: vec![Vec::new(); workers],
            }),
            version: AtomicU64::new(0),
            own: mode.addresses(),
            gateways,
            gateway_mac: mode.station_mac(),
            guest_mac,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, peers: &Table, address: IpAddr) -> Place {
        let mut own = self.own.iter().flatten();
        match own.find(|net| net.contains(&address)) {
            Some(net) if net.addr() == address => Place::Own,
            Some(_) => Place::Network(peers.mac_of(address)),
            None => Place::Outside,
        }
    }

    /// The guest's or the gateway's address of the family of `like`.
    fn of_family(addresses: impl IntoIterator<Item = IpAddr>, like: IpAddr) -> Option<IpAddr> {
        addresses
            .into_iter()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }

    fn choose(&self, shared: &mut Shared, now: Instant, key: &FlowId) -> Choice {
        let Shared { chooser, peers, .. } = shared;
        chooser.choose(now, key, |address| {
            // An endpoint of the network that is not a peer cannot be reached.
            self.place(peers, address) != Place::Network(None)
        })
    }
}

impl Balance for Balancing {
    fn destination(&self, now: Instant, flow: &FlowId) -> Option<Destination> {
        let mut shared = self.lock();
        match self.choose(&mut shared, now, flow) {
            Choice::NoService => None,
            Choice::Closed => Some(Destination::Gateway),
            Choice::Endpoint(chosen) => Some(match self.place(&shared.peers, chosen.endpoint.ip()) {
                Place::Outside => Destination::World(chosen.endpoint),
                // Only a fragmented datagram arrives here: the balancer handles all other packets.
                Place::Own | Place::Network(_) => Destination::Refused(DropReason::ServiceFragment),
            }),
        }
    }
}

/// The path of a packet to a Service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Through the tunnel, with another head.
    Tunnel(NewHead),
    /// Back to the guest, with another head.
    Guest(NewHead),
    /// To the NAT engine, unchanged.
    Gateway,
}

/// The head of a frame with other addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewHead {
    bytes: [u8; HEAD_MAX],
    len: usize,
}

impl NewHead {
    /// The frame with this head instead of its own.
    pub(super) fn of<'a>(&'a self, frame: &GuestFrame<'a>) -> GuestFrame<'a> {
        GuestFrame {
            head: &self.bytes[..self.len],
            ..*frame
        }
    }
}

/// The flows to Services, on one worker.
pub(super) struct Balancer {
    balancing: Arc<Balancing>,
    worker: usize,
    services: Arc<ServiceTable>,
    flows: Flows,
    /// Version up to which the mailbox was emptied.
    version: u64,
    sweep_at: Option<Instant>,
    counters: Arc<Counters>,
}

impl Balancer {
    pub(super) fn new(balancing: Arc<Balancing>, worker: usize, counters: Arc<Counters>) -> Self {
        let services = Arc::clone(balancing.lock().chooser.table());
        Self {
            balancing,
            worker,
            services,
            flows: Flows::default(),
            version: 0,
            sweep_at: None,
            counters,
        }
    }

    /// Replaces the Services, and returns the ports that have lost an endpoint. Connections to such an endpoint stay,
    /// because it may be shutting down; its UDP flows end.
    pub(super) fn set_services(&mut self, services: Arc<ServiceTable>) -> Vec<Virtual> {
        let before = std::mem::replace(&mut self.services, Arc::clone(&services));
        let mut shared = self.balancing.lock();
        if !Arc::ptr_eq(shared.chooser.table(), &services) {
            shared.chooser.set_table(services);
        }
        drop(shared);
        let services = &self.services;
        self.flows.retain(|flow| {
            flow.key.protocol != protocol::UDP || services.leads_to(&flow.virtual_port(), flow.endpoint)
        });
        services.reduced_since(&before).collect()
    }

    /// Replaces the peers, among which endpoints are found.
    pub(super) fn set_peers(&self, peers: &Arc<Table>) {
        self.balancing.lock().peers = Arc::clone(peers);
    }

    /// True if replies of endpoints may arrive.
    #[inline]
    pub(super) fn has_flows(&mut self, now: Instant) -> bool {
        self.renew(now);
        !self.flows.is_empty()
    }

    /// Takes over new flows of other workers.
    #[inline]
    fn renew(&mut self, now: Instant) {
        if self.balancing.version.load(Ordering::Acquire) != self.version {
            self.empty_mailbox(now);
        }
    }

    #[cold]
    fn empty_mailbox(&mut self, now: Instant) {
        let mut shared = self.balancing.lock();
        self.version = self.balancing.version.load(Ordering::Acquire);
        let mail = shared.mail.get_mut(self.worker).map(std::mem::take).unwrap_or_default();
        drop(shared);
        mail.into_iter().for_each(|flow| self.flows.enter(flow));
        self.sweep_at.get_or_insert(now + SWEEP);
    }

    /// True for a frame to the gateway that [`route`](Self::route) handles. `is_elsewhere` says whether the NAT engine has
    /// a flow.
    #[inline]
    pub(super) fn takes(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        is_elsewhere: impl Fn(&FlowId) -> bool,
    ) -> bool {
        let has_flows = self.has_flows(now);
        (has_flows || !self.services.is_empty()) && self.wants(frame, is_elsewhere)
    }

    fn wants(&self, frame: &GuestFrame<'_>, is_elsewhere: impl Fn(&FlowId) -> bool) -> bool {
        let Some((key, flags)) = key_of(frame) else {
            return false;
        };
        // The engine refuses other sources.
        let mut own = self.balancing.own.iter().flatten();
        if !own.any(|own| own.addr() == key.guest) {
            return false;
        }
        if !self.flows.is_empty() && (self.flows.forth(&key).is_some() || self.answered(&key).is_some()) {
            return true;
        }
        let is_opening = key.protocol == protocol::UDP || is_syn(flags);
        is_opening && self.services.has_address(key.remote) && !is_elsewhere(&key)
    }

    /// The flow to which a packet of the guest to the gateway is a reply by the guest itself.
    fn answered(&self, key: &FlowId) -> Option<&Arc<Flow>> {
        let is_to_gateway = self.balancing.gateways.contains(&Some(key.remote));
        let flow = self.flows.back(&reversed(key)).filter(|_| is_to_gateway);
        flow.filter(|flow| flow.is_hairpin())
    }

    /// The way of a frame for which [`takes`](Self::takes) is true.
    ///
    /// # Errors
    /// The reason for dropping it.
    pub(super) fn route(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        peers: &Table,
        is_elsewhere: impl Fn(&FlowId) -> bool,
    ) -> Result<Way, DropReason> {
        let (key, flags) = key_of(frame).ok_or(DropReason::Truncated)?;
        if let Some(flow) = self.answered(&key).cloned() {
            // The packet is a reply of the guest itself.
            flow.on_packet(now, From::Endpoint, flags);
            let ends = Ends {
                src: flow.key.remote_end(),
                dst: flow.key.guest_end(),
            };
            return self.to_guest(frame, ends);
        }
        let known = self.flows.forth(&key).cloned();
        // The guest opens a new connection with the ports of an earlier one that has ended.
        let known = known.filter(|flow| !(is_syn(flags) && flow.is_closed()));
        let flow = match known {
            Some(flow) => flow,
            None => match self.open(now, key, is_elsewhere)? {
                Some(flow) => flow,
                None => return Ok(Way::Gateway),
            },
        };
        flow.on_packet(now, From::Guest, flags);
        let ends = Ends {
            src: flow.client,
            dst: flow.endpoint,
        };
        if flow.is_hairpin() {
            return self.to_guest(frame, ends);
        }
        let mac = peers.mac_of(flow.endpoint.ip()).ok_or(DropReason::NoSuchNeighbour)?;
        new_head(frame, ends, mac, None).map(Way::Tunnel)
    }

    fn to_guest(&self, frame: &GuestFrame<'_>, ends: Ends) -> Result<Way, DropReason> {
        let Balancing {
            guest_mac, gateway_mac, ..
        } = *self.balancing;
        new_head(frame, ends, guest_mac, Some(gateway_mac)).map(Way::Guest)
    }

    /// Enters a new flow to an endpoint in the network; `None` if its endpoint is elsewhere.
    fn open(
        &mut self,
        now: Instant,
        key: FlowId,
        is_elsewhere: impl Fn(&FlowId) -> bool,
    ) -> Result<Option<Arc<Flow>>, DropReason> {
        let balancing = Arc::clone(&self.balancing);
        let mut shared = balancing.lock();
        // Flows of other workers matter for the choice of the port.
        let mail = shared.mail.get_mut(self.worker).map(std::mem::take).unwrap_or_default();
        mail.into_iter().for_each(|flow| self.flows.enter(flow));
        self.flows.remove(&key);
        let Choice::Endpoint(chosen) = balancing.choose(&mut shared, now, &key) else {
            return Ok(None);
        };
        let client = match balancing.place(&shared.peers, chosen.endpoint.ip()) {
            Place::Outside => return Ok(None),
            Place::Network(_) => key.guest_end(),
            Place::Own => {
                let gateways = balancing.gateways.into_iter().flatten();
                let gateway = Balancing::of_family(gateways, key.guest).ok_or(DropReason::NoSuchNeighbour)?;
                SocketAddr::new(gateway, key.guest_port)
            }
        };
        let is_taken = |back: &FlowId| is_elsewhere(&reversed(back));
        let flow = self
            .flows
            .make(now, key, chosen, client, is_taken)
            .ok_or(DropReason::FlowLimit)?;
        self.enter(now, &mut shared, Arc::clone(&flow));
        drop(shared);
        self.counters.add(Count::ServiceFlows, 1);
        Ok(Some(flow))
    }

    /// Enters a flow here, and for the other workers.
    fn enter(&mut self, now: Instant, shared: &mut Shared, flow: Arc<Flow>) {
        if shared.mail.len() > 1 {
            let others = shared.mail.iter_mut().enumerate();
            for (_, mail) in others.filter(|(worker, _)| *worker != self.worker) {
                // Ended flows are removed from the mailbox of a worker that does not read it.
                if mail.len() >= mail.capacity() {
                    mail.retain(|flow| Arc::strong_count(flow) > 1);
                }
                mail.push(Arc::clone(&flow));
            }
            self.version = self.balancing.version.fetch_add(1, Ordering::Release) + 1;
        }
        self.flows.enter(flow);
        self.sweep_at.get_or_insert(now + SWEEP);
    }

    /// Sets the virtual address as the source of a datagram from the tunnel that carries a packet of an endpoint.
    pub(super) fn translate(&self, now: Instant, vni: Vni, datagram: &mut [u8]) {
        let Ok(packet) = GenevePacket::parse(datagram, datagram.len()) else {
            return;
        };
        let Ok(at) = packet.frame() else { return };
        if packet.vni != vni {
            return;
        }
        let is_partial = packet.frame_option.is_some_and(|option| option.is_checksum_partial);
        let frame = &mut datagram[at..];
        let head = Head::parse(frame, frame.len());
        let Some((from, protocol)) = ends(frame, &head) else {
            return;
        };
        let key = FlowId {
            guest: from.dst.ip(),
            guest_port: from.dst.port(),
            remote: from.src.ip(),
            remote_port: from.src.port(),
            protocol,
        };
        let Some(flow) = self.flows.back(&key).filter(|flow| !flow.is_hairpin()) else {
            return;
        };
        flow.on_packet(now, From::Endpoint, flags_of(frame, &head));
        let ends = Ends {
            src: flow.key.remote_end(),
            dst: flow.key.guest_end(),
        };
        // Packets with truncated headers are refused later.
        let _ = rewrite(frame, &head, ends, is_partial);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Removes idle flows.
    pub(super) fn on_timer(&mut self, now: Instant) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.renew(now);
            self.flows.sweep(now);
            self.sweep_at = (!self.flows.is_empty()).then(|| now + SWEEP);
        }
    }
}

/// The flow of a TCP or UDP packet of the guest, and its TCP flags.
fn key_of(frame: &GuestFrame<'_>) -> Option<(FlowId, TcpFlags)> {
    let (ends, protocol) = ends(frame.head, &frame.parsed)?;
    let key = FlowId {
        guest: ends.src.ip(),
        guest_port: ends.src.port(),
        remote: ends.dst.ip(),
        remote_port: ends.dst.port(),
        protocol,
    };
    Some((key, flags_of(frame.head, &frame.parsed)))
}

/// The flow with its ends exchanged.
const fn reversed(key: &FlowId) -> FlowId {
    FlowId {
        guest: key.remote,
        guest_port: key.remote_port,
        remote: key.guest,
        remote_port: key.guest_port,
        protocol: key.protocol,
    }
}

/// The flags of a TCP segment; none for any other packet.
fn flags_of(bytes: &[u8], head: &Head) -> TcpFlags {
    let tcp = head.whole_transport().filter(|at| at.protocol == protocol::TCP);
    let flags = tcp.and_then(|at| bytes.get(at.offset + TCP_FLAGS));
    TcpFlags(flags.copied().unwrap_or_default())
}

/// True for the first segment of a connection.
const fn is_syn(flags: TcpFlags) -> bool {
    flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK)
}

/// The head of `frame` with these ends and this destination MAC, and with this source MAC if there is one.
fn new_head(frame: &GuestFrame<'_>, ends: Ends, to: MacAddr, from: Option<MacAddr>) -> Result<NewHead, DropReason> {
    let mut head = NewHead {
        bytes: [0; HEAD_MAX],
        len: frame.head.len(),
    };
    let bytes = &mut head.bytes[..frame.head.len()];
    bytes.copy_from_slice(frame.head);
    let is_partial = matches!(frame.offload.checksum, Checksum::Partial { .. });
    if !rewrite(bytes, &frame.parsed, ends, is_partial) {
        return Err(DropReason::HeadersTooLong);
    }
    bytes[EthernetHeader::DST].copy_from_slice(&to.0);
    if let Some(from) = from {
        bytes[EthernetHeader::SRC].copy_from_slice(&from.0);
    }
    Ok(head)
}
