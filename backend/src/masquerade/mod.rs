//! Masquerade: a private network of guest and gateway behind NAT through host sockets.
//!
//! The mode has three parts: services of the gateway ([`GatewayServices`]), port forwards ([`forwards`], `every_port`),
//! and the NAT engine ([`crate::nat`]), which handles everything else.

mod each_port;
mod every_port;
pub mod forwards;
mod handover;
#[cfg(test)]
mod tests;

pub use every_port::EveryPortError;

use crate::config::{GATEWAY_MAC, MasqueradeConfig};
use crate::frame::{GuestBurst, GuestSink};
use crate::mode::{Departure, FlowCount, ForwardChange, HandoffError, Mode, ModeCommand, Origin, SavedMode, Unwritten};
use crate::nat::address_map::AddressMap;
use crate::nat::engine::{Engine, EngineConfig, EngineError};
use crate::nat::link::{GuestAddresses, Link};
use crate::nat::listen::ListenError;
use crate::nat::services::GatewayServices;
use crate::nat::setup::NatSetup;
use crate::poller::{Readiness, Token};
use crate::responder::{Convention, ServiceConfig, Station};
use crate::sys::lookup::SocketLookup;
use crate::time::Instant;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The reason why masquerade cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MasqueradeError {
    /// A port of `--port` cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Every port was requested explicitly and cannot be forwarded.
    #[error("--port=all: {0}; name the ports instead")]
    EveryPort(#[from] EveryPortError),
    /// The NAT engine cannot be created.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The masquerade mode as one worker runs it.
pub struct Masquerade {
    engine: Engine,
    services: GatewayServices,
    /// Program that assigns the traffic of every port to the engine's sockets.
    every_port: Option<SocketLookup>,
}

debug_fields!(Masquerade { engine });

/// The parts from which masquerade is made.
pub type MasqueradeSetup<'a> = NatSetup<'a, MasqueradeConfig>;

impl Masquerade {
    /// Creates the mode for one worker. When this returns, forwards are listening.
    ///
    /// # Errors
    /// [`MasqueradeError`], such as a port that cannot be bound.
    pub fn new(setup: MasqueradeSetup<'_>) -> Result<Self, MasqueradeError> {
        let (port, mode) = (setup.port, setup.mode);
        let mut engine = Engine::new(EngineConfig {
            link: Link {
                gateway_mac: GATEWAY_MAC,
                guest_mac: port.mac.unwrap_or_default(),
                mtu: port.mtu,
                gateway_ipv4: mode.ipv4.map(|link| link.gateway),
                gateway_ipv6: mode.ipv6.map(|link| link.gateway),
                guest: GuestAddresses::of_links(mode.ipv4, mode.ipv6),
            },
            map: AddressMap {
                ipv4: mode.ipv4,
                ipv6: mode.ipv6,
                host_loopback: mode.map_host_loopback.clone(),
                dns_forward: mode.dns_forward.clone(),
                dns_stream: None,
                balance: None,
                neighbourhood: mode.neighbourhood,
            },
            poller: setup.poller,
            counters: Arc::clone(&setup.counters),
            worker: setup.worker,
            directory: setup.directory,
            flow_limit: setup.flow_limit,
        })?;
        let mut every_port = None;
        if setup.worker == 0 && setup.origin == Origin::New {
            let families = mode.families();
            engine.listen(&mode.forwards, families)?;
            every_port = every_port::serve(&port.name, mode, families, &mut engine)?;
        }
        let services = ServiceConfig {
            gateway: GATEWAY_MAC,
            station: Station::Router,
            ipv4: mode.ipv4,
            ipv6: mode.ipv6,
            aliases: mode.map_host_loopback.clone(),
            names: mode.names.clone(),
            mtu: port.mtu,
            held: setup.held,
            advertise: setup.worker == 0,
            autoconfigures: true,
            convention: Convention::KubeVirt,
            neighbourhood: mode.neighbourhood,
        };
        Ok(Self {
            engine,
            services: GatewayServices::new(services, setup.counters),
            every_port,
        })
    }
}

/// The payloads of the mode, except for those of the engine, with the newest version of each.
pub fn formats() -> Vec<(&'static str, u32)> {
    handover::formats()
}

impl Masquerade {
    fn change_forwards(&mut self, change: ForwardChange) -> io::Result<()> {
        match change {
            // The socket lookup program runs before the kernel's own lookup, and leaves out only the forwards that
            // existed when it was attached.
            ForwardChange::Add(_) if self.every_port.is_some() => Err(io::ErrorKind::AddrInUse.into()),
            ForwardChange::Add(bound) => self.engine.add_forward(bound),
            ForwardChange::Remove(transport, addresses) => {
                self.engine.remove_forward(transport, &addresses);
                Ok(())
            }
        }
    }
}

impl Mode for Masquerade {
    fn on_burst(&mut self, now: Instant, burst: &GuestBurst<'_>, sink: &mut dyn GuestSink) {
        self.engine.on_packets(now, burst, &mut self.services, sink);
    }

    fn on_event(&mut self, now: Instant, token: Token, ready: Readiness, sink: &mut dyn GuestSink) {
        self.engine.on_event(now, token, ready, sink);
    }

    fn on_room(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.engine.on_room(now, sink);
    }

    fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.engine.on_timer(now, sink);
        self.services.on_timer(now, sink);
    }

    fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.engine.deadline(), self.services.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn on_command(&mut self, now: Instant, command: ModeCommand, sink: &mut dyn GuestSink) -> io::Result<()> {
        match command {
            ModeCommand::Follow(step) => self.engine.follow(now, step, sink),
            ModeCommand::Forwards(change) => self.change_forwards(change),
            ModeCommand::Resolvers(resolvers) => {
                self.services.set_resolvers(now, &resolvers);
                self.engine.set_dns_forward(&resolvers.forward);
                Ok(())
            }
            ModeCommand::TakeIn => {
                self.engine.on_handover(now, sink);
                Ok(())
            }
            ModeCommand::Mtu(mtu) => {
                self.engine.set_mtu(mtu);
                self.services.set_mtu(now, mtu);
                Ok(())
            }
            // Others see only the pod's address.
            ModeCommand::EndConnections => {
                self.engine.end_connections(now, sink);
                Ok(())
            }
            ModeCommand::Announce(_) => Ok(()),
            ModeCommand::Peers(_) | ModeCommand::Services(_) | ModeCommand::Segment(_) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    fn flow_count(&self) -> FlowCount {
        self.engine.flow_count()
    }

    fn has_backlog(&self) -> bool {
        self.engine.has_backlog()
    }

    fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.services.on_link_up(now, sink);
        self.engine.on_link_up(now, sink);
    }

    fn on_reset(&mut self) {
        self.engine.on_reset();
    }

    fn on_front_end_gone(&mut self, now: Instant, departure: Departure) {
        self.engine.on_front_end_gone(now, departure);
    }

    fn on_link_down(&mut self, now: Instant) {
        self.engine.on_link_down(now);
        self.services.on_link_down();
    }

    fn share(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        Ok(Vec::new())
    }

    fn save_ahead(&mut self, now: Instant) -> Result<Option<Unwritten>, HandoffError> {
        Ok(Some(self.engine.save_ahead(now)?))
    }

    fn load_ahead(&mut self, saved: SavedMode) -> Result<(), HandoffError> {
        let loaded = self.engine.load_ahead(saved);
        loaded.map_err(|error| HandoffError::State(error.into()))
    }

    fn save(&mut self, now: Instant) -> Result<SavedMode, HandoffError> {
        handover::save(self, now)
    }

    fn load(&mut self, now: Instant, saved: SavedMode, sink: &mut dyn GuestSink) -> Result<(), HandoffError> {
        handover::load(self, now, saved, sink)
    }

    fn leave(&mut self) {
        self.engine.leave_sockets();
    }
}
