//! What each end of a channel does, and when. [`super`] describes the exchange.

use super::greeting::{Greeting, Unread};
use super::relay::{Relay, RelayError};
use super::status::{Phase, Report, Status};
use super::wire::Message;
use crate::config::payload::PayloadError;
use crate::counters::DropReason;
use crate::mode::{Follow, ModeCommand};
use crate::poller::{EventBuffer, Interest, Owner, Poller, Token};
use crate::port::{Differs, Identity, Moment, Port};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Owner of the events of the bell, by which other threads wake this one.
const BELL: Owner = Owner::of_worker(3);
/// Events handled in one turn.
pub(super) const EVENTS: usize = 256;
/// How long the source looks for frames that have reached it although the guest has left: until the segment and the peers
/// know where the guest is. And how often.
const LATE: Duration = Duration::from_secs(2);
const LATE_STEP: Duration = Duration::from_millis(10);
/// Time between two checks for idle flows of datagrams.
const CHECK: Duration = Duration::from_secs(60);
/// Longest time for the two processes to compare their NICs, and for a last message to be written.
pub(super) const GREETING: Duration = Duration::from_secs(5);

/// The end of the channel that a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The guest leaves this process. Its connections are carried for at most `drain` once it has left.
    Source {
        /// Longest time for which connections are carried.
        drain: Duration,
    },
    /// The guest comes to this process.
    Target,
}

/// The reason why a channel ended early.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The channel failed, or the other process violates the protocol.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A system call failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The other side has refused.
    #[error("the other hawser refused: {0}")]
    Refused(String),
    /// The two processes serve different NICs.
    #[error(transparent)]
    Differs(#[from] Differs),
    /// The source writes what this process does not read.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// This process does not serve the NIC.
    #[error("{0}")]
    NoSuchNic(String),
    /// The payload of the other process cannot be read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A message that is not allowed at this time.
    #[error("the other hawser sent {0} out of turn: report the versions on both sides")]
    OutOfTurn(&'static str),
    /// The port cannot take part.
    #[error("connections cannot be moved: {0}")]
    Unsupported(&'static str),
    /// The other side says nothing.
    #[error("the other side does not answer as a hawser does")]
    Silent,
    /// The operator has ended it.
    #[error("it was aborted")]
    Aborted,
    /// The time for which the sockets stay is over.
    #[error("the time for which connections are carried is over")]
    Drained,
}

/// A handle to a migration that another thread runs.
#[derive(Clone, Debug)]
pub struct Handle {
    bell: Arc<EventFd>,
    aborted: Arc<AtomicBool>,
    status: Arc<Status>,
}

impl MigrationError {
    /// Tells the other side why the channel ends.
    pub(super) fn tell(&self, relay: &mut Relay) {
        if !matches!(self, Self::Refused(_)) {
            relay.send(&Message::Refuse(self.to_string()));
            // If it is not written, the other side sees the end of the channel only.
            let _ = relay.flush();
        }
    }
}

impl Handle {
    /// A handle whose bell `poller` watches.
    pub(super) fn new(poller: &Poller) -> io::Result<Self> {
        let handle = Self {
            bell: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            aborted: Arc::default(),
            status: Arc::default(),
        };
        poller.add(&*handle.bell, Token::new(BELL, 0), Interest::ReadLevel)?;
        Ok(handle)
    }

    /// True for an event of the bell, which is silent then.
    pub(super) fn hears(&self, token: Token) -> bool {
        let is_ours = token.owner == BELL;
        if is_ours {
            // Fails if nothing was written.
            let _ = self.bell.read();
        }
        is_ours
    }

    /// True once the operator has ended the channel.
    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Ends the channel. The guest stays where it runs, and connections that are carried are reset.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        // Fails only if the counter is full. The thread already wakes up then.
        let _ = self.bell.write(1);
    }

    /// The state.
    pub const fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The state now.
    pub fn report(&self) -> Report {
        self.status.report()
    }
}

/// One end of the channel of one port.
pub struct Migration {
    pub(super) port: Arc<Port>,
    pub(super) part: Part,
    pub(super) phase: Phase,
    pub(super) relay: Relay,
    pub(super) poller: Poller,
    pub(super) moments: Receiver<Moment>,
    pub(super) handle: Handle,
    /// Number of the attempt.
    pub(super) epoch: u64,
    /// Source: the worker of each connection. Connections of one worker follow each other.
    pub(super) owners: Vec<usize>,
    /// Target: connections of this epoch that could not be added.
    pub(super) refused: Vec<u32>,
    /// Target: number of flows of this epoch.
    pub(super) flows: usize,
    /// Target: connections that have arrived and were not added yet, each with its worker.
    pub(super) arrived: Vec<(usize, Vec<u8>)>,
    /// Target: true once the guest runs here.
    pub(super) is_here: bool,
    pub(super) moved: usize,
    pub(super) lost: usize,
    pub(super) deadline: Option<Instant>,
    /// Source: when what arrives for the guest is looked for again, and until when.
    pub(super) late: Option<Late>,
    /// Target: frames for the guest that the source has passed on.
    frames: Vec<Vec<u8>>,
    /// Time of the next check for flows of datagrams that are idle.
    pub(super) check: Option<Instant>,
}

/// The time for which the source looks for frames that have reached it although the guest has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    next: Instant,
    until: Instant,
}

impl Late {
    /// Beginning at `now`.
    pub(super) fn starting(now: Instant) -> Self {
        Self {
            next: now,
            until: now + LATE,
        }
    }
}

debug_fields!(Migration { port, part, phase });

impl Migration {
    /// Prepares the source's end of `channel` for the guest of `port`. Its connections are carried for at most `drain`.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(port: Arc<Port>, channel: UnixStream, drain: Duration) -> io::Result<Self> {
        let poller = Poller::new()?;
        let handle = Handle::new(&poller)?;
        let relay = Relay::new(channel, poller.clone())?;
        Ok(Self::with(port, relay, poller, handle, Part::Source { drain }))
    }

    /// One end of the channel of `port`.
    pub(super) fn with(port: Arc<Port>, relay: Relay, poller: Poller, handle: Handle, part: Part) -> Self {
        let moments = observe(&port, &handle.bell);
        Self {
            relay,
            port,
            part,
            phase: Phase::Greeting,
            poller,
            moments,
            handle,
            epoch: 0,
            owners: Vec::new(),
            refused: Vec::new(),
            flows: 0,
            arrived: Vec::new(),
            is_here: false,
            moved: 0,
            lost: 0,
            deadline: Some(Instant::now() + GREETING),
            late: None,
            frames: Vec::new(),
            check: None,
        }
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until the channel ends. The handle has the result. True if the target serves the same NIC.
    pub fn run(mut self) -> bool {
        self.relay.send(&Message::Hello(Greeting::of(&self.port)));
        let ended = self.serve();
        let is_greeted = self.phase != Phase::Greeting;
        self.finish(ended);
        is_greeted
    }

    /// Does the same as a target that was sent this description of the NIC.
    pub(super) fn run_greeted(mut self, offer: &Identity) {
        let greeted = self.greet(offer);
        if let Err(why) = &greeted {
            why.tell(&mut self.relay);
        }
        let ended = greeted.and_then(|()| self.serve());
        self.finish(ended);
    }

    fn finish(mut self, ended: Result<(), MigrationError>) {
        let name = self.port.config().name.clone();
        let carried = self.relay.carried();
        let is_done = self.phase == Phase::Anchored && carried == 0;
        let why = match ended {
            Err(MigrationError::Relay(RelayError::Closed)) | Ok(()) if is_done => None,
            Err(MigrationError::Aborted) if self.phase != Phase::Anchored => Some(MigrationError::Aborted.to_string()),
            Ok(()) => None,
            Err(why) => {
                log::warn!("port {name}: the channel of the migration ended, {carried} connections are reset: {why}");
                Some(why.to_string())
            }
        };
        if why.is_none() {
            log::info!("port {name}: the channel of the migration is closed");
        }
        if self.part == Part::Target && !self.is_here {
            self.tell_workers(|| Follow::Forget);
        }
        self.lost += carried;
        self.phase = Phase::Ended;
        self.relay.clear();
        self.report(why);
    }

    fn report(&self, why: Option<String>) {
        self.handle.status.change(|report| {
            *report = Report {
                phase: self.phase,
                moved: self.moved,
                carried: self.relay.carried(),
                reset: self.relay.resets() + self.lost,
                why,
            };
        });
    }

    fn serve(&mut self) -> Result<(), MigrationError> {
        let mut events = EventBuffer::with_capacity(EVENTS);
        let mut others = Vec::new();
        loop {
            let timeout = if self.relay.has_backlog() {
                Some(Duration::ZERO)
            } else {
                let times = [self.deadline, self.late.map(|late| late.next), self.check];
                let next = times.into_iter().flatten().min();
                next.map(|at| at.saturating_duration_since(Instant::now()))
            };
            let (relay, handle) = (&mut self.relay, &self.handle);
            self.poller.wait(&mut events, timeout, |token, ready| {
                if !handle.hears(token) {
                    relay.on_event(token, ready);
                }
            })?;
            if self.handle.is_aborted() {
                MigrationError::Aborted.tell(&mut self.relay);
                return Err(MigrationError::Aborted);
            }
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                return Err(match self.phase {
                    Phase::Greeting => MigrationError::Silent,
                    _ => MigrationError::Drained,
                });
            }
            while let Ok(moment) = self.moments.try_recv() {
                self.on_moment(moment)?;
            }
            let read = self.relay.read(&mut others);
            for message in others.drain(..) {
                if let Err(why) = self.on_message(message) {
                    why.tell(&mut self.relay);
                    return Err(why);
                }
            }
            self.deliver_frames();
            read?;
            self.on_time(Instant::now());
            self.relay.work()?;
            self.report(None);
            let is_done = self.relay.carried() == 0 && self.late.is_none();
            if self.phase == Phase::Anchored && is_done && self.part != Part::Target {
                return self.relay.flush().map_err(Into::into);
            }
        }
    }

    /// Does what is due at times.
    fn on_time(&mut self, now: Instant) {
        let lost = self.relay.take_lost();
        let counters = self.port.channel_counters(self.part == Part::Target);
        counters.count_drops(DropReason::ChannelFull, lost);
        if let Some(late) = self.late.filter(|late| late.next <= now) {
            self.pass_late_frames();
            self.late = (late.until > now).then_some(Late {
                next: now + LATE_STEP,
                ..late
            });
        }
        if self.check.is_some_and(|at| at <= now) {
            self.relay.end_idle();
            self.check = Some(now + CHECK);
        }
    }

    /// Target: passes frames on to the guest.
    fn deliver_frames(&mut self) {
        if !self.frames.is_empty()
            && let Some(worker) = self.port.workers().first()
        {
            let frames = std::mem::take(&mut self.frames);
            worker.command_mode(ModeCommand::Follow(Follow::Deliver(frames)));
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.report(None);
    }

    fn on_moment(&mut self, moment: Moment) -> Result<(), MigrationError> {
        match (self.part, moment) {
            (Part::Source { .. }, Moment::Stopped) if self.phase == Phase::Ready => self.freeze()?,
            (Part::Source { .. }, Moment::Started) if self.phase == Phase::Stopped => {
                self.relay.send(&Message::Resumed(self.epoch));
                self.enter(Phase::Ready);
            }
            (Part::Target, Moment::Started) => {
                self.is_here = true;
                if self.phase == Phase::Stopped {
                    self.run_here();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) -> Result<(), MigrationError> {
        match (self.part, self.phase, message) {
            (_, _, Message::Refuse(why)) => Err(MigrationError::Refused(why)),
            (Part::Source { .. }, Phase::Greeting, Message::Welcome) => {
                self.deadline = None;
                self.enter(Phase::Ready);
                Ok(())
            }
            (Part::Source { drain }, _, Message::Running(epoch)) => {
                if self.phase == Phase::Stopped && epoch == self.epoch {
                    self.part_with_sockets(drain)?;
                }
                Ok(())
            }
            (
                Part::Target,
                Phase::Ready,
                Message::Flow {
                    number,
                    worker,
                    payload,
                },
            ) => self.receive(number, worker.into(), payload),
            (
                Part::Target,
                Phase::Anchored,
                Message::Flow {
                    number,
                    worker,
                    payload,
                },
            ) => self.join(number, worker.into(), payload),
            (Part::Target, Phase::Ready, Message::Stopped { epoch, count }) => self.stage(epoch, count as usize),
            (Part::Target, Phase::Anchored, Message::Frame(frame)) => {
                self.frames.push(frame);
                Ok(())
            }
            (Part::Target, _, Message::Resumed(epoch)) => {
                if epoch >= self.epoch {
                    self.forget();
                }
                Ok(())
            }
            (Part::Target, Phase::Stopped, Message::Parted(epoch)) if epoch == self.epoch && self.is_here => {
                self.relay.start();
                self.enter(Phase::Anchored);
                Ok(())
            }
            (_, _, Message::Hello(_)) => Err(MigrationError::OutOfTurn("its greeting")),
            (_, _, Message::Flow { .. } | Message::Stopped { .. }) => Err(MigrationError::OutOfTurn("connections")),
            _ => Err(MigrationError::OutOfTurn("a message")),
        }
    }

    /// Passes a step to every worker and waits for it. True if all have executed it.
    pub(super) fn tell_workers(&self, step: impl Fn() -> Follow) -> bool {
        let tell = |done: bool, told: io::Result<()>| done && told.is_ok();
        let workers = self.port.workers().iter();
        workers
            .map(|worker| worker.command_mode_and_wait(ModeCommand::Follow(step())))
            .fold(true, tell)
    }

    /// Passes a step with an answer to one worker. `None` if it refuses.
    pub(super) fn ask<T>(&self, worker: usize, step: impl FnOnce(SyncSender<T>) -> Follow) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        let worker = self.port.workers().get(worker)?;
        worker.command_mode_and_wait(ModeCommand::Follow(step(reply))).ok()?;
        answer.recv().ok()
    }
}

/// Passes what happens to the guest of `port` on to a thread, and rings its bell.
fn observe(port: &Port, bell: &Arc<EventFd>) -> Receiver<Moment> {
    let (sender, moments) = channel();
    // The port may outlive the thread.
    let bell: Weak<EventFd> = Arc::downgrade(bell);
    port.moments().observe(Some(Box::new(move |moment| {
        if let Some(bell) = bell.upgrade()
            && sender.send(moment).is_ok()
        {
            // Fails only if the counter is full. The thread already wakes up then.
            let _ = bell.write(1);
        }
    })));
    moments
}
