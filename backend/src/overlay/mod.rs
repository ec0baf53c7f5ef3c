//! Layer2 mode: a guest on a network that spans nodes.
//!
//! ```text
//!  guest --- local       services: ARP, ND, DHCP, RA, for the gateway and every known peer;
//!        |               nat: what is for the gateway's MAC: sockets of the host
//!        '-- outbound -> sender ---> UDP, Geneve (RFC 8926) ---> other processes
//!            inbound <-- socket <---
//! ```
//!
//! In both directions, [`claims`] compares ARP and neighbour discovery with the table.
//!
//! Outside clients reach the guest through port forwards, which listen on sockets of the host.
//!
//! Each process is an endpoint of the tunnel. A frame goes to the endpoint to which its destination MAC is bound
//! ([`forwarding`](crate::forwarding)), and is accepted only from the endpoint of its source MAC. The gateway is in
//! every process, with the same MAC and address on all nodes, so a VM that moves has the same neighbour.

mod balancer;
mod claims;
mod event_owner;
mod following;
mod fragments;
mod groups;
mod handover;
mod inbound;
mod learned;
mod local;
mod name_server;
mod outbound;
mod paths;
mod probe;
mod residence;
mod sender;
mod services;
mod sockets;
mod view;
mod wire;

use crate::capture::Capture;
use crate::config::{Layer2Config, PortConfig};
use crate::counters::{Count, Counters, DropReason};
use crate::forwarding::{Table, TableError};
use crate::frame::{GuestBurst, GuestFrame, GuestSink, GuestSlice, Offload};
use crate::gso::gro::Arrival;
use crate::mode::{
    BoundForward, Departure, FlowCount, Following, HandoffError, Mode, ModeCommand, SavedMode, Unwritten,
};
use crate::nat::setup::NatSetup;
use crate::packet::geneve::ProbeAnswer;
use crate::packet::{Head, MacAddr};
use crate::poller::{Interest, Readiness, Token};
use crate::responder::Neighbours;
use crate::responder::dns::Names;
use crate::time::Instant;
use balancer::{Balancer, Balancing, Way};
use claims::Claims;
use groups::Groups;
use groups::Memberships;
pub use handover::formats;
use inbound::{Inbound, Network, cut};
use learned::{Learned, Places};
pub use local::GatewayError;
use local::Local;
use name_server::NameServer;
use outbound::{Outbound, Refusal};
use probe::{Probes, Verdict};
use residence::Residence;
use sender::{Limit, Sender};
use socket2::{Domain, Socket};
use sockets::{dns_forward, endpoint, names, probe_socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
pub use view::{Peers, TunnelView};

/// The reason why a layer2 port cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The endpoint's address or port is not available.
    #[error("cannot receive on the tunnel's endpoint {0}: {1}; give an address of this host and a free port")]
    Endpoint(SocketAddr, #[source] io::Error),
    /// A sending socket cannot be created.
    #[error("cannot send from the tunnel's endpoint {0}: {1}")]
    Sender(SocketAddr, #[source] io::Error),
    /// The peers contradict each other.
    #[error(transparent)]
    Peers(#[from] TableError),
    /// The gateway cannot be set up.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

/// The parts from which a layer2 port is made, one set per queue pair.
pub type OverlaySetup<'a> = NatSetup<'a, Layer2Config>;

/// The layer2 mode as one worker runs it.
pub struct Overlay {
    socket: Socket,
    peers: Arc<Peers>,
    view: Arc<TunnelView>,
    inbound: Inbound,
    outbound: Outbound,
    groups: Groups,
    learned: learned::View,
    claims: Claims,
    residence: Residence,
    local: Local,
    balancer: Balancer,
    /// On worker 0 of a network with a gateway.
    names: Option<NameServer>,
    following: Following,
    /// A frame on its way back to the guest.
    whole: Vec<u8>,
    /// Answers to probes that have just arrived.
    answers: Vec<(SocketAddr, ProbeAnswer)>,
    counters: Arc<Counters>,
}

/// State that the workers of a port share.
#[derive(Clone, Debug)]
pub struct OverlayState {
    memberships: Arc<Memberships>,
    learned: Arc<Learned>,
    balancing: Arc<Balancing>,
    /// The socket of the gateway's name server, and its address.
    names: Option<(Arc<Socket>, SocketAddr)>,
}

impl OverlayState {
    /// The state of a port with this configuration.
    pub fn new(port: &PortConfig, mode: &Layer2Config) -> Self {
        let workers = port.queue_pairs.get().into();
        Self {
            memberships: Memberships::new(mode),
            learned: Learned::new(),
            balancing: Arc::new(Balancing::new(mode, port.mac.unwrap_or_default(), workers)),
            names: names(mode),
        }
    }
}

debug_fields!(Overlay { local });

impl Overlay {
    /// Sets up a port of the network. When this returns, the endpoint receives datagrams. The workers of a port share
    /// `state`. `shared` is the endpoint's socket in another process, which this one continues.
    ///
    /// # Errors
    /// [`OverlayError`]
    pub fn new(setup: OverlaySetup<'_>, state: OverlayState, shared: Option<Socket>) -> Result<Self, OverlayError> {
        let (port, mode) = (setup.port, setup.mode);
        let socket = shared.map_or_else(|| endpoint(mode.vtep, port.queue_pairs.get() > 1), Ok);
        let socket = socket
            .and_then(|socket| {
                let token = Token::new(event_owner::TUNNEL, 0);
                setup.poller.add(&socket, token, Interest::ReadEdge)?;
                Ok(socket)
            })
            .map_err(|error| OverlayError::Endpoint(mode.vtep, error))?;
        let (table, errors) = Table::new(mode.vni, mode.vtep, &mode.peers);
        if let Some(error) = errors.into_iter().next() {
            return Err(error.into());
        }
        let table = Arc::new(table);
        let peers = Arc::new(Peers::follow(Arc::clone(&table), None));
        let mut sender = Sender::new(mode.vtep, Arc::clone(&peers), Arc::clone(&setup.counters))
            .map_err(|error| OverlayError::Sender(mode.vtep, error))?;
        if probe::probe(Domain::for_address(mode.vtep)) == Verdict::Unsound {
            setup.counters.add(Count::TunnelCutProbeFailed, 1);
            sender.set_usual(Limit::UNCUT);
        }
        let probes = probe_socket(&setup).map_err(|error| OverlayError::Sender(mode.vtep, error))?;
        let counters = Arc::clone(&setup.counters);
        let OverlayState {
            memberships,
            learned,
            balancing,
            names,
        } = state;
        let dns_stream = names.as_ref().map(|(_, at)| *at);
        let names = names.filter(|_| setup.worker == 0);
        let names = names.map(|(listener, _)| NameServer::new(listener, setup.poller.clone(), dns_forward(mode)));
        let names = names
            .transpose()
            .map_err(|error| OverlayError::Endpoint(mode.vtep, error))?;
        Ok(Self {
            socket,
            inbound: Inbound::new(mode.vtep, Arc::clone(&counters)),
            learned: learned::View::new(learned, Arc::clone(&counters)),
            groups: Groups::new(memberships, mode.station_mac(), setup.worker, Arc::clone(&counters)),
            claims: Claims::new(mode, port.mac),
            residence: Residence::new(port.mac, Instant::default(), &table),
            outbound: Outbound::new(sender, Probes::new(probes), port.mtu, Arc::clone(&counters)),
            balancer: Balancer::new(Arc::clone(&balancing), setup.worker, Arc::clone(&counters)),
            local: Local::new(setup, &table, balancing, dns_stream)?,
            names,
            following: Following::default(),
            whole: Vec::new(),
            view: Arc::new(TunnelView::new(Arc::clone(&peers))),
            peers,
            answers: Vec::new(),
            counters,
        })
    }

    /// Passes the outer packets of the tunnel to the captures that `capture` starts.
    pub fn set_capture(&mut self, capture: &Arc<Capture>) {
        self.inbound.set_capture(Arc::clone(capture));
        self.outbound.set_capture(Arc::clone(capture));
    }

    /// The peers, for readers on other threads.
    pub fn view(&self) -> Arc<TunnelView> {
        Arc::clone(&self.view)
    }

    /// Stops serving forwards and returns their listening sockets for a handover. Flows stay.
    pub fn release_listeners(&mut self) -> Vec<BoundForward> {
        self.local.release_listeners()
    }

    /// Replaces the table. Frames that are waiting for the guest are also checked against the new table. Addresses
    /// whose MAC has changed are announced to the guest, so that its neighbour cache does not keep the old MAC.
    fn set_peers(&mut self, now: Instant, table: Arc<Table>, sink: &mut dyn GuestSink) {
        let known = self.peers.table();
        if table
            .endpoints()
            .iter()
            .any(|endpoint| known.position_of(*endpoint).is_none())
        {
            self.groups.on_new_endpoints(now);
        }
        let others = table.moved_since(known).filter(|(_, mac)| !self.residence.is_of(*mac));
        self.local.announce(others, sink);
        self.residence.set_table(now, &table);
        self.peers = Arc::new(Peers::follow(Arc::clone(&table), Some(&self.peers)));
        self.outbound.set_peers(Arc::clone(&self.peers));
        self.inbound.forget_sender();
        self.local.set_peers(&table);
        self.balancer.set_peers(&table);
        self.view.publish(Arc::clone(&self.peers));
    }

    fn receive(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        let mut network = Network {
            now,
            table: self.peers.table(),
            peers: &self.peers,
            groups: &mut self.groups,
            claims: &self.claims,
            residence: &self.residence,
            balancer: &mut self.balancer,
            learned: &mut self.learned,
            answers: &mut self.answers,
        };
        self.inbound.receive(&self.socket, &mut network, sink);
        if !self.answers.is_empty() {
            self.answer_probes();
        }
    }

    /// Answers the probes of other processes, from the socket to which they were sent.
    #[cold]
    fn answer_probes(&mut self) {
        let vni = self.peers.table().vni();
        for (to, answer) in self.answers.drain(..) {
            // An answer that is lost is the same as one that the path loses.
            let _ = self.socket.send_to(&answer.to_bytes(vni), &to.into());
        }
    }

    /// Sends a frame of the guest into the tunnel.
    fn send(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        if let Err(reason) = self.claims.check_guest(self.peers.table(), frame) {
            self.counters.count_drop(reason);
            return;
        }
        self.send_as(now, frame, frame, sink);
    }

    /// Sends `frame` of the guest into the tunnel in the form `sent`.
    fn send_as(&mut self, now: Instant, frame: &GuestFrame<'_>, sent: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let mut places = Places {
            table: self.peers.table(),
            learned: &mut self.learned,
        };
        if let Err(Refusal::TooBig { mtu }) = self.outbound.send(now, sent, &mut places, &mut self.groups) {
            self.local.report_too_big(now, frame, mtu, sink);
        }
    }

    /// The part that handles a frame of the guest.
    #[inline]
    fn receiver(&mut self, now: Instant, frame: &GuestFrame<'_>) -> Receiver {
        if !self.local.takes(frame, self.peers.table()) {
            Receiver::Peers
        } else if self.balancer.takes(now, frame, |flow| self.local.has(flow)) {
            Receiver::Service
        } else {
            Receiver::Station
        }
    }

    /// Sends a frame of the guest to the endpoint of a Service.
    fn on_service(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let local = &self.local;
        let way = self
            .balancer
            .route(now, frame, self.peers.table(), |flow| local.has(flow));
        match way {
            Ok(Way::Tunnel(head)) => self.send_as(now, frame, &head.of(frame), sink),
            Ok(Way::Guest(head)) => self.send_back(&head.of(frame), sink),
            Ok(Way::Gateway) => self.local.on_packets(now, std::slice::from_ref(frame), sink),
            Err(reason) => self.counters.count_drop(reason),
        }
    }

    /// Sends a frame of the guest back to it.
    fn send_back(&mut self, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        self.whole.resize(frame.len, 0);
        frame.copy_to(0, &mut self.whole);
        let sent = if sink.caps().takes(frame.offload) {
            sink.send(frame.offload, &[&self.whole])
        } else {
            let arrival = Arrival {
                bytes: &self.whole,
                offload: frame.offload,
            };
            cut(arrival, &mut 0, sink)
        };
        if sent.is_err() {
            self.counters.count_drop(DropReason::NoRoom);
        }
    }

    /// Sends the gateway's queries for multicast groups that are due.
    fn send_queries(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        if self.residence.is_elsewhere() {
            return;
        }
        while let Some((query, is_for_endpoints)) = self.groups.take_query() {
            let (bytes, len) = query.frame();
            let frame = &bytes[..len];
            if sink.send(Offload::NONE, &[frame]).is_err() {
                self.counters.count_drop(DropReason::NoRoom);
            }
            if is_for_endpoints {
                let slices = [GuestSlice::from_bytes(frame)];
                // If a path does not carry this query, a later one replaces it.
                let _ = self.outbound.copy_to_all(&GuestFrame {
                    head: frame,
                    parsed: Head::parse(frame, len),
                    slices: &slices,
                    len,
                    offload: Offload::NONE,
                });
                self.outbound.flush(now);
            }
        }
    }
}

/// The part that handles a frame of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    /// Other stations of the network.
    Peers,
    /// The local station.
    Station,
    /// An endpoint of a Service.
    Service,
}

impl Neighbours for Table {
    fn mac_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.neighbour(address)
    }
}

impl Names for Table {
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.addresses_of(name).map(<[IpAddr]>::to_vec)
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        self.name_of(address).map(str::to_owned)
    }
}

impl Mode for Overlay {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        if self.residence.is_elsewhere() {
            burst
                .iter()
                .for_each(|_| self.counters.count_drop(DropReason::MovedAway));
            return;
        }
        let mut rest = burst;
        while let Some(first) = rest.first() {
            let receiver = self.receiver(now, first);
            let same = rest[1..]
                .iter()
                .take_while(|frame| self.receiver(now, frame) == receiver);
            let count = 1 + same.count();
            let (run, others) = rest.split_at(count);
            match receiver {
                Receiver::Station => {
                    self.local.on_packets(now, run, sink);
                    for frame in run {
                        if self.local.shares(frame) {
                            self.send(now, frame, sink);
                        }
                    }
                }
                Receiver::Service => run.iter().for_each(|frame| self.on_service(now, frame, sink)),
                Receiver::Peers => run.iter().for_each(|frame| self.send(now, frame, sink)),
            }
            rest = others;
        }
        self.outbound.flush(now);
        self.send_queries(now, sink);
    }

    fn after_burst(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        // Peers on the same host may already have answered, so that one interrupt can serve both directions.
        self.inbound.expect_datagrams();
        self.receive(now, sink);
    }

    fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        if token.owner == event_owner::PROBES {
            self.outbound.on_answers();
        } else if token.owner == event_owner::TUNNEL {
            self.inbound.expect_datagrams();
            self.receive(now, sink);
        } else if let Some(names) = &mut self.names
            && event_owner::NAME_SERVER.contains(&token.owner)
        {
            match self.local.dns() {
                Some(dns) if token.owner != event_owner::NAMES => names.on_event(now, token, dns),
                _ => names.accept(now),
            }
        } else {
            self.local.on_event(now, token, ready, sink);
        }
    }

    fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.following.deliver_late(sink);
        self.receive(now, sink);
        self.local.on_room(now, sink);
    }

    fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.local.on_timer(now, sink);
        self.outbound.on_timer(now);
        self.balancer.on_timer(now);
        if let (Some(names), Some(dns)) = (&mut self.names, self.local.dns()) {
            names.on_timer(now, dns);
        }
        self.groups.on_timer(now);
        self.send_queries(now, sink);
    }

    fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.local.deadline(),
            self.outbound.deadline(),
            self.groups.deadline(),
            self.balancer.deadline(),
            self.names.as_ref().and_then(NameServer::deadline),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn has_backlog(&self) -> bool {
        self.inbound.has_backlog() || self.local.has_backlog()
    }

    fn on_command(&mut self, now: Instant, command: ModeCommand, sink: &mut dyn GuestSink) -> io::Result<()> {
        match command {
            ModeCommand::Resolvers(resolvers) => {
                self.local.set_resolvers(now, &resolvers);
                if let Some(names) = &mut self.names {
                    names.set_servers(&resolvers.forward);
                }
                Ok(())
            }
            ModeCommand::Forwards(change) => self.local.change_forwards(change),
            ModeCommand::Peers(table) => {
                self.set_peers(now, table, sink);
                Ok(())
            }
            ModeCommand::Services(services) => {
                let reduced = self.balancer.set_services(services);
                self.local.end_services(&reduced)
            }
            ModeCommand::Mtu(mtu) => {
                self.local.set_mtu(now, mtu);
                Ok(())
            }
            ModeCommand::TakeIn => {
                self.local.take_in(now, sink);
                Ok(())
            }
            ModeCommand::EndConnections => {
                if let Some(engine) = self.local.engine() {
                    engine.end_connections(now, sink);
                }
                Ok(())
            }
            ModeCommand::Follow(step) => self.follow(now, step, sink),
            ModeCommand::Segment(_) | ModeCommand::Announce(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn flow_count(&self) -> FlowCount {
        self.local.flow_count()
    }

    fn share(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        self.share_sockets()
    }

    fn save_ahead(&mut self, now: Instant) -> Result<Option<Unwritten>, HandoffError> {
        self.save_flows_ahead(now)
    }

    fn load_ahead(&mut self, saved: SavedMode) -> Result<(), HandoffError> {
        self.load_flows_ahead(saved)
    }

    fn save(&mut self, now: Instant) -> Result<SavedMode, HandoffError> {
        self.save_mode(now)
    }

    fn load(&mut self, now: Instant, saved: SavedMode, sink: &mut dyn GuestSink) -> Result<(), HandoffError> {
        self.load_mode(now, saved, sink)
    }

    fn leave(&mut self) {
        if let Some(engine) = self.local.engine() {
            engine.leave_sockets();
        }
    }

    fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.local.on_link_up(now, sink);
        self.groups.on_link_up(now);
        self.following.on_link_up(sink);
        self.receive(now, sink);
    }

    fn on_reset(&mut self) {
        self.local.on_reset();
    }

    fn on_front_end_gone(&mut self, now: Instant, departure: Departure) {
        self.local.on_front_end_gone(now, departure);
    }

    fn on_link_down(&mut self, now: Instant) {
        self.local.on_link_down(now);
        self.following.on_link_down();
        self.inbound.stop();
        self.groups.on_link_down();
    }
}

#[cfg(test)]
mod tests;
