//! The old process: it waits for a new one, and gives it the NICs.

use super::steps::Steps;
use super::token::Token;
use super::words::{Hello, Word};
use crate::failure::Failure;
use crate::machine::{GivenPort, Machine, PortAhead, Since};
use crate::sandbox::{Sandbox, ThreadKind};
use crate::service_manager::ServiceManager;
use crate::takeover::format_of;
use crate::vmm_process::{VmmRecord, VmmWatch};
use crate::watcher::{Wake, Watcher};
use crate::wire::{Message, Wire};
use hawser_backend::mode::SavedMode;
use hawser_backend::sys::listening_socket::{ListeningSocket, OfferedSocket};
use hawser_config::handover::Handover as _;
use hawser_host::system;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Only the owner may connect, because the other process gets the guest.
const SOCKET_MODE: u32 = 0o600;
/// Longest time from the moment at which the guest's rings stop until the new process serves the guest.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for telling it why this process goes on.
const REFUSAL: Duration = Duration::from_secs(1);
/// Longest time for everything that precedes it, during which all is served.
const PREPARATION: Duration = Duration::from_secs(30);

/// Tells why a process cannot be replaced now.
pub(crate) type Obstacle = Box<dyn Fn() -> Option<&'static str> + Send>;

/// What the old process gives, apart from its NICs.
pub(crate) struct GiverSetup {
    /// The API's socket.
    pub api: Option<OfferedSocket>,
    /// The reason why this process cannot be replaced, if there is one.
    pub obstacle: Obstacle,
    /// The VMM that hawser has started.
    pub vmm: Option<Arc<VmmWatch>>,
    /// The service manager, which is told of the other process.
    pub manager: ServiceManager,
}

/// Everything that is given, apart from NICs.
struct Gifts {
    /// The socket on which new processes connect.
    socket: ListeningSocket,
    setup: GiverSetup,
}

impl Gifts {
    /// The kinds of payloads for what not every process has.
    fn formats(&self, machine: &Machine) -> Vec<(&'static str, u32)> {
        let of_vmm = self.setup.vmm.as_ref().map(|_| format_of::<VmmRecord>());
        of_vmm.into_iter().chain(machine.own_formats()).collect()
    }
}

/// A line to the VMM's parent on which this process does not listen. It listens again on drop.
struct Paused<'a>(&'a VmmWatch);

impl<'a> Paused<'a> {
    fn new(vmm: &'a VmmWatch) -> Self {
        vmm.pause();
        Self(vmm)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(failure) = self.0.go_on() {
            log::error!("the end of the VMM will not be seen: {failure}");
        }
    }
}

/// The thread that waits for a new process. It ends on drop.
pub(crate) struct Giver {
    _watcher: Watcher,
}

impl Giver {
    /// Listens at `path`.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(crate) fn listen(path: &Path, sandbox: &Sandbox) -> Result<ListeningSocket, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::runtime(format_args!("--takeover-socket: {error}"));
        let socket = ListeningSocket::bind(path, SOCKET_MODE).map_err(|error| failed(&error))?;
        sandbox.own(path).map_err(|error| failed(&error))?;
        Ok(socket)
    }

    /// Waits on `socket` for a process that replaces this one.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(socket: ListeningSocket, setup: GiverSetup, machine: Arc<Machine>) -> Result<Self, Failure> {
        let sandbox = machine.sandbox().clone();
        let gifts = Gifts { socket, setup };
        let watcher = Watcher::start(&sandbox, ThreadKind::Launcher, "takeover", move |end| {
            loop {
                match end.or_event(gifts.socket.listener()) {
                    Ok(Wake::Event) => {}
                    Ok(Wake::End) => return,
                    Err(error) => return log::error!("no process can take over any more: {error}"),
                }
                let Ok((stream, _)) = gifts.socket.listener().accept() else {
                    continue;
                };
                if let Err(why) = give(stream, &gifts, &machine) {
                    log::warn!("another process has not taken over: {why}; this one goes on");
                }
            }
        })?;
        Ok(Self { _watcher: watcher })
    }
}

/// Gives the NICs to the process at the other end, and does not return if it serves them.
fn give(stream: UnixStream, gifts: &Gifts, machine: &Machine) -> Result<(), Failure> {
    let mut wire = Wire::new(stream);
    let given = negotiate(&mut wire, gifts, machine).and_then(|()| pass_on(&mut wire, gifts, machine));
    if let Err(why) = &given {
        // If the other process has gone, it needs no reason.
        wire.set_deadline(Some(Instant::now() + REFUSAL));
        let _ = wire.say(Word::Refused(why.to_string()));
    }
    given
}

/// Agrees with the other process, which then prepares its ports.
fn negotiate(wire: &mut Wire, gifts: &Gifts, machine: &Machine) -> Result<(), Failure> {
    wire.stream().set_nonblocking(false).map_err(lost)?;
    wire.set_deadline(Some(Instant::now() + PREPARATION));
    let peer = socket_peercred(wire.stream()).map_err(Failure::runtime)?;
    if !peer.uid.is_root() && peer.uid != geteuid() {
        return Err(Failure::runtime(format_args!(
            "process {} has user {}: start it as the same user or as root",
            peer.pid, peer.uid
        )));
    }
    let theirs = match next(wire)?.word {
        Word::Hello(hello) => hello,
        word => return Err(unexpected(&word)),
    };
    theirs.check_protocol().map_err(Failure::runtime)?;
    if let Some(obstacle) = (gifts.setup.obstacle)() {
        return Err(Failure::runtime(obstacle));
    }
    let ours = Hello::new(&machine.identities()?, gifts.formats(machine));
    theirs.can_replace(&ours).map_err(Failure::runtime)?;
    // The descriptors of all flows are duplicated while the rings rest. If the limit is too low, that says so.
    let _ = system::make_descriptor_room(0);
    wire.say(Word::Hello(ours)).map_err(lost)?;
    match next(wire)?.word {
        Word::Prepare => {}
        word => return Err(unexpected(&word)),
    }
    for port in machine.share()? {
        let workers = port.workers.iter().map(Vec::len).collect();
        let word = Word::Share {
            name: port.name,
            workers,
        };
        let descriptors = port.workers.into_iter().flatten().collect();
        let message = Message {
            descriptors,
            ..Message::of(word)
        };
        wire.send(message).map_err(lost)?;
    }
    wire.say(Word::Done).map_err(lost)?;
    match next(wire)?.word {
        Word::Ahead => {}
        word => return Err(unexpected(&word)),
    }
    for PortAhead { name, modes } in machine.save_ahead()? {
        let word = Word::Flows {
            name,
            modes: modes.iter().map(Option::is_some).collect(),
        };
        wire.say(word).map_err(lost)?;
        for mode in modes.into_iter().flatten() {
            wire.send(of_mode(mode)).map_err(lost)?;
        }
    }
    wire.say(Word::Done).map_err(lost)?;
    match next(wire)?.word {
        Word::Take => Ok(()),
        word => Err(unexpected(&word)),
    }
}

/// Passes the NICs on. This process exits if the other one serves them.
fn pass_on(wire: &mut Wire, gifts: &Gifts, machine: &Machine) -> Result<(), Failure> {
    let token = Token::new().map_err(Failure::runtime)?;
    let _paused = gifts.setup.vmm.as_deref().map(Paused::new);
    // The guest may have been asked to shut down meanwhile.
    if let Some(obstacle) = (gifts.setup.obstacle)() {
        return Err(Failure::runtime(obstacle));
    }
    wire.set_deadline(Some(Instant::now() + PATIENCE));
    let mut steps = Steps::begin();
    let (given, ports) = machine.hand_over(&mut |step| steps.end(step))?;
    let served = send_all(wire, gifts, ports).and_then(|()| yield_guest(wire, &token, steps));
    let Err(why) = served else {
        leave(wire, &gifts.setup.manager)
    };
    if matches!(token.take(), Ok(false)) {
        log::warn!("another process has taken the guest, and has not said that it serves it: {why}");
        // The kernel ends it if it does not serve in time.
        wire.set_deadline(None);
        if next(wire).is_ok() {
            leave(wire, &gifts.setup.manager);
        }
        // It may have moved bytes of connections, so these cannot go on.
        log::warn!("it has ended: the guest is served again, and its TCP connections are reset");
        given.take_back(Since::Served);
        return Err(why);
    }
    given.take_back(Since::Rested);
    Err(why)
}

/// Lets the other process take the guest, and waits until it serves it.
fn yield_guest(wire: &mut Wire, token: &Token, mut steps: Steps) -> Result<(), Failure> {
    steps.end("sent");
    match next(wire)?.word {
        Word::Ready => {}
        Word::Refused(why) => return Err(Failure::runtime(why)),
        word => return Err(unexpected(&word)),
    }
    steps.end("loaded");
    let yours = Message {
        descriptors: vec![token.share().map_err(Failure::runtime)?],
        ..Message::of(Word::Yours { steps })
    };
    wire.send(yours).map_err(lost)?;
    match next(wire)?.word {
        Word::Running => Ok(()),
        Word::Refused(why) => Err(Failure::runtime(why)),
        word => Err(unexpected(&word)),
    }
}

fn send_all(wire: &mut Wire, gifts: &Gifts, ports: Vec<GivenPort>) -> Result<(), Failure> {
    for port in ports {
        let word = Word::Port {
            modes: port.modes.len(),
            head: Box::new(port.head),
        };
        let message = Message {
            descriptors: port.descriptors,
            ..Message::of(word)
        };
        wire.send(message).map_err(lost)?;
        for mode in port.modes {
            wire.send(of_mode(mode)).map_err(lost)?;
        }
    }
    let api = gifts.setup.api.as_ref().map(OfferedSocket::try_clone).transpose();
    let (api, mut descriptors) = api.map_err(Failure::runtime)?.into_handover();
    let (takeover, of_takeover) = gifts.socket.offer().map_err(Failure::runtime)?.into_handover();
    descriptors.extend(of_takeover);
    let vmm = gifts.setup.vmm.as_ref().map(|vmm| vmm.share()).transpose();
    let (vmm, of_vmm) = vmm.map_err(Failure::runtime)?.into_handover();
    descriptors.extend(of_vmm);
    let message = Message {
        descriptors,
        ..Message::of(Word::Sockets { api, takeover, vmm })
    };
    wire.send(message).map_err(lost)?;
    wire.say(Word::Done).map_err(lost)
}

fn of_mode(mode: SavedMode) -> Message<Word> {
    Message {
        word: Word::Mode,
        blob: mode.payload,
        descriptors: mode.descriptors,
    }
}

/// Ends this process. Nothing is dropped, because dropping undoes what the other process continues with.
fn leave(wire: &Wire, manager: &ServiceManager) -> ! {
    match socket_peercred(wire.stream()) {
        Ok(peer) => {
            log::info!("process {} serves the guest now", peer.pid);
            manager.main_process(peer.pid);
        }
        Err(error) => log::warn!("another process serves the guest now, but its number is unknown: {error}"),
    }
    std::process::exit(0)
}

fn next(wire: &mut Wire) -> Result<Message<Word>, Failure> {
    wire.receive().map_err(lost)
}

/// The other process has gone, or was too slow.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::runtime(format_args!(
            "it did not serve the guest within {} s",
            PATIENCE.as_secs()
        )),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Failure::runtime("it ended")
        }
        _ => Failure::runtime(error),
    }
}

fn unexpected(word: &Word) -> Failure {
    Failure::runtime(format_args!("it sent {word:?} out of order"))
}
