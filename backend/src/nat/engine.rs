//! The NAT engine of one worker: all protocols, fragments, and flows that move between workers.
//!
//! The owner of an engine (a mode) creates it from an [`EngineConfig`], passes it the guest's
//! packets in bursts, and forwards events, room and timers. The owner's [`Services`] see each frame
//! first and take out those that NAT does not handle (ARP, DHCP, …).

use super::address_map::AddressMap;
use super::addresses::PodAddresses;
use super::context::Context;
use super::event_owner;
use super::following::Following;
use super::handover::ComeAhead;
use super::icmp::{self, EchoFlows, ErrorRate, IcmpError};
use super::link::Link;
use super::listen::ListenError;
use super::moving::Habits;
use super::reassembly::Reassembler;
use super::steering::{Directory, Steering};
use super::tcp::{Incoming, TcpFlows};
use super::udp::{Datagram, UdpConfig, UdpFlows};
use crate::config::{Families, Forward, Transport};
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestBurst, GuestFrame, GuestSink};
use crate::mode::{BoundForward, Departure, FlowCount};
use crate::packet::FlowId;
use crate::poller::{Poller, Readiness, Token};
use crate::time::Instant;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The reason why an engine could not be created.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The workers cannot share flows.
    #[error("cannot watch over several queue pairs: {0}; raise the limit on open files")]
    Steering(#[from] io::Error),
    /// The system has no random numbers for sequence numbers.
    #[error("the system provides no random numbers ({0}); check that /dev/urandom or getrandom(2) is allowed")]
    Random(#[from] getrandom::Error),
}

/// Configuration of an engine.
pub struct EngineConfig {
    /// MACs, addresses and MTU of the guest's link, and the source addresses that belong to the guest.
    pub link: Link,
    /// How destinations map to addresses of the host.
    pub map: AddressMap,
    /// Poller that watches the sockets.
    pub poller: Poller,
    /// Counters for drops and flows.
    pub counters: Arc<Counters>,
    /// Number of this worker, and the state shared with other workers, if there are several.
    pub worker: usize,
    /// Directory shared by the workers of the port, if there are several.
    pub directory: Option<Arc<Directory>>,
    /// Maximum connections of one protocol that this worker may hold.
    pub flow_limit: usize,
}

debug_fields!(EngineConfig { worker, flow_limit });

/// The decision of an engine's owner on a frame of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The frame is for no service: the engine handles it.
    Pass,
    /// A service has answered. The frame came from the guest. If it was a duplicate address probe (RFC 4862 5.4), it
    /// claimed this address.
    Answered {
        /// Address that the guest is about to use.
        claimed: Option<Ipv6Addr>,
    },
    /// The frame is dropped. The engine counts it.
    Refused(DropReason),
}

/// The services that an engine's owner provides in addition to NAT.
pub trait Services {
    /// Answers a frame if it is for one of the services; the result is the decision.
    fn answer(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) -> Service;
}

/// Provides no services.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl Services for NoServices {
    fn answer(&mut self, _: Instant, _: &GuestFrame<'_>, _: &mut dyn GuestSink) -> Service {
        Service::Pass
    }
}

/// State that all protocols read. Only the guest's addresses and the name servers change.
pub(super) struct Surroundings {
    pub(super) link: Link,
    map: AddressMap,
    pub(super) poller: Poller,
    pub(super) counters: Arc<Counters>,
    pub(super) steering: Option<Steering>,
}

impl Surroundings {
    /// Records the source MAC of a frame from the guest.
    pub(super) fn learn_guest_mac(&mut self, frame: &GuestFrame<'_>) {
        if let Some(mac) = frame.parsed.source_mac(frame.head)
            && self.link.guest_mac != mac
        {
            self.link.guest_mac = mac;
            if let Some(steering) = &self.steering {
                steering.tell_guest_mac(mac);
            }
        }
    }

    /// Records an address that the guest uses, if the guest forms its own.
    pub(super) fn learn_guest_address(&mut self, address: Ipv6Addr) {
        if self.link.guest.learn(address)
            && let Some(steering) = &self.steering
        {
            steering.tell_guest_address(address);
        }
    }

    /// Adopts what other workers have learned about the guest, because it may never have sent a frame to this worker.
    pub(super) fn follow_guest(&mut self) {
        let Some(steering) = &self.steering else { return };
        if let Some(mac) = steering.guest_mac() {
            self.link.guest_mac = mac;
        }
        if let Some(own) = &mut self.link.guest.autoconfigured
            && let Some(address) = steering.guest_address(own.prefix)
        {
            own.last_used = Some(address);
        }
    }

    pub(super) fn context<'a>(&'a self, now: Instant, sink: &'a mut dyn GuestSink) -> Context<'a> {
        Context {
            now,
            link: &self.link,
            nat: &self.map,
            poller: &self.poller,
            counters: &self.counters,
            owners: self.steering.as_ref().map(Steering::owners),
            sink,
        }
    }
}

/// The packets of a burst by protocol, kept between bursts to reuse the allocation.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) segments: Vec<Incoming>,
    pub(super) datagrams: Vec<Datagram>,
}

/// The NAT engine of one worker.
pub struct Engine {
    pub(super) surroundings: Surroundings,
    pub(super) reassembler: Reassembler,
    pub(super) tcp: TcpFlows,
    pub(super) udp: UdpFlows,
    pub(super) echo: EchoFlows,
    pub(super) error_rate: ErrorRate,
    pub(super) sorted: Sorted,
    /// Queue pairs on which the guest sends flows that other workers have handed over.
    pub(super) habits: Habits,
    /// Time at which the flows of an unused queue pair move to other workers.
    pub(super) leave_at: Option<Instant>,
    /// `None` if the system does not report address changes.
    addresses: Option<PodAddresses>,
    /// True while the guest's driver is up.
    pub(super) is_up: bool,
    /// Connections of another process, until the rest of its engine comes.
    pub(super) come_ahead: ComeAhead,
    /// Where the flows are while the guest moves.
    pub(super) following: Following,
}

debug_fields!(Engine { tcp, udp });

impl Engine {
    /// An engine without flows or forwards. Sockets are created in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// [`EngineError`]
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let tcp = TcpFlows::new(config.flow_limit)?;
        let udp = UdpFlows::new(UdpConfig {
            max_flows: config.flow_limit,
            families: Families {
                ipv4: config.link.guest.ipv4.is_some(),
                ipv6: config.link.guest.ipv6.is_some(),
            },
        });
        let steering = config
            .directory
            .map(|directory| Steering::new(directory, config.worker, &config.poller))
            .transpose()?;
        let addresses = PodAddresses::watch(&config.poller)
            .inspect_err(|e| {
                log::warn!(
                    "the pod's addresses are not watched ({e}): connections from a removed address \
                     end only when they time out"
                );
            })
            .ok();
        Ok(Self {
            surroundings: Surroundings {
                link: config.link,
                map: config.map,
                poller: config.poller,
                counters: config.counters,
                steering,
            },
            reassembler: Reassembler::default(),
            tcp,
            udp,
            echo: EchoFlows::new(),
            error_rate: ErrorRate::default(),
            sorted: Sorted::default(),
            habits: Habits::default(),
            leave_at: None,
            addresses,
            is_up: false,
            come_ahead: Vec::new(),
            following: Following::default(),
        })
    }

    /// The guest's link, including what was learned about the guest.
    pub const fn link(&self) -> &Link {
        &self.surroundings.link
    }

    /// Handles a burst of the guest's frames, in ring order. `services` sees each frame first.
    pub fn on_packets<S: Services>(
        &mut self,
        now: Instant,
        burst: &GuestBurst<'_>,
        services: &mut S,
        sink: &mut dyn GuestSink,
    ) {
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.segments.clear();
        sorted.datagrams.clear();
        for (index, frame) in burst.iter().enumerate() {
            if let Some(packet) = self.admit(now, index, frame, services, sink) {
                self.sort(now, frame, packet, &mut sorted, sink);
            }
        }
        self.act(now, burst, &sorted, sink);
        self.sorted = sorted;
    }

    /// Lets each protocol handle its part of a burst.
    pub(super) fn act(&mut self, now: Instant, burst: &GuestBurst<'_>, sorted: &Sorted, sink: &mut dyn GuestSink) {
        let ctx = &mut self.surroundings.context(now, sink);
        if !sorted.segments.is_empty() {
            self.tcp.on_segments(ctx, burst, &sorted.segments);
        }
        if !sorted.datagrams.is_empty() {
            self.udp.expect(self.tcp.expects(now));
            self.udp.on_datagrams(ctx, burst, &sorted.datagrams);
        }
    }

    /// Tells the guest that its packet exceeds `mtu` bytes, the MTU of the path (RFC 1191 4, RFC 4443 3.2). The rate
    /// limit of other errors applies. An IPv4 packet that may be fragmented causes no report.
    pub fn report_too_big(&mut self, now: Instant, frame: &GuestFrame<'_>, mtu: u16, sink: &mut dyn GuestSink) {
        if !icmp::is_too_big_reported(frame) || !self.error_rate.take(now) {
            return;
        }
        self.surroundings.learn_guest_mac(frame);
        let error = IcmpError::TooBig { mtu };
        // If the guest has no buffer, the error is lost, as on any busy network.
        let _ = icmp::refuse(&mut self.surroundings.context(now, sink), error, frame);
    }

    /// Handles a descriptor of the engine that is ready.
    pub fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        if token.owner == event_owner::HANDOVER {
            return self.on_handover(now, sink);
        }
        if token.owner == event_owner::ADDRESSES && !self.addresses.as_ref().is_some_and(PodAddresses::removed) {
            return;
        }
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        match token.owner {
            event_owner::TCP | event_owner::TCP_LISTENER => self.tcp.on_event(ctx, token, ready),
            event_owner::UDP | event_owner::UDP_LISTENER => self.udp.on_event(ctx, token, ready),
            event_owner::ECHO => self.echo.on_event(ctx, token, ready),
            event_owner::ADDRESSES => {
                self.tcp.on_addresses_removed(ctx);
                self.udp.on_addresses_removed(ctx);
            }
            _ => {}
        }
    }

    /// Continues after the guest has posted receive buffers, or when it is the turn of postponed work.
    pub fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        self.tcp.on_room(ctx);
        self.udp.on_room(ctx);
        self.deliver_late(sink);
    }

    /// Call this when time has reached [`deadline`](Self::deadline).
    pub fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        self.tcp.on_timer(ctx);
        self.udp.on_timer(ctx);
        self.echo.on_timer(now);
        self.reassembler.on_timer(now, &self.surroundings.counters);
        self.leave(now);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        [
            self.tcp.deadline(),
            self.udp.deadline(),
            self.echo.deadline(),
            self.reassembler.deadline(),
            self.leave_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// True if flows wait for a turn instead of waiting for the guest.
    pub fn has_backlog(&self) -> bool {
        self.tcp.has_backlog() || self.udp.has_backlog()
    }

    /// Number of flows of each protocol.
    pub fn flow_count(&self) -> FlowCount {
        FlowCount {
            tcp: self.tcp.count(),
            udp: self.udp.len(),
            echo: self.echo.count(),
        }
    }

    /// Call this when the guest's driver is up.
    pub fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.on_pair(now, true);
        self.is_up = true;
        self.surroundings.follow_guest();
        self.tcp.on_link_up(&self.surroundings.context(now, sink));
        self.udp.on_link_up();
        self.follow_driver();
        self.deliver_late(sink);
    }

    /// Call this when the guest's driver has stopped. Connections belong to the VM and stay, or move to another worker
    /// if only this queue pair has stopped.
    pub fn on_link_down(&mut self, now: Instant) {
        self.on_pair(now, false);
        self.is_up = false;
    }

    /// Call this when the device was reset.
    pub fn on_reset(&mut self) {
        self.tcp.on_reset();
    }

    /// Call this when the front end has disconnected.
    pub fn on_front_end_gone(&mut self, now: Instant, departure: Departure) {
        self.tcp.on_front_end_gone(now, departure);
    }

    /// Ends all TCP connections.
    pub fn end_connections(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.tcp.end_all(&mut self.surroundings.context(now, sink));
    }

    /// Replaces the MTU of the link, for new connections and all packets from now on.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.surroundings.link.mtu = mtu;
    }

    /// Sends the guest's queries to the gateway's port 53 to other name servers.
    pub fn set_dns_forward(&mut self, servers: &[IpAddr]) {
        let map = &mut self.surroundings.map;
        map.dns_forward = servers.to_vec();
        // The sockets of these queries are connected to the previous servers.
        self.udp.drop_peers(|peer| map.is_dns(peer));
    }

    /// Ends UDP flows to these destinations, as the guest sees them.
    pub fn end_datagrams_to(&mut self, is_to: impl Fn(SocketAddr) -> bool) {
        self.udp.drop_peers(is_to);
    }

    /// True if a worker of the port has the flow.
    pub fn has(&self, flow: &FlowId) -> bool {
        let steering = self.surroundings.steering.as_ref();
        self.tcp.has(flow)
            || self.udp.has(flow)
            || steering.is_some_and(|steering| steering.owners().owner(flow).is_some())
    }

    /// Opens the listening sockets of `forwards`.
    ///
    /// # Errors
    /// The error of the first port that cannot be bound; no listening socket is kept in that case.
    pub fn listen(&mut self, forwards: &[Forward], families: Families) -> Result<(), ListenError> {
        let poller = &self.surroundings.poller;
        self.tcp.listen(forwards, families, poller)?;
        self.udp.listen(forwards, poller)
    }

    /// Serves clients of a forward.
    ///
    /// # Errors
    /// A socket cannot be watched; no socket is kept in that case.
    pub fn add_forward(&mut self, bound: BoundForward) -> io::Result<()> {
        let (transport, addresses) = (bound.transport, bound.addresses());
        let poller = &self.surroundings.poller;
        let added = bound.sockets.into_iter().try_for_each(|socket| match transport {
            Transport::Tcp => self.tcp.adopt(socket, poller),
            Transport::Udp => self.udp.adopt(socket, poller),
        });
        if added.is_err() {
            self.remove_forward(transport, &addresses);
        }
        added
    }

    /// Stops serving forwards and returns their listening sockets. Flows stay.
    pub fn release_listeners(&mut self) -> Vec<BoundForward> {
        let poller = &self.surroundings.poller;
        let all = [
            (Transport::Tcp, self.tcp.release_listeners(poller)),
            (Transport::Udp, self.udp.release_listeners(poller)),
        ];
        all.map(|(transport, sockets)| BoundForward { transport, sockets })
            .into()
    }

    /// Closes the listening sockets bound to `addresses`. Flows stay.
    pub fn remove_forward(&mut self, transport: Transport, addresses: &HashSet<SocketAddr>) {
        match transport {
            Transport::Tcp => self.tcp.unlisten(addresses),
            Transport::Udp => self.udp.unlisten(addresses),
        }
    }
}
