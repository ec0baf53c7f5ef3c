//! What each end of a channel does, and when. [`super`] describes the exchange.

use super::relay::{CHANNEL, LEG, Relay, RelayError};
use super::status::{Phase, Report, Status};
use super::wire::Message;
use crate::config::payload::{PayloadError, from_bytes, to_bytes};
use crate::mode::{Follow, FollowingFlow, ModeCommand};
use crate::nat::tcp::listen;
use crate::poller::{EventBuffer, Interest, Owner, Poller, Token};
use crate::port::{Differs, Identity, Moment, Port};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Owner of the events of the bell, by which other threads wake this one.
const BELL: Owner = Owner::of_worker(3);
/// Events handled in one turn.
const EVENTS: usize = 256;
/// Most connections that a guest can bring.
const FLOWS_MAX: usize = 1 << 18;
/// Longest time for the two processes to compare their NICs, and for a last message to be written.
const GREETING: Duration = Duration::from_secs(5);

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

impl Handle {
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
    port: Arc<Port>,
    part: Part,
    phase: Phase,
    relay: Relay,
    poller: Poller,
    moments: Receiver<Moment>,
    handle: Handle,
    /// Number of the attempt.
    epoch: u64,
    /// Source: the worker of each connection. Connections of one worker follow each other.
    owners: Vec<usize>,
    /// Target: connections that have arrived and were not added yet, each with its worker.
    arrived: Vec<(usize, Vec<u8>)>,
    /// Target: true once the guest runs here.
    is_here: bool,
    moved: usize,
    lost: usize,
    deadline: Option<Instant>,
}

debug_fields!(Migration { port, part, phase });

impl Migration {
    /// Prepares one end of `channel` for `port`.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(port: Arc<Port>, channel: UnixStream, part: Part) -> io::Result<Self> {
        let poller = Poller::new()?;
        let handle = Handle {
            bell: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            aborted: Arc::default(),
            status: Arc::default(),
        };
        poller.add(&*handle.bell, Token::new(BELL, 0), Interest::ReadLevel)?;
        let moments = observe(&port, &handle.bell);
        Ok(Self {
            relay: Relay::new(channel, poller.clone())?,
            port,
            part,
            phase: Phase::Greeting,
            poller,
            moments,
            handle,
            epoch: 0,
            owners: Vec::new(),
            arrived: Vec::new(),
            is_here: false,
            moved: 0,
            lost: 0,
            deadline: Some(Instant::now() + GREETING),
        })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until the channel ends. The handle has the result.
    pub fn run(mut self) {
        let ended = self.serve();
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
        if let Part::Source { .. } = self.part {
            let offer = to_bytes(&self.port.identity());
            self.relay.send(&Message::Hello(offer));
        }
        let mut events = EventBuffer::with_capacity(EVENTS);
        let mut others = Vec::new();
        loop {
            let timeout = if self.relay.has_backlog() {
                Some(Duration::ZERO)
            } else {
                self.deadline.map(|at| at.saturating_duration_since(Instant::now()))
            };
            let relay = &mut self.relay;
            let bell = &self.handle.bell;
            self.poller
                .wait(&mut events, timeout, |token, ready| match token.owner {
                    CHANNEL | LEG => relay.on_event(token, ready),
                    // Fails if nothing was written.
                    _ => drop(bell.read()),
                })?;
            if self.handle.aborted.load(Ordering::Relaxed) {
                self.refuse(&MigrationError::Aborted);
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
                    self.refuse(&why);
                    return Err(why);
                }
            }
            read?;
            self.relay.work()?;
            self.report(None);
            if self.phase == Phase::Anchored && self.relay.carried() == 0 && self.part != Part::Target {
                return self.relay.flush().map_err(Into::into);
            }
        }
    }

    /// Tells the other side why the channel ends.
    fn refuse(&mut self, why: &MigrationError) {
        if !matches!(why, MigrationError::Refused(_)) {
            self.relay.send(&Message::Refuse(why.to_string()));
            // If it is not written, the other side sees the end of the channel only.
            let _ = self.relay.flush();
        }
    }

    fn enter(&mut self, phase: Phase) {
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
                    self.relay.send(&Message::Running(self.epoch));
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
            (Part::Target, Phase::Greeting, Message::Hello(offer)) => self.greet(&offer),
            (
                Part::Target,
                Phase::Ready,
                Message::Flow {
                    number,
                    worker,
                    payload,
                },
            ) => self.receive(number, worker.into(), payload),
            (Part::Target, Phase::Ready, Message::Stopped { epoch, count }) => self.stage(epoch, count as usize),
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
    fn tell_workers(&self, step: impl Fn() -> Follow) -> bool {
        let tell = |done: bool, told: io::Result<()>| done && told.is_ok();
        let workers = self.port.workers().iter();
        workers
            .map(|worker| worker.command_mode_and_wait(ModeCommand::Follow(step())))
            .fold(true, tell)
    }

    /// Passes a step with an answer to one worker. `None` if it refuses.
    fn ask<T>(&self, worker: usize, step: impl FnOnce(SyncSender<T>) -> Follow) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        let worker = self.port.workers().get(worker)?;
        worker.command_mode_and_wait(ModeCommand::Follow(step(reply))).ok()?;
        answer.recv().ok()
    }

    /// Source: freezes the connections and sends them.
    fn freeze(&mut self) -> Result<(), MigrationError> {
        self.epoch += 1;
        self.owners.clear();
        for worker in 0..self.port.workers().len() {
            let Some(payloads) = self.ask(worker, Follow::Freeze) else {
                // The guest runs here again already.
                self.relay.send(&Message::Resumed(self.epoch));
                return Ok(());
            };
            for payload in payloads {
                let number = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
                let flow = Message::Flow {
                    number,
                    worker: u16::try_from(worker).unwrap_or_default(),
                    payload,
                };
                self.relay.send(&flow);
                self.owners.push(worker);
            }
        }
        let count = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let epoch = self.epoch;
        self.relay.send(&Message::Stopped { epoch, count });
        self.enter(Phase::Stopped);
        Ok(())
    }

    /// Source: the guest runs in the target, so the sockets become anchors.
    fn part_with_sockets(&mut self, drain: Duration) -> Result<(), MigrationError> {
        let mut sockets: Vec<Option<Option<OwnedFd>>> = self.owners.iter().map(|_| None).collect();
        for worker in 0..self.port.workers().len() {
            let Some(parted) = self.ask(worker, Follow::Part) else {
                // It runs here too, which the VMM must prevent. The sockets are here, and so is the guest.
                self.relay.send(&Message::Resumed(self.epoch));
                self.enter(Phase::Ready);
                return Ok(());
            };
            let first = self
                .owners
                .iter()
                .position(|owner| *owner == worker)
                .unwrap_or_default();
            for (at, socket) in parted {
                if let Some(place) = sockets.get_mut(first + at) {
                    *place = Some(socket);
                }
            }
        }
        self.relay.send(&Message::Parted(self.epoch));
        self.moved = self.owners.len();
        for (number, socket) in (0..).zip(sockets) {
            match socket {
                Some(Some(socket)) => {
                    if self.relay.add(number, socket.into()).is_err() {
                        self.relay.reset(number);
                    }
                }
                // The connection is closed in both directions.
                Some(None) => self.relay.send(&Message::End(number)),
                None => self.relay.reset(number),
            }
        }
        self.relay.start();
        self.deadline = Some(Instant::now() + drain);
        log::info!(
            "port {}: the guest has migrated; {} connections are carried",
            self.port.config().name,
            self.relay.carried()
        );
        self.enter(Phase::Anchored);
        Ok(())
    }

    /// Target: checks that the guest's NIC is the one of this port, and prepares the workers.
    fn greet(&mut self, offer: &[u8]) -> Result<(), MigrationError> {
        let served: Identity = from_bytes(offer)?;
        served.check(&self.port.identity())?;
        if !self.tell_workers(|| Follow::Expect) {
            return Err(MigrationError::Unsupported(
                "the target runs a guest already, or is not in masquerade mode",
            ));
        }
        self.deadline = None;
        self.relay.send(&Message::Welcome);
        self.enter(Phase::Ready);
        Ok(())
    }

    fn receive(&mut self, number: u32, worker: usize, payload: Vec<u8>) -> Result<(), MigrationError> {
        if number as usize != self.arrived.len() || self.arrived.len() >= FLOWS_MAX {
            return Err(MigrationError::OutOfTurn("a connection"));
        }
        let worker = worker % self.port.workers().len().max(1);
        self.arrived.push((worker, payload));
        Ok(())
    }

    /// Target: adds the connections, each with a loopback socket in place of its host socket.
    fn stage(&mut self, epoch: u64, count: usize) -> Result<(), MigrationError> {
        if count != self.arrived.len() || epoch <= self.epoch {
            return Err(MigrationError::OutOfTurn("the end of its connections"));
        }
        self.epoch = epoch;
        let mut loopback = Loopback::new()?;
        let mut loads: Vec<(Vec<u32>, Vec<FollowingFlow>)> = Vec::new();
        loads.resize_with(self.port.workers().len(), Default::default);
        for (number, (worker, payload)) in (0..).zip(std::mem::take(&mut self.arrived)) {
            let (near, far) = loopback.pair()?;
            self.relay.add(number, far)?;
            let (numbers, flows) = &mut loads[worker];
            numbers.push(number);
            flows.push(FollowingFlow {
                payload,
                socket: Some(near.into()),
            });
        }
        let mut refused = Vec::new();
        for (worker, (numbers, flows)) in loads.into_iter().enumerate() {
            let loaded = self.ask(worker, |reply| Follow::Come(flows, reply));
            let loaded = loaded.ok_or(MigrationError::Unsupported("a worker has ended"))?;
            let errors = numbers.into_iter().zip(loaded);
            refused.extend(errors.filter_map(|(number, loaded)| Some((number, loaded.err()?))));
        }
        for (number, _) in &refused {
            self.relay.reset(*number);
        }
        if let Some((_, why)) = refused.first() {
            let name = &self.port.config().name;
            log::warn!("port {name}: {} of {count} connections are reset: {why}", refused.len());
        }
        self.moved = count - refused.len();
        self.enter(Phase::Stopped);
        if self.is_here {
            self.relay.send(&Message::Running(epoch));
        }
        Ok(())
    }

    /// Target: the guest goes on in the source.
    fn forget(&mut self) {
        self.arrived.clear();
        self.moved = 0;
        self.relay.clear();
        if !self.is_here {
            self.tell_workers(|| Follow::Forget);
            self.tell_workers(|| Follow::Expect);
        }
        self.enter(Phase::Ready);
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

/// Connected pairs of sockets within the network namespace of the thread.
struct Loopback {
    listener: Socket,
    at: SocketAddr,
}

impl Loopback {
    fn new() -> io::Result<Self> {
        let listener = listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
        let at = listener.local_addr()?.as_socket();
        let at = at.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { listener, at })
    }

    /// A socket with the options of host sockets, and its peer.
    fn pair(&mut self) -> io::Result<(Socket, Socket)> {
        /// Other processes of the pod may connect at the same time.
        const TRIES: usize = 64;
        let far = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
        far.connect(&self.at.into())?;
        far.set_tcp_nodelay(true)?;
        let ours = far.local_addr()?.as_socket();
        for _ in 0..TRIES {
            let (near, peer) = self.listener.accept()?;
            if peer.as_socket() == ours {
                return Ok((near, far));
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}
