//! The VMM that `hawser run -- VMM…` starts.
//!
//! ```text
//!  hawser run -- qemu…       parent: waits, forwards signals, exits with the VMM's status
//!    ├── hawser run …        serves the NICs      ═══ line ═══ parent
//!    └── qemu…               the VMM
//! ```
//!
//! A shell, a container or a service manager waits for the process that it started, so that one stays the same for as
//! long as the VM runs. It serves nothing. The process that serves can be replaced by another one, which gets the line.
//! Signals and notifications of the service manager cross the line too.

mod parent;
mod words;

pub(crate) use parent::be_parent;
pub(crate) use words::VmmRecord;

use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::{End, Wake, Watcher};
use crate::wire::{Message, Wire};
use hawser_config::handover::{Descriptors, Handover, HandoverError, next_of};
use hawser_config::payload::Sealed;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use words::{Event, Request};

/// The option that names the line to the parent.
pub(crate) const OPTION: &str = "--vmm-parent";

/// Passes requests to the parent. Clones share the line.
#[derive(Clone, Debug)]
pub(crate) struct ParentLine(Arc<Mutex<Wire>>);

impl ParentLine {
    fn say(&self, request: Request) {
        let mut wire = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If the parent has gone, its line says so to the thread that listens.
        let _ = wire.say(request);
    }

    /// Sends the VMM a signal.
    pub(crate) fn kill(&self, signal: i32) {
        self.say(Request::Kill(signal));
    }

    /// Tells the service manager that everything is set up.
    pub(crate) fn ready(&self, status: String) {
        self.say(Request::Ready(status));
    }

    /// Tells the service manager what is served.
    pub(crate) fn status(&self, status: String) {
        self.say(Request::Status(status));
    }

    /// Tells the service manager that the VM ends.
    pub(crate) fn stopping(&self) {
        self.say(Request::Stopping);
    }
}

/// A VMM whose parent is at the other end of a line.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    line: UnixStream,
    /// A pidfd of the VMM, which shows its end even if the parent has gone.
    vmm: OwnedFd,
    /// Signals that the parent received before the VMM ran.
    early: Vec<i32>,
}

impl VmmProcess {
    /// Has the parent start `words`, a program and its arguments.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(line: OwnedFd, words: &[OsString]) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::runtime(format_args!("the process that starts the VMM: {error}"));
        let line = UnixStream::from(line);
        let mut wire = Wire::new(line.try_clone().map_err(failed)?);
        wire.say(Request::Start(words.to_vec())).map_err(failed)?;
        let mut early = Vec::new();
        loop {
            let Message { word, descriptors, .. } = wire.receive().map_err(failed)?;
            match (word, descriptors.into_iter().next()) {
                (Event::Started, Some(vmm)) => return Ok(Self { line, vmm, early }),
                (Event::Signal(signal), _) => early.push(signal),
                (Event::NotStarted(why), _) => return Err(Failure::runtime(why)),
                (word, _) => return Err(failed(io::Error::other(format!("it said {word:?}")))),
            }
        }
    }

    /// Requests to the parent.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn parent(&self) -> Result<ParentLine, Failure> {
        let line = self.line.try_clone().map_err(Failure::runtime)?;
        Ok(ParentLine(Arc::new(Mutex::new(Wire::new(line)))))
    }

    /// A copy with duplicated descriptors.
    fn share(&self) -> io::Result<Self> {
        Ok(Self {
            line: self.line.try_clone()?,
            vmm: self.vmm.try_clone()?,
            early: Vec::new(),
        })
    }
}

impl Handover for VmmProcess {
    type Record = Sealed<VmmRecord>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        (Sealed(VmmRecord {}), vec![self.line.into(), self.vmm])
    }

    fn take_over(Sealed(VmmRecord {}): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let mut next = || next_of("the line to the VMM's parent", descriptors);
        Ok(Self {
            line: next()?.into(),
            vmm: next()?,
            early: Vec::new(),
        })
    }
}

/// What happens to a VMM.
pub(crate) trait VmmEvents: Send + Sync {
    /// The parent has received a signal.
    fn on_signal(&self, signal: i32);
    /// The VMM has ended.
    fn on_end(&self);
}

/// Listens to the parent, until it is dropped.
pub(crate) struct VmmWatch {
    process: VmmProcess,
    listening: Arc<Listening>,
    sandbox: Sandbox,
    watcher: Mutex<Option<Watcher>>,
}

/// What the listening thread uses.
struct Listening {
    events: Box<dyn VmmEvents>,
    /// Exit status of the VMM, when it has ended.
    ended: Mutex<Option<u8>>,
    changed: Condvar,
}

impl VmmWatch {
    /// Starts to listen. What has happened meanwhile is passed to `events` first.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(
        mut process: VmmProcess,
        events: impl VmmEvents + 'static,
        sandbox: &Sandbox,
    ) -> Result<Self, Failure> {
        std::mem::take(&mut process.early)
            .into_iter()
            .for_each(|signal| events.on_signal(signal));
        let watch = Self {
            process,
            listening: Arc::new(Listening {
                events: Box::new(events),
                ended: Mutex::default(),
                changed: Condvar::new(),
            }),
            sandbox: sandbox.clone(),
            watcher: Mutex::default(),
        };
        watch.go_on()?;
        Ok(watch)
    }

    /// Stops listening, so that another process can. What the parent says waits in the line.
    pub(crate) fn pause(&self) {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(watcher);
    }

    /// Listens, or listens again.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn go_on(&self) -> Result<(), Failure> {
        let VmmProcess { line, vmm, .. } = self.process.share().map_err(Failure::runtime)?;
        let listening = Arc::clone(&self.listening);
        let listen = move |end: &End| listening.listen(end, line, &vmm);
        let watcher = Watcher::start(&self.sandbox, ThreadKind::Signals, "vmm", listen)?;
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        Ok(())
    }

    /// The line and the pidfd, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn share(&self) -> io::Result<VmmProcess> {
        self.process.share()
    }

    /// Waits for the end of the VMM.
    ///
    /// # Errors
    /// Its exit status, if that is not 0.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let ended = self.listening.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.listening.changed.wait_while(ended, |ended| ended.is_none());
        match *ended.unwrap_or_else(PoisonError::into_inner) {
            Some(0) | None => Ok(()),
            Some(status) => Err(Failure::Vmm(status)),
        }
    }
}

impl Listening {
    fn listen(&self, end: &End, line: UnixStream, vmm: &OwnedFd) {
        /// Exit status of a VMM whose own nobody knows.
        const UNKNOWN: u8 = 1;
        let mut wire = Wire::new(line);
        loop {
            match end.or_event(wire.stream()) {
                Ok(Wake::Event) => {}
                Ok(Wake::End) => return,
                Err(error) => return log::error!("the end of the VMM will not be seen: {error}"),
            }
            match wire.receive().map(|message| message.word) {
                Ok(Event::Signal(signal)) => self.events.on_signal(signal),
                Ok(Event::Ended(status)) => return self.end(status),
                Ok(Event::Started | Event::NotStarted(_)) => {}
                Err(error) => {
                    log::warn!(
                        "the process that started the VMM has gone ({error}); the guest is served until its VMM ends"
                    );
                    break;
                }
            }
        }
        if matches!(end.or_event(vmm), Ok(Wake::Event)) {
            self.end(UNKNOWN);
        }
    }

    fn end(&self, status: u8) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        self.changed.notify_all();
        self.events.on_end();
    }
}
