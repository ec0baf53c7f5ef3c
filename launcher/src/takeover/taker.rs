//! The new process: it takes the NICs over from the one that serves them.

use super::last_moment::LastMoment;
use super::steps::Steps;
use super::token::Token;
use super::words::{Hello, Word};
use crate::failure::Failure;
use crate::machine::{GivenPort, Identities, Machine, MachineSetup, Nic, PortAhead, SharedPort, Successor};
use crate::vmm_process::VmmProcess;
use crate::wire::{Message, Wire};
use hawser_backend::mode::SavedMode;
use hawser_backend::sys::listening_socket::{ListeningSocket, OfferedSocket};
use hawser_config::handover::Handover as _;
use hawser_config::payload::Sealed;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time from taking the guest until it is served.
const LIMIT: Duration = Duration::from_secs(2);

/// A connection to the process that serves the NICs, which has agreed to be replaced.
#[derive(Debug)]
pub(crate) struct Taker {
    wire: Wire,
    nics: Identities,
}

/// What the other process has given.
pub(crate) struct Taken {
    /// The NICs, which are served.
    pub machine: Machine,
    /// The socket of the API.
    pub api: Option<ListeningSocket>,
    /// The socket of the next takeover.
    pub takeover: ListeningSocket,
    /// The VMM that the other process has started, or one before it.
    pub vmm: Option<VmmProcess>,
}

impl Taker {
    /// Connects to the process that listens at `path`.
    ///
    /// # Errors
    /// There is none, or it cannot be replaced by this one.
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let path = path.display();
            Failure::runtime(format_args!(
                "--takeover: no process listens at {path} ({error}): start hawser without --takeover"
            ))
        })?;
        let mut wire = Wire::new(stream);
        wire.say(Word::Hello(Hello::new(&Identities::new(), super::optional_formats())))
            .map_err(lost)?;
        let theirs = match next(&mut wire)?.word {
            Word::Hello(hello) => hello,
            word => return Err(unexpected(&word)),
        };
        theirs.check_protocol().map_err(Failure::runtime)?;
        log::info!("taking over from {}", theirs.program);
        let nics = theirs.nics().map_err(Failure::runtime)?;
        Ok(Self { wire, nics })
    }

    /// Takes over `nics`. If that fails after the other process has stopped serving them, this process exits.
    ///
    /// # Errors
    /// The NICs are not those of the other process, or it refuses. It goes on then.
    pub(crate) fn take(mut self, setup: MachineSetup, nics: Vec<Nic>) -> Result<Taken, Failure> {
        self.check(&nics)?;
        self.wire.say(Word::Prepare).map_err(lost)?;
        let mut shared = Vec::new();
        loop {
            let Message { word, descriptors, .. } = next(&mut self.wire)?;
            match word {
                Word::Share { name, workers } => {
                    let mut descriptors = descriptors.into_iter();
                    let workers = workers.iter().map(|n| descriptors.by_ref().take(*n).collect());
                    shared.push(SharedPort {
                        name,
                        workers: workers.collect(),
                    });
                }
                Word::Done => break,
                word => return Err(unexpected(&word)),
            }
        }
        let mut successor = Successor::prepare(setup, nics, shared)?;
        self.wire.say(Word::Ahead).map_err(lost)?;
        successor.load_ahead(self.ahead()?)?;
        self.wire.say(Word::Take).map_err(lost)?;
        let (mut steps, sockets, limit) = match self.load(&mut successor) {
            Ok(loaded) => loaded,
            Err(why) => self.give_up(&why),
        };
        let (machine, begun) = match successor.begin() {
            Ok(begun) => begun,
            Err(why) => self.give_up(&why),
        };
        drop(limit);
        steps.end_at("begun", begun);
        let millis = steps.total().as_secs_f64() * 1e3;
        log::info!("the guest's rings rested for {millis:.1} ms: {steps}");
        // If the other process has gone meanwhile, it has nothing to learn.
        let _ = self.wire.say(Word::Running);
        Ok(Taken {
            machine,
            api: sockets.api.map(OfferedSocket::own),
            takeover: sockets.takeover.own(),
            vmm: sockets.vmm,
        })
    }

    /// Checks that the NICs are those of the other process.
    fn check(&self, nics: &[Nic]) -> Result<(), Failure> {
        for nic in nics {
            let Some(Sealed(served)) = self.nics.get(nic.name()) else {
                let why = "the running process does not serve it: plug it first, or restart hawser";
                return Err(Failure::runtime(why).of(nic.name()));
            };
            if let Some(offered) = nic.identity() {
                let same = served.check(&offered);
                same.map_err(|differs| Failure::runtime(differs).of(nic.name()))?;
            }
        }
        if let Some(name) = self
            .nics
            .keys()
            .find(|name| nics.iter().all(|ours| ours.name() != **name))
        {
            let why = "the running process serves it: unplug it first, or restart hawser";
            return Err(Failure::runtime(why).of(name));
        }
        Ok(())
    }

    /// What the other process passes on in advance.
    fn ahead(&mut self) -> Result<Vec<PortAhead>, Failure> {
        let mut ahead = Vec::new();
        loop {
            match next(&mut self.wire)?.word {
                Word::Flows { name, modes } => {
                    let modes = modes.into_iter().map(|comes| comes.then(|| self.mode()).transpose());
                    let modes = modes.collect::<Result<_, _>>()?;
                    ahead.push(PortAhead { name, modes });
                }
                Word::Done => return Ok(ahead),
                word => return Err(unexpected(&word)),
            }
        }
    }

    /// Receives and loads everything, and waits until the other process has given up the guest. Returns the time for
    /// which the guest's rings have rested, in steps, the other sockets, and the limit within which this process must
    /// serve.
    fn load(&mut self, successor: &mut Successor) -> Result<(Steps, Sockets, LastMoment), Failure> {
        let mut ports = Vec::new();
        let mut sockets = None;
        loop {
            let Message { word, descriptors, .. } = next(&mut self.wire)?;
            match word {
                Word::Port { head, modes } => {
                    let modes = (0..modes).map(|_| self.mode()).collect::<Result<_, _>>()?;
                    ports.push(GivenPort {
                        head: *head,
                        modes,
                        descriptors,
                    });
                }
                Word::Sockets { api, takeover, vmm } => {
                    let mut descriptors = descriptors.into_iter();
                    let api = Option::take_over(api, &mut descriptors).map_err(Failure::runtime)?;
                    let takeover = OfferedSocket::take_over(takeover, &mut descriptors).map_err(Failure::runtime)?;
                    let vmm = Option::take_over(vmm, &mut descriptors).map_err(Failure::runtime)?;
                    sockets = Some(Sockets { api, takeover, vmm });
                }
                Word::Done => break,
                word => return Err(unexpected(&word)),
            }
        }
        let sockets = sockets.ok_or_else(|| Failure::runtime("the running process sent no sockets"))?;
        successor.load(ports)?;
        self.wire.say(Word::Ready).map_err(lost)?;
        let Message { word, descriptors, .. } = next(&mut self.wire)?;
        let Word::Yours { mut steps } = word else {
            return Err(unexpected(&word));
        };
        let token = descriptors.into_iter().next().map(Token::from);
        let limit = LastMoment::arm(LIMIT).map_err(Failure::runtime)?;
        match token.is_some_and(|token| token.take().unwrap_or(false)) {
            true => {
                steps.end("agreed");
                Ok((steps, sockets, limit))
            }
            false => Err(Failure::runtime("it was too late: the running process has gone on")),
        }
    }

    fn mode(&mut self) -> Result<SavedMode, Failure> {
        let Message {
            word,
            blob,
            descriptors,
        } = next(&mut self.wire)?;
        match word {
            Word::Mode => Ok(SavedMode {
                payload: blob,
                descriptors,
            }),
            word => Err(unexpected(&word)),
        }
    }

    /// Ends this process. Nothing is dropped: the other process goes on with the same sockets, files and devices.
    fn give_up(&mut self, why: &Failure) -> ! {
        // If the other process has gone on already, it needs no reason.
        let _ = self.wire.say(Word::Refused(why.to_string()));
        let _ = Failure::runtime(format_args!("--takeover: {why}; the running process goes on")).report();
        std::process::exit(1)
    }
}

/// Sockets of the process, apart from those of its NICs.
struct Sockets {
    api: Option<OfferedSocket>,
    takeover: OfferedSocket,
    vmm: Option<VmmProcess>,
}

/// The next message, unless the other process refuses.
fn next(wire: &mut Wire) -> Result<Message<Word>, Failure> {
    let message = wire.receive().map_err(lost)?;
    match message.word {
        Word::Refused(why) => Err(Failure::runtime(format_args!("the running process refuses: {why}"))),
        _ => Ok(message),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            Failure::runtime("the running process has ended the takeover; its log says why")
        }
        _ => Failure::runtime(error),
    }
}

fn unexpected(word: &Word) -> Failure {
    Failure::runtime(format_args!("the running process sent {word:?} out of order"))
}
