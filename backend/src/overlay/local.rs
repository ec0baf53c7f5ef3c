//! The local station that every process of a network provides for its own guest.
//!
//! On a primary network it is the gateway, with services, and with the NAT engine for all other traffic from the guest.
//! On a secondary network it is a DHCP server that also answers ARP and neighbour discovery for the peers, and does not
//! forward. Without a subnet there is no station.

use super::OverlaySetup;
use super::services::LocalServices;
use crate::balance::Virtual;
use crate::config::{
    Ipv4Link, Ipv6Link, Layer2Config, Neighbourhood, NetworkRole, PrimaryNetwork, Resolvers, SecondaryNetwork,
};
use crate::counters::{Counters, DropReason};
use crate::forwarding::Table;
use crate::frame::{GuestBurst, GuestFrame, GuestSink};
use crate::mode::{BoundForward, Departure, FlowCount, ForwardChange, Origin};
use crate::nat::address_map::{AddressMap, Balance};
use crate::nat::engine::{Engine, EngineConfig, EngineError, Service, Services as _};
use crate::nat::icmp::TooBigReporter;
use crate::nat::link::{GuestAddresses, Link};
use crate::nat::listen::ListenError;
use crate::packet::membership::is_membership;
use crate::packet::{FlowId, MacAddr, protocol};
use crate::poller::{Readiness, Token};
use crate::responder::dns::Dns;
use crate::responder::{Convention, ServiceConfig, Station, is_router_solicitation, solicited};
use crate::time::Instant;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The local station as one worker serves it.
#[derive(Debug)]
pub(super) struct Local {
    /// MAC of the station; `None` if there is none.
    mac: Option<MacAddr>,
    services: LocalServices,
    beyond: Beyond,
    /// True for the first worker of a port, which announces changes to the guest.
    is_first: bool,
    /// True while the guest's driver is up.
    is_up: bool,
}

/// The network beyond the station.
#[derive(Debug)]
enum Beyond {
    /// The outside world, reached through NAT.
    World(Box<Engine>),
    Nothing {
        errors: TooBigReporter,
        counters: Arc<Counters>,
    },
}

/// The gateway cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A port of `--port` cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The NAT engine cannot be created.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The links for which the services answer. On a secondary network the server takes the gateway's place.
#[derive(Clone, Copy)]
struct Links {
    ipv4: Option<Ipv4Link>,
    ipv6: Option<Ipv6Link>,
}

impl Links {
    const fn of_primary(network: &PrimaryNetwork) -> Self {
        Self {
            ipv4: network.ipv4,
            ipv6: network.ipv6,
        }
    }

    fn of_secondary(network: SecondaryNetwork) -> Self {
        Self {
            ipv4: network.ipv4.map(|net| Ipv4Link {
                network: net.trunc(),
                gateway: Layer2Config::SERVER_IPV4,
                guest: net.addr(),
            }),
            ipv6: network.ipv6.map(|net| Ipv6Link {
                network: net.trunc(),
                gateway: Layer2Config::SERVER_MAC.link_local(),
                guest: net.addr(),
            }),
        }
    }
}

impl Local {
    /// The station of a port. When this returns, worker 0 listens for its forwards.
    ///
    /// # Errors
    /// [`GatewayError`]
    pub(super) fn new(
        setup: OverlaySetup<'_>,
        table: &Arc<Table>,
        balance: Arc<dyn Balance>,
        dns_stream: Option<SocketAddr>,
    ) -> Result<Self, GatewayError> {
        let mode = setup.mode;
        let mac = mode.station_mac();
        let (links, station) = match &mode.role {
            NetworkRole::Primary(network) => (Links::of_primary(network), Station::Router),
            NetworkRole::Secondary(network) => (Links::of_secondary(*network), Station::AddressServer),
        };
        let services = ServiceConfig {
            gateway: mac,
            station,
            ipv4: links.ipv4,
            ipv6: links.ipv6,
            aliases: Vec::new(),
            names: mode.names.clone(),
            mtu: setup.port.mtu,
            held: Arc::clone(&setup.held),
            advertise: setup.worker == 0,
            // The network assigns the addresses, as in OVN-Kubernetes.
            autoconfigures: false,
            convention: Convention::OvnKubernetes,
            neighbourhood: Neighbourhood::Private,
        };
        let services = LocalServices::new(services, mode, table, Arc::clone(&setup.counters));
        let has_subnet = links.ipv4.is_some() || links.ipv6.is_some();
        Ok(Self {
            mac: has_subnet.then_some(mac),
            services,
            is_first: setup.worker == 0,
            is_up: false,
            beyond: match &mode.role {
                NetworkRole::Primary(network) => {
                    Beyond::World(Box::new(engine(setup, network, links, balance, dns_stream)?))
                }
                NetworkRole::Secondary(_) => Beyond::Nothing {
                    // ICMP errors are sent from the server's addresses, even where nothing else is.
                    errors: TooBigReporter::new(Link {
                        gateway_ipv4: Some(Layer2Config::SERVER_IPV4),
                        gateway_ipv6: Some(mac.link_local()),
                        ..link(&setup, links)
                    }),
                    counters: setup.counters,
                },
            },
        })
    }

    /// True for frames that the station handles.
    #[inline]
    pub(super) fn takes(&self, frame: &GuestFrame<'_>, table: &Table) -> bool {
        match frame.parsed.destination_mac(frame.head) {
            Some(mac) if Some(mac) == self.mac => true,
            Some(mac) if mac.is_multicast() => {
                self.services.link.wants(frame)
                    && !is_membership(frame.head, &frame.parsed)
                    && !self.is_for_peers(frame, table)
            }
            Some(_) => false,
            None => true,
        }
    }

    /// True for a solicitation of a link-local address that a guest may have chosen itself, so that only the guests can
    /// answer.
    fn is_for_peers(&self, frame: &GuestFrame<'_>, table: &Table) -> bool {
        solicited(frame.head, &frame.parsed).is_some_and(|target| {
            let is_station = self.mac.is_some_and(|mac| mac.link_local() == target);
            target.is_unicast_link_local() && !is_station && table.neighbour(target.into()).is_none()
        })
    }

    /// True for a frame that goes to the peers as well as to the station. Without a gateway, a guest may be a router
    /// and answer a solicitation.
    pub(super) fn shares(&self, frame: &GuestFrame<'_>) -> bool {
        matches!(self.beyond, Beyond::Nothing { .. }) && is_router_solicitation(frame.head, &frame.parsed)
    }

    /// Handles frames for which `takes` is true.
    pub(super) fn on_packets(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        match &mut self.beyond {
            Beyond::World(engine) => engine.on_packets(now, burst, &mut self.services, sink),
            Beyond::Nothing { counters, .. } => {
                for frame in burst {
                    let dropped = match frame.parsed.fault() {
                        Some(fault) => Some(fault.into()),
                        None => match self.services.answer(now, frame, sink) {
                            Service::Answered { .. } => None,
                            Service::Pass => Some(DropReason::NoSuchNeighbour),
                            Service::Refused(reason) => Some(reason),
                        },
                    };
                    dropped.into_iter().for_each(|reason| counters.count_drop(reason));
                }
            }
        }
    }

    /// Tells the guest that its packet exceeds `mtu` bytes, the MTU of its path.
    pub(super) fn report_too_big(&mut self, now: Instant, frame: &GuestFrame<'_>, mtu: u16, sink: &mut dyn GuestSink) {
        match &mut self.beyond {
            Beyond::World(engine) => engine.report_too_big(now, frame, mtu, sink),
            Beyond::Nothing { errors, .. } => errors.report(now, frame, mtu, sink),
        }
    }

    pub(super) fn set_resolvers(&mut self, now: Instant, resolvers: &Resolvers) {
        self.services.link.set_resolvers(now, resolvers);
        if let Some(engine) = self.engine() {
            engine.set_dns_forward(&resolvers.forward);
        }
    }

    pub(super) fn set_mtu(&mut self, now: Instant, mtu: u16) {
        self.services.link.set_mtu(now, mtu);
        if let Some(engine) = self.engine() {
            engine.set_mtu(mtu);
        }
    }

    /// Announces addresses that have another MAC now to the guest.
    pub(super) fn announce(&mut self, moved: impl Iterator<Item = (IpAddr, MacAddr)>, sink: &mut dyn GuestSink) {
        if self.is_first && self.is_up {
            self.services.announce(moved, sink);
        }
    }

    /// Replaces the peers for which the station answers.
    pub(super) fn set_peers(&mut self, table: &Arc<Table>) {
        self.services.set_peers(table);
    }

    /// The gateway's name server.
    pub(super) const fn dns(&self) -> Option<&Dns> {
        self.services.dns()
    }

    /// True if the gateway has the flow.
    pub(super) fn has(&self, flow: &FlowId) -> bool {
        match &self.beyond {
            Beyond::World(engine) => engine.has(flow),
            Beyond::Nothing { .. } => false,
        }
    }

    /// Ends the UDP flows to these ports of Services.
    ///
    /// # Errors
    /// There is no gateway.
    pub(super) fn end_services(&mut self, ports: &[Virtual]) -> io::Result<()> {
        let engine = self.engine().ok_or(io::ErrorKind::Unsupported)?;
        engine.end_datagrams_to(|to| ports.contains(&(protocol::UDP, to)));
        Ok(())
    }

    /// Changes the forwards.
    ///
    /// # Errors
    /// A socket cannot be watched, or the network has no gateway.
    pub(super) fn change_forwards(&mut self, change: ForwardChange) -> io::Result<()> {
        let engine = self.engine().ok_or(io::ErrorKind::Unsupported)?;
        match change {
            ForwardChange::Add(bound) => engine.add_forward(bound),
            ForwardChange::Remove(transport, addresses) => {
                engine.remove_forward(transport, &addresses);
                Ok(())
            }
        }
    }

    /// Stops serving forwards and returns their sockets, still listening. Flows stay.
    pub(super) fn release_listeners(&mut self) -> Vec<BoundForward> {
        self.engine().map(Engine::release_listeners).unwrap_or_default()
    }

    /// Handles the frames and flows that other workers have passed to this one.
    pub(super) fn take_in(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        if let Some(engine) = self.engine() {
            engine.on_handover(now, sink);
        }
    }

    pub(super) fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        if let Some(engine) = self.engine() {
            engine.on_event(now, token, ready, sink);
        }
    }

    pub(super) fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        if let Some(engine) = self.engine() {
            engine.on_room(now, sink);
        }
    }

    pub(super) fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        if let Some(engine) = self.engine() {
            engine.on_timer(now, sink);
        }
        self.services.link.on_timer(now, sink);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let engine = match &self.beyond {
            Beyond::World(engine) => engine.deadline(),
            Beyond::Nothing { .. } => None,
        };
        [engine, self.services.link.deadline()].into_iter().flatten().min()
    }

    pub(super) fn has_backlog(&self) -> bool {
        match &self.beyond {
            Beyond::World(engine) => engine.has_backlog(),
            Beyond::Nothing { .. } => false,
        }
    }

    pub(super) fn flow_count(&self) -> FlowCount {
        match &self.beyond {
            Beyond::World(engine) => engine.flow_count(),
            Beyond::Nothing { .. } => FlowCount::default(),
        }
    }

    pub(super) fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.is_up = true;
        self.services.link.on_link_up(now, sink);
        if let Some(engine) = self.engine() {
            engine.on_link_up(now, sink);
        }
    }

    pub(super) fn on_link_down(&mut self, now: Instant) {
        self.is_up = false;
        if let Some(engine) = self.engine() {
            engine.on_link_down(now);
        }
        self.services.link.on_link_down();
    }

    pub(super) fn on_reset(&mut self) {
        if let Some(engine) = self.engine() {
            engine.on_reset();
        }
    }

    pub(super) fn on_front_end_gone(&mut self, now: Instant, departure: Departure) {
        if let Some(engine) = self.engine() {
            engine.on_front_end_gone(now, departure);
        }
    }

    /// The NAT engine of a network with a gateway.
    pub(super) const fn engine(&mut self) -> Option<&mut Engine> {
        match &mut self.beyond {
            Beyond::World(engine) => Some(engine),
            Beyond::Nothing { .. } => None,
        }
    }
}

fn link(setup: &OverlaySetup<'_>, links: Links) -> Link {
    Link {
        gateway_mac: setup.mode.station_mac(),
        guest_mac: setup.port.mac.unwrap_or_default(),
        mtu: setup.port.mtu,
        gateway_ipv4: links.ipv4.map(|link| link.gateway),
        gateway_ipv6: links.ipv6.map(|link| link.gateway),
        guest: GuestAddresses {
            autoconfigured: None,
            ..GuestAddresses::of_links(links.ipv4, links.ipv6)
        },
    }
}

/// The NAT engine of a gateway.
fn engine(
    setup: OverlaySetup<'_>,
    network: &PrimaryNetwork,
    links: Links,
    balance: Arc<dyn Balance>,
    dns_stream: Option<SocketAddr>,
) -> Result<Engine, GatewayError> {
    let mut engine = Engine::new(EngineConfig {
        link: link(&setup, links),
        map: AddressMap {
            ipv4: network.ipv4,
            ipv6: network.ipv6,
            host_loopback: Vec::new(),
            dns_forward: network.dns_forward.clone(),
            dns_stream,
            balance: Some(balance),
            neighbourhood: Neighbourhood::Private,
        },
        poller: setup.poller,
        counters: setup.counters,
        worker: setup.worker,
        directory: setup.directory,
        flow_limit: setup.flow_limit,
    })?;
    if setup.worker == 0 && setup.origin == Origin::New {
        engine.listen(&network.forwards, setup.mode.families())?;
    }
    Ok(engine)
}
