//! The attachment of a VM: its workers and their modes, its policy and its counters. A port outlives the front ends
//! that connect to it one after another.

mod announcement;
mod forwards;
mod handover;
mod identity;
mod link;
mod moments;
mod peers;
mod resources;
mod saved;
#[cfg(test)]
pub(crate) mod testing;

pub use crate::mode::Origin;
pub use forwards::ForwardError;
pub use handover::{PortRecord, RestingPort, formats, optional_formats};
pub use identity::{Differs, Identity};
pub use link::Link;
pub use moments::{Moment, Moments};
pub use peers::PeerReport;
pub use resources::PortResources;
pub use saved::{NicError, NicRecord, SavedSighting, State as SavedState};

use crate::bridge::{Bridge, BridgeError, BridgeSetup, Leases};
use crate::capture::Capture;
use crate::config::{ModeConfig, NicRole, PortConfig, Rates, Resolvers};
use crate::counters::{Count, Counters, DropReason};
use crate::masquerade::Masquerade;
use crate::mode::{Mode, ModeCommand, SegmentChange};
use crate::nat::setup::NatSetup;
use crate::nat::steering::Directory;
use crate::overlay::{Overlay, OverlayState, TunnelView};
use crate::policy::{Admission, SnoopedAddress, Snooping};
use crate::poller::Poller;
use crate::responder::HeldLeases;
use crate::sys::tap::TapQueue;
use crate::sys::userfault;
use crate::virtio::config_space::DeviceConfig;
use crate::worker::{self, Health, Limits, NicState, Stage, ThreadStart, WorkerHandle};
use socket2::Socket;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A port of a VM.
pub struct Port {
    config: PortConfig,
    workers: Vec<WorkerHandle>,
    counters: Vec<Arc<Counters>>,
    /// Counters of the threads that carry the flows of a guest that leaves and of one that comes.
    channels: [Arc<Counters>; 2],
    /// Peers of each worker, in layer2 mode.
    tunnel: Vec<Arc<TunnelView>>,
    /// Capture of the tunnel's outer packets.
    outer: Arc<Capture>,
    nic: Arc<NicState>,
    capture: Arc<Capture>,
    link: Link,
    moments: Moments,
    health: Arc<Health>,
    snooping: Arc<Snooping>,
    held: Arc<HeldLeases>,
    rates: Mutex<Rates>,
    /// Current resolvers. `None` if the mode hands out no names to the guest.
    resolvers: Mutex<Option<Resolvers>>,
    forwards: Mutex<Vec<forwards::Known>>,
}

debug_fields!(Port { health });

/// Maximum connections per protocol and worker, if the limit on open files allows it.
const FLOW_LIMIT: usize = 65_536;

/// [`FLOW_LIMIT`], reduced to fit the limit on open files.
fn flow_limit() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    files.map_or(FLOW_LIMIT, |n| usize::try_from(n).unwrap_or(FLOW_LIMIT).min(FLOW_LIMIT))
}

/// Inputs to create a mode. There is one mode per worker.
pub struct ModeContext {
    /// Poller that watches the mode's sockets.
    pub poller: Poller,
    /// Counters of the worker.
    pub counters: Arc<Counters>,
    /// Number of the worker, starting at 0.
    pub worker: usize,
    /// Record of the leases that the guest holds from the mode's DHCP servers.
    pub held: Arc<HeldLeases>,
    /// Whether the mode continues one of another process.
    pub origin: Origin,
}

debug_fields!(ModeContext { worker });

/// The reason why a mode could not be created.
pub type ModeError = Box<dyn std::error::Error + Send + Sync>;

/// The reason why a port could not be created.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The system refused a descriptor or a thread.
    #[error("cannot start a worker: {0}; raise the limits on open files and threads")]
    Worker(#[from] io::Error),
    /// The mode could not start.
    #[error("{0}")]
    Mode(#[source] ModeError),
}

/// The inputs for one worker's mode with a NAT engine.
fn nat_setup<'a, M>(
    port: &'a PortConfig,
    mode: &'a M,
    context: ModeContext,
    directory: Option<&Arc<Directory>>,
) -> NatSetup<'a, M> {
    NatSetup {
        port,
        mode,
        poller: context.poller,
        counters: context.counters,
        worker: context.worker,
        directory: directory.cloned(),
        origin: context.origin,
        held: context.held,
        flow_limit: flow_limit(),
    }
}

/// The configuration without the peers of a network. There may be many of them, and they are in the forwarding table
/// from then on.
fn without_peers(mut config: PortConfig) -> PortConfig {
    if let ModeConfig::Layer2(mode) = &mut config.mode {
        mode.peers = Vec::new();
    }
    config
}

impl Port {
    /// Creates a port in the mode of its configuration.
    ///
    /// # Errors
    /// [`PortError`]
    pub fn new(config: PortConfig, resources: PortResources) -> Result<Self, PortError> {
        Self::with_start(config, resources, &ThreadStart::default())
    }

    /// Creates a port whose worker threads run `start` first.
    ///
    /// # Errors
    /// [`PortError`]
    pub fn with_start(config: PortConfig, resources: PortResources, start: &ThreadStart) -> Result<Self, PortError> {
        // Only now has the process the right to it.
        let _ = userfault::is_supported();
        let port = config.clone();
        let directory = Directory::new(port.queue_pairs.get().into())?;
        let mut state = None;
        // Each mode takes its queue, because a queue kept here would outlive its replacement.
        let mut queues = resources.queues.into_iter();
        let mut tunnels = resources.tunnels.into_iter();
        let mut views = Vec::new();
        let outer = Arc::new(Capture::default());
        let made = Self::make(config, start, resources.origin, &mut |context| match &port.mode {
            ModeConfig::Masquerade(mode) => {
                let setup = nat_setup(&port, mode, context, directory.as_ref());
                Ok(Box::new(Masquerade::new(setup)?))
            }
            ModeConfig::Layer2(mode) => {
                let setup = nat_setup(&port, mode, context, directory.as_ref());
                let state = state.get_or_insert_with(|| OverlayState::new(&port, mode));
                let mut overlay = Overlay::new(setup, state.clone(), tunnels.next())?;
                overlay.set_capture(&outer);
                views.push(overlay.view());
                Ok(Box::new(overlay))
            }
            ModeConfig::Bridge(mode) => {
                let queue = queues.next().ok_or(BridgeError::Queues)?;
                let setup = BridgeSetup {
                    queue,
                    origin: context.origin,
                    poller: context.poller,
                    counters: context.counters,
                    vlan: &port.policy.vlan,
                    lease: Leases {
                        ipv4: mode.lease.as_ref(),
                        ipv6: mode.lease6.as_ref(),
                        mtu: port.mtu,
                        held: context.held,
                    },
                    forwarding: mode.forwarding,
                    standby: match mode.role {
                        NicRole::Single => None,
                        NicRole::Standby => port.mac,
                    },
                };
                Ok(Box::new(Bridge::new(setup)?))
            }
        });
        made.map(|port| Self {
            tunnel: views,
            outer,
            config: without_peers(port.config),
            ..port
        })
    }

    /// Creates a port with modes that the caller supplies (tests, benches).
    ///
    /// # Errors
    /// [`PortError`]
    pub fn with_modes(
        config: PortConfig,
        make: &mut dyn FnMut(ModeContext) -> Result<Box<dyn Mode>, ModeError>,
    ) -> Result<Self, PortError> {
        Self::make(config, &ThreadStart::default(), Origin::New, make)
    }

    fn make(
        config: PortConfig,
        start: &ThreadStart,
        origin: Origin,
        make: &mut dyn FnMut(ModeContext) -> Result<Box<dyn Mode>, ModeError>,
    ) -> Result<Self, PortError> {
        let mut port = Self {
            workers: Vec::new(),
            counters: Vec::new(),
            channels: Default::default(),
            tunnel: Vec::new(),
            outer: Arc::default(),
            nic: Arc::new(NicState::new(&config)),
            capture: Arc::default(),
            link: Link::default(),
            moments: Moments::default(),
            health: Arc::default(),
            snooping: Arc::default(),
            held: Arc::default(),
            rates: Mutex::new(config.policy.rates),
            resolvers: Mutex::new(config.mode.properties().resolvers()),
            forwards: Mutex::new(forwards::initial(&config.mode)),
            config,
        };
        let limits = Limits::new(port.config.policy.rates);
        for index in 0..usize::from(port.config.queue_pairs.get()) {
            let poller = Poller::new()?;
            let counters = Arc::new(Counters::default());
            let mode = make(ModeContext {
                poller: poller.clone(),
                counters: Arc::clone(&counters),
                worker: index,
                held: Arc::clone(&port.held),
                origin,
            })
            .map_err(PortError::Mode)?;
            let spec = worker::WorkerSpec {
                name: port.config.name.clone(),
                index,
                pace: port.config.pace,
                admission: Admission::new(port.config.mac, &port.config.policy),
                to_guest: None,
                limits: limits.clone(),
                snooping: Arc::clone(&port.snooping),
                nic: Arc::clone(&port.nic),
                health: Arc::clone(&port.health),
                capture: Arc::clone(&port.capture),
                poller,
                counters: Arc::clone(&counters),
                mode,
                stage: match origin {
                    Origin::New => Stage::Running,
                    Origin::Successor => Stage::Resting,
                },
            };
            port.workers.push(worker::spawn(spec, start)?);
            port.counters.push(counters);
        }
        Ok(port)
    }

    /// Configuration of the port. In layer2 mode it contains no peers; [`peers`](Self::peers) returns the current ones.
    pub const fn config(&self) -> &PortConfig {
        &self.config
    }

    /// The properties of the NIC that its driver sees.
    pub const fn device(&self) -> DeviceConfig {
        DeviceConfig {
            mac: self.config.mac,
            mtu: self.config.mtu,
            queue_pairs: self.config.queue_pairs,
        }
    }

    /// Packet capture on the port.
    pub const fn capture(&self) -> &Arc<Capture> {
        &self.capture
    }

    /// The state of the NIC as its driver has set it.
    pub fn nic_state(&self) -> &NicState {
        &self.nic
    }

    /// The link to the segment, as the guest sees it.
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// Events in the life of the guest.
    pub const fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Health of the workers.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Records that a worker is gone, and sets the guest's link down.
    pub fn set_failed(&self) {
        self.link.set_failed();
    }

    /// Addresses that the guest has used, most recently seen first, and how long ago each was seen.
    pub fn snooped(&self) -> Vec<(SnoopedAddress, Duration)> {
        let now = worker::now();
        let all = self.snooping.all().into_iter();
        all.map(|sighting| (sighting, now.since(sighting.seen))).collect()
    }

    /// The leases of the port's own DHCP servers that the guest holds.
    pub fn held_leases(&self) -> &HeldLeases {
        &self.held
    }

    /// The current rate limits.
    pub fn rates(&self) -> Rates {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the rate limits; the new buckets start full.
    pub fn set_rates(&self, rates: Rates) {
        // The lock is held until every worker has the command, so that concurrent calls do not interleave.
        let mut current = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = Limits::new(rates);
        for worker in &self.workers {
            worker.set_rates(limits.clone());
        }
        *current = rates;
    }

    /// Replaces the guest's name servers and search domains, starting with the next answer. Queries to the gateway are
    /// sent to the new servers immediately. Returns false if nothing has changed.
    pub fn change_resolvers(&self, resolvers: Resolvers) -> bool {
        let mut current = self.resolvers.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| *current == resolvers) {
            return false;
        }
        let shared = Arc::new(resolvers.clone());
        for worker in &self.workers {
            worker.command_mode(ModeCommand::Resolvers(Arc::clone(&shared)));
        }
        *current = Some(resolvers);
        true
    }

    /// Tells the modes and the guest whether the segment carries frames.
    pub fn set_segment(&self, up: bool) {
        let change = if up { SegmentChange::Up } else { SegmentChange::Down };
        for worker in &self.workers {
            worker.command_mode(ModeCommand::Segment(change.clone()));
        }
        self.link.set_segment(up);
    }

    /// Sets the link up or down on behalf of the operator, and reports the change to the guest. While the link is down
    /// no frames pass, and the guest's frames stay in its rings.
    pub fn set_link(&self, up: bool) {
        for worker in &self.workers {
            worker.set_link(up);
        }
        self.link.set_wanted(up);
    }

    /// Replaces the queues to the segment, one per worker. The segment carries frames from then on.
    pub fn replace_segment(&self, queues: Vec<Arc<TapQueue>>) {
        for (worker, queue) in self.workers.iter().zip(queues) {
            worker.command_mode(ModeCommand::Segment(SegmentChange::Replaced(queue)));
        }
        self.link.set_segment(true);
    }

    /// The workers, one per queue pair.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Counters for a channel of a migration: of the guest that leaves, or of the one that comes.
    pub const fn channel_counters(&self, comes: bool) -> &Arc<Counters> {
        &self.channels[comes as usize]
    }

    /// The sum of all counters.
    pub fn counters(&self) -> Counters {
        let total = Counters::default();
        for counters in self.counters.iter().chain(&self.channels) {
            total.merge(counters);
        }
        total
    }

    /// The port's counters as text, with one line for each counter that is not zero.
    pub fn report(&self) -> String {
        let total = self.counters();
        let mut text = format!("port {}:\n", self.config.name);
        for &count in Count::ALL {
            line(&mut text, "", count.name(), total.count(count));
        }
        for &reason in DropReason::ALL {
            line(&mut text, "dropped ", reason.name(), total.dropped(reason));
        }
        text
    }
}

impl Port {
    /// The kinds of payloads that this port writes in addition to those of [`formats`].
    pub fn own_formats(&self) -> Vec<(&'static str, u32)> {
        match self.config.mode {
            ModeConfig::Layer2(_) => optional_formats(),
            ModeConfig::Masquerade(_) | ModeConfig::Bridge(_) => Vec::new(),
        }
    }
}

impl PortResources {
    /// Resources of a port that continues one of another process, from what the workers of that one share
    /// ([`Port::share`]).
    ///
    /// # Errors
    /// A descriptor is not what the mode needs.
    pub fn successor(mode: &ModeConfig, workers: Vec<Vec<OwnedFd>>) -> Result<Self, ModeError> {
        let mut resources = Self {
            origin: Origin::Successor,
            ..Self::default()
        };
        match mode {
            ModeConfig::Masquerade(_) => {}
            ModeConfig::Bridge(_) => {
                let queues = workers.into_iter().flatten().map(TapQueue::adopt);
                resources.queues = queues.map(|queue| queue.map(Arc::new)).collect::<Result<_, _>>()?;
            }
            ModeConfig::Layer2(_) => resources.tunnels = workers.into_iter().flatten().map(Socket::from).collect(),
        }
        Ok(resources)
    }
}

fn line(text: &mut String, prefix: &str, name: &str, value: u64) {
    if value != 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {prefix}{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BridgeConfig;
    use crate::sys::netns::enter_fresh;
    use std::time::Instant;

    #[test]
    fn a_queue_that_was_replaced_is_closed() {
        const PATIENCE: Duration = Duration::from_secs(10);
        if !enter_fresh() {
            return;
        }
        let open = |name| Arc::new(TapQueue::open(name, 1).unwrap().remove(0));
        let (first, second) = (open("first0"), open("second0"));
        let watched = Arc::downgrade(&first);
        let mut config = testing::config(1);
        config.mode = ModeConfig::Bridge(BridgeConfig::default());
        let resources = PortResources {
            queues: vec![first],
            ..PortResources::default()
        };
        let port = Port::new(config, resources).unwrap();
        assert_eq!(watched.strong_count(), 1, "the worker's");
        port.replace_segment(vec![second]);
        let started = Instant::now();
        while watched.strong_count() > 0 {
            assert!(started.elapsed() < PATIENCE, "another reference keeps it open");
            std::thread::yield_now();
        }
    }
}
