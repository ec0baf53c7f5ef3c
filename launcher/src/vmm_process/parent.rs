//! The parent: the process that the operator started, which starts the one that serves and the VMM.

use super::OPTION;
use super::words::{Event, Request};
use crate::background;
use crate::failure::Failure;
use crate::notification;
use crate::sandbox::{Needs, Reach, Sandbox, SandboxArgs, ThreadKind};
use crate::wire::{Message, Wire};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};

/// Signals for the serving process.
const FORWARDED: [i32; 3] = [SIGTERM, SIGINT, SIGUSR1];

/// Starts this program again as the process that serves, and stays until that one and the VMM have ended.
///
/// # Errors
/// The exit status of the VMM, or of the serving process if that has failed.
pub(crate) fn be_parent(sandbox: SandboxArgs) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::runtime(format_args!("cannot start the process that serves: {error}"));
    let signals = Incoming::catch().map_err(failed)?;
    let (line, server) = start_server().map_err(failed)?;
    let mut parent = Parent {
        line: Wire::new(line),
        server: Some(Ward::new(server).map_err(failed)?),
        vmm: None,
        status: None,
        served: None,
    };
    parent.accompany(&signals, sandbox)?;
    // The descriptors of a process close before it can be waited for.
    if let Some(mut server) = parent.server.take() {
        parent.served = Some(server.child.wait().map_err(Failure::runtime)?);
    }
    let served = parent.served.map_or(0, status_of);
    match (parent.status, &parent.vmm) {
        (None, Some(_)) => Err(Failure::runtime(
            "the process that serves the guest has ended; its VMM goes on without a network",
        )),
        _ if served != 0 => Err(Failure::Vmm(served)),
        (None | Some(0), _) => Ok(()),
        (Some(status), _) => Err(Failure::Vmm(status)),
    }
}

/// Starts this program with the same arguments and the line.
fn start_server() -> io::Result<(UnixStream, Child)> {
    /// Word before the VMM's own arguments.
    const VMM: &str = "--";
    let (ours, theirs) = UnixStream::pair()?;
    // No other thread starts programs meanwhile.
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut command = background::this_program()?;
    let mut words = std::env::args_os().skip(1).peekable();
    while let Some(word) = words.next_if(|word| word != VMM) {
        command.arg(word);
    }
    command.arg(format!("{OPTION}={}", theirs.as_raw_fd()));
    Ok((ours, command.args(words).spawn()?))
}

/// Signals as bytes of sockets.
struct Incoming(Vec<(i32, UnixStream)>);

impl Incoming {
    fn catch() -> io::Result<Self> {
        let catch = |signal| {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            pipe::register(signal, writer)?;
            Ok((signal, reader))
        };
        FORWARDED.into_iter().map(catch).collect::<io::Result<_>>().map(Self)
    }

    /// The signals that have arrived.
    fn take(&self) -> impl Iterator<Item = i32> {
        /// Signals that arrive together count as one, as in the kernel.
        const MERGED: usize = 16;
        self.0.iter().filter_map(|(signal, reader)| {
            let mut reader = reader;
            matches!(reader.read(&mut [0; MERGED]), Ok(1..)).then_some(*signal)
        })
    }
}

/// A child of the parent.
struct Ward {
    child: Child,
    handle: OwnedFd,
}

impl Ward {
    fn new(mut child: Child) -> io::Result<Self> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(handle) => Ok(Self { child, handle }),
            Err(error) => {
                // Without a pidfd it could not be ended later.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    fn send(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // This fails only if the process has ended.
            let _ = pidfd_send_signal(&self.handle, signal);
        }
    }

    /// The exit status, if it has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// The exit status that shells show.
fn status_of(status: ExitStatus) -> u8 {
    /// Number that shells add to the signal that ended a program.
    const SIGNALLED: i32 = 128;
    let signalled = || status.signal().map(|signal| SIGNALLED + signal);
    let code = status.code().or_else(signalled);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct Parent {
    line: Wire,
    /// The serving process that the parent has started, until it has ended. Another one may have replaced it.
    server: Option<Ward>,
    /// The VMM while it runs.
    vmm: Option<Ward>,
    /// Exit status of the VMM, when it has ended.
    status: Option<u8>,
    /// How the serving process has ended that the parent has started.
    served: Option<ExitStatus>,
}

impl Parent {
    /// Serves the line until its other end is closed.
    fn accompany(&mut self, signals: &Incoming, sandbox: SandboxArgs) -> Result<(), Failure> {
        loop {
            let line_is_ready = self.wait(signals).map_err(Failure::runtime)?;
            for signal in signals.take() {
                match (&self.vmm, &self.server) {
                    // It does not listen yet.
                    (None, Some(server)) if self.status.is_none() => server.send(signal),
                    _ => self.tell(Event::Signal(signal)),
                }
            }
            if let Some(status) = self.vmm.as_mut().and_then(Ward::ended).map(status_of) {
                (self.vmm, self.status) = (None, Some(status));
                self.tell(Event::Ended(status));
            }
            if let Some(status) = self.server.as_mut().and_then(Ward::ended) {
                (self.server, self.served) = (None, Some(status));
            }
            if !line_is_ready {
                continue;
            }
            match self.line.receive().map(|message| message.word) {
                Ok(Request::Start(words)) => {
                    self.start(&words);
                    confine(sandbox)?;
                }
                Ok(Request::Kill(signal)) => {
                    if let Some(vmm) = &self.vmm {
                        vmm.send(signal);
                    }
                }
                Ok(Request::Ready(status)) => notification::ready(&status),
                Ok(Request::Status(status)) => notification::status(&status),
                Ok(Request::Stopping) => notification::stopping(),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Waits for anything to happen. True if the line has something.
    fn wait(&self, signals: &Incoming) -> io::Result<bool> {
        let wards = [&self.server, &self.vmm]
            .into_iter()
            .flatten()
            .map(|ward| ward.handle.as_fd());
        let signals = signals.0.iter().map(|(_, reader)| reader.as_fd());
        let all = [self.line.stream().as_fd()].into_iter().chain(wards).chain(signals);
        let mut waits: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut waits, None) {
            Ok(_) => Ok(!waits[0].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn tell(&mut self, event: Event) {
        // If nothing listens any more, the line shows it.
        let _ = self.line.say(event);
    }

    /// Starts the VMM.
    fn start(&mut self, words: &[OsString]) {
        let start = || -> Result<(Ward, OwnedFd), String> {
            let [program, arguments @ ..] = words else {
                return Err("name a VMM after --".to_owned());
            };
            let failed = |error: io::Error| format!("{}: {error}", program.display());
            let vmm = Command::new(program).args(arguments).spawn().map_err(failed)?;
            let vmm = Ward::new(vmm).map_err(failed)?;
            let handle = vmm.handle.try_clone().map_err(failed)?;
            Ok((vmm, handle))
        };
        match start() {
            Ok((vmm, handle)) => {
                self.vmm = Some(vmm);
                let started = Message {
                    descriptors: vec![handle],
                    ..Message::of(Event::Started)
                };
                let _ = self.line.send(started);
            }
            Err(why) => self.tell(Event::NotStarted(why)),
        }
    }
}

/// Drops everything that a parent does not need.
fn confine(args: SandboxArgs) -> Result<(), Failure> {
    let needs = Needs {
        reach: Reach {
            signals: true,
            abstract_sockets: notification::is_abstract(),
            ..Reach::default()
        },
        ..Needs::default()
    };
    let sandbox = Sandbox::new(args, needs)?;
    sandbox.enter(ThreadKind::VmmParent).map_err(Failure::runtime)
}
