//! Masquerade: the guest's TCP, UDP and ICMP echo end here and go on as ordinary
//! host sockets, so the world sees the pod's address and the kernel's own stack.
//!
//! A burst is handled in three passes: parse and classify every frame, let each
//! protocol act on its part of the burst (TCP and UDP hand payload to the kernel
//! straight from guest memory), and leave publishing to the worker.

mod classify;
mod every_port;
pub mod forwards;
mod moving;

pub use every_port::EveryPortError;

use self::moving::Habits;
use crate::config::{Ipv6Link, MasqueradeConfig, PortConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestBurst, GuestFrame, GuestSink, GuestSlice, HEAD_MAX, Offload};
use crate::mode::{FlowCount, Mode, ModeCommand};
use crate::nat::address_map::AddressMap;
use crate::nat::addresses::PodAddresses;
use crate::nat::context::Context;
use crate::nat::icmp::{EchoFlows, ErrorRate};
use crate::nat::link::Link;
use crate::nat::listen::{Families, ListenError};
use crate::nat::owner;
use crate::nat::reassembly::Reassembler;
use crate::nat::steering::{Directory, Steering};
use crate::nat::tcp::{Incoming, TcpFlows};
use crate::nat::udp::{self, Datagram, UdpFlows};
use crate::packet::MacAddr;
use crate::poller::{Poller, Readiness, Token};
use crate::responder::{Answer, HeldLeases, Replies, Responders, ServiceConfig};
use crate::sys::lookup::SocketLookup;
use crate::time::Instant;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A masquerade that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// A port of `--port`.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Every port was asked for by name.
    #[error("--port=all: {0}; name the ports instead")]
    EveryPort(#[from] EveryPortError),
    /// Several workers cannot reach each other.
    #[error("cannot watch over several queue pairs: {0}; raise the limit on open files")]
    Steering(#[from] io::Error),
    /// No random numbers for sequence numbers.
    #[error("the system gives no random numbers ({0}); check that /dev/urandom or getrandom(2) is allowed")]
    Random(#[from] getrandom::Error),
}

/// What every protocol needs around it, and none changes but the guest's MAC.
struct Surroundings {
    link: Link,
    nat: AddressMap,
    poller: Poller,
    counters: Arc<Counters>,
    steering: Option<Steering>,
}

impl Surroundings {
    /// Notes the MAC a frame came from that was found to be the guest's.
    fn learn_guest_mac(&mut self, mac: MacAddr) {
        if self.link.guest_mac != mac {
            self.link.guest_mac = mac;
            if let Some(steering) = &self.steering {
                steering.tell_guest_mac(mac);
            }
        }
    }

    /// Notes an address the guest uses, where it may make up its own.
    fn learn_guest_address(&mut self, address: Ipv6Addr) {
        let may_choose = |link: &Ipv6Link| link.autoconfigures() && link.may_be_guest(address);
        if self.link.chosen_ipv6 != Some(address) && self.link.ipv6.as_ref().is_some_and(may_choose) {
            self.link.chosen_ipv6 = Some(address);
            if let Some(steering) = &self.steering {
                steering.tell_guest_address(address);
            }
        }
    }

    /// Takes over what another worker has learned: the guest may never have sent us a frame.
    fn follow_guest(&mut self) {
        let Some(steering) = &self.steering else { return };
        if let Some(mac) = steering.guest_mac() {
            self.link.guest_mac = mac;
        }
        let prefix = self.link.ipv6.map(|link| link.network);
        if let Some(address) = prefix.and_then(|prefix| steering.guest_address(prefix)) {
            self.link.chosen_ipv6 = Some(address);
        }
    }

    fn context<'a>(&'a self, now: Instant, sink: &'a mut dyn GuestSink) -> Context<'a> {
        Context {
            now,
            link: &self.link,
            nat: &self.nat,
            poller: &self.poller,
            counters: &self.counters,
            steering: self.steering.as_ref(),
            sink,
        }
    }
}

/// The parts of a burst, by protocol. Kept between bursts for its room.
#[derive(Default)]
struct Sorted {
    segments: Vec<Incoming>,
    datagrams: Vec<Datagram>,
}

/// Masquerade on one worker.
pub struct Masquerade {
    surroundings: Surroundings,
    responders: Responders,
    replies: Replies,
    reassembler: Reassembler,
    tcp: TcpFlows,
    udp: UdpFlows,
    echo: EchoFlows,
    error_rate: ErrorRate,
    sorted: Sorted,
    /// On which pair the guest sends flows that other workers hand to us.
    habits: Habits,
    /// The queue pair is not in use: when its flows go to others.
    leave_at: Option<Instant>,
    /// What leads to the sockets of every port.
    every_port: Option<SocketLookup>,
    /// `None` where the system does not tell.
    addresses: Option<PodAddresses>,
}

/// What a masquerade is made from.
pub struct MasqueradeSetup<'a> {
    /// The port.
    pub port: &'a PortConfig,
    /// Its mode.
    pub mode: &'a MasqueradeConfig,
    /// Where sockets are watched.
    pub poller: Poller,
    /// Where things are counted.
    pub counters: Arc<Counters>,
    /// Worker 0 of a port listens for inbound connections.
    pub worker: usize,
    /// Shared by the workers of the port, if there are several.
    pub directory: Option<Arc<Directory>>,
    /// Where leases given and given back are noted; shared by the workers of the port.
    pub held: Arc<HeldLeases>,
    /// Connections of one protocol this worker may hold.
    pub flow_limit: usize,
}

impl Masquerade {
    /// Sets masquerade up; forwards listen when this returns.
    ///
    /// # Errors
    /// A port that cannot be listened on.
    pub fn new(setup: MasqueradeSetup<'_>) -> Result<Self, MasqueradeError> {
        let (port, mode) = (setup.port, setup.mode);
        let families = Families {
            ipv4: mode.ipv4.is_some(),
            ipv6: mode.ipv6.is_some(),
        };
        let mut tcp = TcpFlows::new(setup.flow_limit)?;
        let mut udp = UdpFlows::new(udp::UdpConfig {
            max_flows: setup.flow_limit,
            families,
        });
        let mut every_port = None;
        if setup.worker == 0 {
            tcp.listen(&mode.forwards, families, &setup.poller)?;
            udp.listen(&mode.forwards, &setup.poller)?;
            every_port = every_port::serve(&setup, families, &mut tcp, &mut udp)?;
        }
        let responders = Responders::new(ServiceConfig {
            ipv4: mode.ipv4,
            ipv6: mode.ipv6,
            aliases: mode.map_host_loopback.clone(),
            names: mode.names.clone(),
            mtu: port.mtu,
            held: setup.held,
            advertise: setup.worker == 0,
        });
        let link = Link {
            guest_mac: port.mac.unwrap_or_default(),
            mtu: port.mtu,
            ipv4: mode.ipv4,
            ipv6: mode.ipv6,
            chosen_ipv6: None,
        };
        let steering = setup
            .directory
            .map(|directory| Steering::new(directory, setup.worker, &setup.poller))
            .transpose()?;
        let addresses = PodAddresses::watch(&setup.poller)
            .inspect_err(|e| {
                log::warn!(
                    "the pod's addresses are not watched ({e}): connections from one that goes end by time only"
                );
            })
            .ok();
        Ok(Self {
            surroundings: Surroundings {
                link,
                nat: AddressMap::new(mode),
                poller: setup.poller,
                counters: setup.counters,
                steering,
            },
            responders,
            replies: Replies::default(),
            reassembler: Reassembler::default(),
            tcp,
            udp,
            echo: EchoFlows::new(),
            error_rate: ErrorRate::default(),
            sorted: Sorted::default(),
            habits: Habits::default(),
            leave_at: None,
            every_port,
            addresses,
        })
    }

    /// Sends what the responders have answered.
    fn flush_replies(&mut self, sink: &mut dyn GuestSink) {
        for reply in self.replies.iter() {
            if sink.send(Offload::NONE, &[reply]).is_err() {
                self.surroundings.counters.count_drop(DropReason::NoRoom);
            }
        }
        self.replies.clear();
    }

    fn change_resolvers(&mut self, now: Instant, resolvers: &Resolvers) {
        self.responders.set_resolvers(now, resolvers);
        let nat = &mut self.surroundings.nat;
        nat.set_dns_forward(&resolvers.forward);
        // Their sockets are connected to the servers there were.
        self.udp.drop_peers(|peer| nat.is_dns(peer));
    }
}

impl Mode for Masquerade {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.segments.clear();
        sorted.datagrams.clear();
        for (index, frame) in burst.iter().enumerate() {
            self.classify(now, index, frame, &mut sorted, sink);
        }
        self.act(now, burst, &sorted, sink);
        self.sorted = sorted;
    }

    fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        if token.owner == owner::HANDOVER {
            return self.on_handover(now, sink);
        }
        if token.owner == owner::ADDRESSES && !self.addresses.as_ref().is_some_and(PodAddresses::removed) {
            return;
        }
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        match token.owner {
            owner::TCP | owner::TCP_LISTENER => self.tcp.on_event(ctx, token, ready),
            owner::UDP | owner::UDP_LISTENER => self.udp.on_event(ctx, token, ready),
            owner::ECHO => self.echo.on_event(ctx, token, ready),
            owner::ADDRESSES => {
                self.tcp.on_addresses_removed(ctx);
                self.udp.on_addresses_removed(ctx);
            }
            _ => {}
        }
    }

    fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        self.tcp.on_room(ctx);
        self.udp.on_room(ctx);
    }

    fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.surroundings.follow_guest();
        let ctx = &mut self.surroundings.context(now, sink);
        self.tcp.on_timer(ctx);
        self.udp.on_timer(ctx);
        self.echo.on_timer(now);
        self.reassembler.on_timer(now, &self.surroundings.counters);
        self.responders
            .on_timer(now, &self.surroundings.counters, &mut self.replies);
        self.flush_replies(sink);
        self.leave(now);
    }

    fn deadline(&self) -> Option<Instant> {
        [
            self.tcp.deadline(),
            self.udp.deadline(),
            self.echo.deadline(),
            self.reassembler.deadline(),
            self.responders.deadline(),
            self.leave_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_command(&mut self, now: Instant, command: ModeCommand, _: &mut dyn GuestSink) -> io::Result<()> {
        match command {
            ModeCommand::Forwards(change) => self.change(change),
            ModeCommand::Resolvers(resolvers) => {
                self.change_resolvers(now, &resolvers);
                Ok(())
            }
            ModeCommand::Segment(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn flow_count(&self) -> FlowCount {
        FlowCount {
            tcp: self.tcp.count(),
            udp: self.udp.len(),
            echo: self.echo.count(),
        }
    }

    fn has_backlog(&self) -> bool {
        self.tcp.has_backlog() || self.udp.has_backlog()
    }

    fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.on_pair(now, true);
        self.responders
            .on_link_up(now, &self.surroundings.counters, &mut self.replies);
        self.flush_replies(sink);
        self.surroundings.follow_guest();
        self.tcp.on_link_up(&self.surroundings.context(now, sink));
        self.udp.on_link_up();
    }

    fn on_reset(&mut self) {
        self.tcp.on_reset();
    }

    fn on_front_end_gone(&mut self, now: Instant) {
        self.tcp.on_front_end_gone(now);
    }

    /// Addresses, listening sockets and connections belong to the VM and stay; or go to another
    /// worker, if it is only this queue pair that is gone.
    fn on_link_down(&mut self, now: Instant) {
        self.on_pair(now, false);
        self.responders.on_link_down();
    }
}

impl Masquerade {
    /// Each protocol acts on its part of a burst.
    fn act(&mut self, now: Instant, burst: &GuestBurst<'_>, sorted: &Sorted, sink: &mut dyn GuestSink) {
        let ctx = &mut self.surroundings.context(now, sink);
        if !sorted.segments.is_empty() {
            self.tcp.on_segments(ctx, burst, &sorted.segments);
        }
        if !sorted.datagrams.is_empty() {
            self.udp.on_datagrams(ctx, burst, &sorted.datagrams);
        }
    }

    /// Frames of our flows that came to other workers.
    fn on_handover(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        let handed = self
            .surroundings
            .steering
            .as_ref()
            .map(Steering::take)
            .unwrap_or_default();
        self.take_in(now, sink);
        self.leave(now);
        for letter in handed {
            let slices = [GuestSlice::from_bytes(&letter.bytes)];
            let frame = GuestFrame {
                head: &letter.bytes[..letter.bytes.len().min(HEAD_MAX)],
                slices: &slices,
                len: letter.bytes.len(),
                offload: letter.offload,
            };
            self.on_burst(now, &[frame], sink);
            self.follow_guest(letter.from);
        }
    }

    /// Hands a frame that came from `mac` to the responders if it is theirs; true if it was.
    fn answer_service(&mut self, now: Instant, mac: MacAddr, frame: &[u8], sink: &mut dyn GuestSink) -> bool {
        let counters = &self.surroundings.counters;
        let answer = self.responders.answer(now, mac, frame, counters, &mut self.replies);
        match answer {
            Answer::NotMine => return false,
            Answer::Done => {
                self.surroundings.learn_guest_mac(mac);
                if let Some(address) = self.responders.take_claimed() {
                    self.surroundings.learn_guest_address(address);
                }
            }
            Answer::Refused(reason) => counters.count_drop(reason),
        }
        self.flush_replies(sink);
        true
    }
}
