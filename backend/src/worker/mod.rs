//! One thread per queue pair, which serves the rings, sockets and timers of one mode.
//!
//! In each turn the worker sleeps briefly if the last turn moved much data, then waits for events (without a limit if
//! no timer is set, so that an idle guest causes no wake-ups). It handles commands and lets the mode handle its
//! sockets. It drains the transmit ring in a few bursts at most, so that sockets get their share, and runs timers.
//! Finally it publishes all used buffers together, and interrupts the guest once if the guest wants that.
//!
//! Kicks of the transmit ring are enabled only while the worker sleeps. Kicks of the receive ring are enabled only
//! while a frame waits for receive buffers (`NoRoom`).

mod clock;
mod command;
mod event_owner;
mod handle;
mod health;
mod moderation;
mod nic_state;
mod pace;
mod receive_filter;
mod rings;
mod slot;
mod stage;
mod start;
mod to_guest;
mod wait;

pub use clock::now;
pub use command::{Limits, RingRole, RingSetup};
pub use handle::{Rest, WorkerHandle};
pub use health::Health;
pub use nic_state::{NicState, ReceiveSettings, Settings as DriverSettings};
pub use receive_filter::{Asked, ReceiveFilter};
pub use stage::Stage;
pub use start::ThreadStart;

use crate::capture::{Capture, CaptureTap};
use crate::config::PaceConfig;
use crate::counters::{Count, Counters, DropReason, Gauge};
use crate::frame::{Budget, GuestSink as _};
use crate::mode::Mode;
use crate::packet::Head;
use crate::policy::rate::Gate;
use crate::policy::{Admission, Rule, Snooping};
use crate::poller::{EventBuffer, Interest, Poller, Readiness, Token};
use crate::time::Instant;
use crate::virtio::features::Features;
use crate::virtio::{GuestMap, control::Control, receive::Receive, transmit::Transmit};
use command::{Command, CommandReceiver, command_channel};
use moderation::Moderation;
use pace::Pace;
use slot::Slot;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use to_guest::ToGuest;

/// Maximum bursts of the transmit ring in one turn.
const BURSTS_PER_TURN: usize = 4;
/// Time after which a turn takes no further burst of the transmit ring. Frames that each open a connection cost a
/// hundred times as much as others.
const BURST_TIME: Duration = Duration::from_micros(500);
/// Time after which frames in a disabled transmit ring are discarded. A front end that disables a ring in order to stop
/// it does so within this time, and the ring then keeps its frames.
const RETIRED: Duration = Duration::from_millis(100);
/// Maximum events handled in one turn.
const EVENTS_PER_TURN: usize = 64;

/// The parts from which a worker is made.
pub struct WorkerSpec {
    /// Name of the port.
    pub name: String,
    /// Number of the worker in its port.
    pub index: usize,
    /// Rules for frames from the guest.
    pub admission: Admission,
    /// Rule for frames to the guest. Without a rule all frames pass.
    pub to_guest: Option<Arc<dyn Rule>>,
    /// Rate limits of the port.
    pub limits: Limits,
    /// Record of the addresses that the guest uses.
    pub snooping: Arc<Snooping>,
    /// State of the guest's NIC, shared by all workers of the port.
    pub nic: Arc<NicState>,
    /// Record of the port's health. An unexpected end of the worker is reported to it.
    pub health: Arc<Health>,
    /// Capture of the port's frames.
    pub capture: Arc<Capture>,
    /// Settings for polling and rests between turns.
    pub pace: PaceConfig,
    /// Epoll instance of the mode's sockets.
    pub poller: Poller,
    /// Counters of the worker.
    pub counters: Arc<Counters>,
    /// The mode that handles the guest's frames.
    pub mode: Box<dyn Mode>,
    /// Whether the worker begins at once.
    pub stage: Stage,
}

debug_fields!(WorkerSpec { name, index });

/// Starts a worker.
///
/// # Errors
/// The system has no descriptor or thread left, or `start` fails.
pub fn spawn(spec: WorkerSpec, start: &ThreadStart) -> io::Result<WorkerHandle> {
    let (sender, receiver) = command_channel()?;
    spec.poller
        .add(&receiver, Token::new(event_owner::COMMAND, 0), Interest::ReadLevel)?;
    let (tell, told) = mpsc::sync_channel(1);
    let start = start.clone();
    let thread = std::thread::Builder::new()
        .name(thread_name(&spec.name, spec.index))
        .spawn(move || {
            let outcome = start.run();
            let started = outcome.is_ok();
            // The caller waits for this message.
            let _ = tell.send(outcome);
            if started {
                let lifeline = Lifeline::new(&spec);
                lifeline.ends(Worker::new(spec, receiver).run());
            }
        })?;
    told.recv().map_err(io::Error::other)??;
    Ok(WorkerHandle::new(sender, thread))
}

/// The kernel keeps only 15 bytes of a name. The number that distinguishes threads must be among them.
fn thread_name(port: &str, index: usize) -> String {
    format!("{port:.12}-{index}")
}

/// Reports the end of a worker to the port, even after a panic.
struct Lifeline {
    name: String,
    health: Arc<Health>,
}

impl Lifeline {
    fn new(spec: &WorkerSpec) -> Self {
        Self {
            name: thread_name(&spec.name, spec.index),
            health: Arc::clone(&spec.health),
        }
    }

    fn ends(&self, how: io::Result<()>) {
        if let Err(error) = how {
            let name = &self.name;
            self.health
                .fail(format!("worker {name} cannot wait for events: {error}"));
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = &self.name;
            self.health
                .fail(format!("worker {name} panicked; report this as a bug"));
        }
    }
}

/// State of the guest's driver as last reported to the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    Down,
}

/// Whether the worker continues. It ends on a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    Exit,
}

struct Worker {
    name: String,
    nic: Arc<NicState>,
    /// Version of the NIC settings that this worker applies.
    nic_version: u64,
    capture: CaptureTap,
    poller: Poller,
    counters: Arc<Counters>,
    mode: Box<dyn Mode>,
    stage: Stage,
    admission: Admission,
    snooping: Arc<Snooping>,
    from_guest: Gate,
    commands: CommandReceiver,
    map: Option<Arc<GuestMap>>,
    features: Features,
    /// One slot for each [`RingRole`].
    slots: [Slot; 3],
    transmit: Option<Transmit>,
    receive: Receive<ToGuest>,
    control: Option<Control>,
    link: Link,
    /// Time at which the front end disabled the running transmit ring.
    retired_at: Option<Instant>,
    /// Down while the operator has set the link down.
    admin: Link,
    pace: Pace,
    moderation: Moderation,
    /// Totals up to the end of the previous turn.
    moved: wait::Totals,
}

impl Worker {
    fn new(spec: WorkerSpec, commands: CommandReceiver) -> Self {
        Self {
            name: format!("{}-{}", spec.name, spec.index),
            nic: spec.nic,
            nic_version: 0,
            capture: CaptureTap::new(Arc::clone(&spec.capture)),
            poller: spec.poller,
            receive: Receive::behind(
                ToGuest {
                    gate: Gate::new(spec.limits.to_guest),
                    rule: spec.to_guest,
                    filter: ReceiveFilter::default(),
                    capture: CaptureTap::new(spec.capture),
                },
                Arc::clone(&spec.counters),
            ),
            counters: spec.counters,
            mode: spec.mode,
            stage: spec.stage,
            admission: spec.admission,
            snooping: spec.snooping,
            from_guest: Gate::new(spec.limits.from_guest),
            commands,
            map: None,
            features: Features::default(),
            slots: Default::default(),
            transmit: None,
            control: None,
            link: Link::Down,
            retired_at: None,
            admin: Link::Up,
            pace: Pace::new(spec.pace.busy_poll),
            moderation: Moderation::new(spec.pace.rest),
            moved: wait::Totals::default(),
        }
    }

    /// Runs turns until a command ends the worker.
    fn run(mut self) -> io::Result<()> {
        if self.rest_at_first() == Flow::Exit {
            return Ok(());
        }
        let mut buffer = EventBuffer::with_capacity(EVENTS_PER_TURN);
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        loop {
            events.clear();
            self.wait(&mut buffer, &mut events)?;
            let now = now();
            self.resume_rate_limited(now);
            self.follow_nic_state();
            self.capture.look();
            self.receive.passage_mut().capture.look();
            for &(token, ready) in &events {
                if self.dispatch(now, token, ready) == Flow::Exit {
                    self.halt_all();
                    return Ok(());
                }
            }
            self.turn(now);
        }
    }

    /// Time until the next timer. `None` without a timer.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let is_due = |role: RingRole| self.slots[role as usize].is_running() && self.slots[role as usize].due;
        let may_send = self.from_guest.opens_at().is_none();
        let is_busy = match self.link {
            Link::Up => is_due(RingRole::Receive) || may_send && is_due(RingRole::Transmit) || self.has_backlog(),
            Link::Down => false,
        };
        if is_busy || is_due(RingRole::Control) {
            return Some(Duration::ZERO);
        }
        let moments = [
            self.mode.deadline(),
            self.from_guest.opens_at(),
            self.receive.passage().gate.opens_at(),
            self.retired_at
                .filter(|_| is_due(RingRole::Transmit))
                .map(|at| at + RETIRED),
        ];
        moments.into_iter().flatten().min().map(|at| at.since(now))
    }

    /// Resumes work that waited for rate-limit tokens which are now available.
    fn resume_rate_limited(&mut self, now: Instant) {
        self.from_guest.look(now);
        if self.receive.passage_mut().gate.look(now) {
            self.slots[RingRole::Receive as usize].due = true;
        }
    }

    /// True if the mode has deferred work that can be done now.
    fn has_backlog(&self) -> bool {
        self.link == Link::Up && !self.receive.is_starved() && self.mode.has_backlog()
    }

    fn dispatch(&mut self, now: Instant, token: Token, ready: Readiness) -> Flow {
        match token.owner {
            event_owner::COMMAND => return self.apply(now),
            event_owner::TRANSMIT_KICK => self.kicked(RingRole::Transmit),
            event_owner::RECEIVE_KICK => self.kicked(RingRole::Receive),
            event_owner::CONTROL_KICK => self.kicked(RingRole::Control),
            owner if owner.is_mode() => self.mode.on_event(now, token, ready, &mut self.receive),
            _ => {}
        }
        Flow::Continue
    }

    fn kicked(&mut self, role: RingRole) {
        self.counters.add(Count::Kicks, 1);
        self.slots[role as usize].due = true;
    }

    /// Handles the commands that have arrived.
    fn apply(&mut self, now: Instant) -> Flow {
        self.commands.silence();
        while let Some(command) = self.commands.next() {
            if self.execute(now, command) == Flow::Exit {
                return Flow::Exit;
            }
            self.update_link(now);
        }
        Flow::Continue
    }

    /// Executes one command.
    fn execute(&mut self, now: Instant, command: Command) -> Flow {
        match command {
            Command::SetMemory(map, reply) => {
                let (map, departure) = match map {
                    Ok(map) => (Some(map), None),
                    Err(departure) => (None, Some(departure)),
                };
                self.set_memory(map);
                self.update_link(now);
                if let Some(departure) = departure {
                    self.mode.on_front_end_gone(now, departure);
                }
                // If the caller has given up, the answer is not needed.
                let _ = reply.send(());
            }
            Command::SetFeatures(features, reply) => {
                self.set_features(Features(features));
                let _ = reply.send(());
            }
            Command::Reset => self.mode.on_reset(),
            Command::StartRing(role, setup) => self.start_ring(role, *setup),
            Command::StopRing(role, reply) => {
                let next_avail = self.stop_ring(role);
                self.update_link(now);
                let _ = reply.send(next_avail);
            }
            Command::SetEnabled(role, enabled) => self.set_enabled(now, role, enabled),
            Command::SetCall(role, call) => self.slots[role as usize].set_call(call),
            Command::SetError(role, error) => self.slots[role as usize].set_error(error),
            Command::SetLink(up) => self.set_link(up),
            Command::Mode(command, reply) => {
                let outcome = self.mode.on_command(now, command, &mut self.receive);
                if let Some(reply) = reply {
                    let _ = reply.send(outcome);
                }
            }
            Command::SetRates(limits) => self.set_rates(now, limits),
            Command::Share(reply) => {
                let _ = reply.send(self.mode.share());
            }
            Command::SaveAhead(reply) => {
                let _ = reply.send(self.mode.save_ahead(now));
            }
            Command::LoadAhead(saved, reply) => {
                let _ = reply.send(self.mode.load_ahead(saved));
            }
            Command::Save(reply, end) => self.save(now, &reply, &end),
            Command::Load(saved, reply) => {
                let _ = reply.send(self.mode.load(now, saved, &mut self.receive));
            }
            Command::Begin(reply) => {
                self.stage = Stage::Running;
                let _ = reply.send(std::time::Instant::now());
            }
            Command::Exit => return Flow::Exit,
        }
        Flow::Continue
    }

    /// Replaces the rate limits, and resumes work that waited for tokens.
    fn set_rates(&mut self, now: Instant, limits: Limits) {
        self.from_guest.replace(now, limits.from_guest);
        self.receive.passage_mut().gate.replace(now, limits.to_guest);
        for role in [RingRole::Receive, RingRole::Transmit] {
            self.slots[role as usize].due = true;
        }
    }

    /// Does all work that follows the events of one wait.
    fn turn(&mut self, now: Instant) {
        self.use_room(now);
        self.drain_transmit(now);
        self.discard(now);
        self.serve_control();
        if self.mode.deadline().is_some_and(|at| at <= now) {
            self.mode.on_timer(now, &mut self.receive);
        }
        self.publish();
        self.stop_broken();
        self.await_room();
        self.update_link(now);
        self.take_stock();
    }

    /// Updates the gauges of the worker.
    fn take_stock(&self) {
        let flows = self.mode.flow_count();
        let levels = [
            (Gauge::QueuePairs, usize::from(self.link == Link::Up)),
            (Gauge::TcpFlows, flows.tcp),
            (Gauge::UdpFlows, flows.udp),
            (Gauge::EchoFlows, flows.echo),
        ];
        for (gauge, n) in levels {
            self.counters.set(gauge, n as u64);
        }
    }

    /// Passes the guest's frames to the mode. While the guest has no room for answers, or has used up its rate, its
    /// frames wait in the ring.
    // `hack/bench --instructions` finds this function by its name.
    #[inline(never)]
    fn drain_transmit(&mut self, now: Instant) {
        if self.link == Link::Down {
            return;
        }
        let slot = &mut self.slots[RingRole::Transmit as usize];
        let Some(transmit) = self.transmit.as_mut().filter(|_| slot.due) else {
            return;
        };
        transmit.ring().disable_kicks();
        for _ in 0..BURSTS_PER_TURN {
            if !self.from_guest.admits() {
                self.counters.add(Count::TxThrottled, 1);
                return;
            }
            let taken = transmit.burst(
                &self.counters,
                self.from_guest.budget(),
                |bytes, len, offload| {
                    let head = Head::parse(bytes, len);
                    match self.admission.admit(bytes, &head, offload) {
                        Ok(()) => {
                            self.snooping.look(now, bytes, &head);
                            Ok(head)
                        }
                        Err(reason) => {
                            self.capture.refused(bytes, reason);
                            Err(reason)
                        }
                    }
                },
                |head, reason| self.capture.refused(head, reason),
                |burst| {
                    self.from_guest.pass_all(burst);
                    if !self.capture.is_on() {
                        self.mode.on_burst(now, burst, &mut self.receive);
                        return self.mode.after_burst(now, &mut self.receive);
                    }
                    // Frames are passed one by one, so that a capture shows which frame is dropped.
                    for frame in burst {
                        self.counters.take_last_drop();
                        self.receive.passage_mut().capture.hold();
                        self.mode.on_burst(now, std::slice::from_ref(frame), &mut self.receive);
                        self.capture.frame(frame, self.counters.take_last_drop());
                        self.receive.passage_mut().capture.release();
                    }
                    self.mode.after_burst(now, &mut self.receive);
                },
            );
            match taken {
                Ok(0) => {
                    slot.due = false;
                    return;
                }
                Ok(taken) => {
                    // A guest whose ring was full refills it while the next burst is sent.
                    let waits = taken >= transmit.most() && transmit.ring().wants_call();
                    slot.call_if(waits, &self.counters);
                    if clock::now().since(now) > BURST_TIME {
                        return;
                    }
                }
                Err(error) => return self.fail(RingRole::Transmit, &error),
            }
        }
    }

    /// Takes the frames of a disabled transmit ring, as the protocol requires (vhost-user, "Ring states"). Otherwise a
    /// guest that has disabled the pair would wait for these frames forever, and not send them on another pair.
    fn discard(&mut self, now: Instant) {
        let slot = &mut self.slots[RingRole::Transmit as usize];
        let is_time = self.retired_at.is_some_and(|at| now.since(at) >= RETIRED);
        let Some(transmit) = self.transmit.as_mut().filter(|_| is_time && slot.due) else {
            return;
        };
        for _ in 0..BURSTS_PER_TURN {
            let refuse = |head: &[u8], _, _| {
                self.capture.refused(head, DropReason::PairOff);
                Err(DropReason::PairOff)
            };
            let malformed = |head: &[u8], reason| self.capture.refused(head, reason);
            let taken = transmit.burst(&self.counters, Budget::UNLIMITED, refuse, malformed, |_| {});
            let kicks = match taken {
                Ok(0) => transmit.ring().enable_kicks(),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match kicks {
                Ok(posted) => slot.due = posted,
                Err(error) => self.fail(RingRole::Transmit, &error),
            }
            return;
        }
    }

    /// Tells the mode that there is room again, or lets it do deferred work.
    fn use_room(&mut self, now: Instant) {
        let slot = &mut self.slots[RingRole::Receive as usize];
        let has_room = std::mem::take(&mut slot.due) && self.receive.is_starved();
        if has_room {
            self.receive.forget_starved();
            if let Some(ring) = self.receive.ring() {
                ring.disable_kicks();
            }
        }
        if self.link == Link::Up && (has_room || self.has_backlog()) {
            self.mode.on_room(now, &mut self.receive);
        }
    }

    /// Publishes the buffers used in this turn, and interrupts the guest if it requests that.
    fn publish(&mut self) {
        let receive = self.receive.publish();
        let transmit = self.transmit.as_mut().is_some_and(|t| t.ring().wants_call());
        for (wanted, role) in [(receive, RingRole::Receive), (transmit, RingRole::Transmit)] {
            self.slots[role as usize].call_if(wanted, &self.counters);
        }
    }

    /// Requests a kick from the guest if a frame waits for room.
    fn await_room(&mut self) {
        if !self.receive.is_starved() {
            return;
        }
        if self.receive.passage().gate.opens_at().is_some() {
            self.counters.add(Count::RxThrottled, 1);
            return;
        }
        let Some(ring) = self.receive.ring() else { return };
        if !ring.is_quiet() {
            return;
        }
        self.counters.add(Count::RxStalls, 1);
        match ring.enable_kicks() {
            Ok(posted) => self.slots[RingRole::Receive as usize].due = posted,
            Err(error) => self.fail(RingRole::Receive, &error),
        }
    }

    /// Tells the mode when the guest's driver starts and stops.
    fn update_link(&mut self, now: Instant) {
        let up = [RingRole::Receive, RingRole::Transmit]
            .iter()
            .map(|role| &self.slots[*role as usize])
            .all(|slot| slot.is_running() && slot.enabled);
        let up = up && self.stage == Stage::Running;
        match (self.link, up) {
            (Link::Down, true) => {
                self.link = Link::Up;
                self.mode.on_offloads(self.receive.caps());
                self.mode.on_link_up(now, &mut self.receive);
                self.publish();
            }
            (Link::Up, false) => {
                self.link = Link::Down;
                self.mode.on_link_down(now);
            }
            (Link::Up, true) | (Link::Down, false) => {}
        }
    }
}

#[cfg(test)]
mod tests;
