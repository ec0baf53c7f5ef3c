//! Migrations of the process's guests: the socket that other processes connect to, and the channels that are open.
//!
//! A thread waits for sources at `--migration-socket`. The target of a migration is started by a source that connects,
//! and the source by a request of the API. Each channel belongs to one port and has a thread of its own
//! ([`hawser_backend::migration`]). The peer must be a process of the same user, or of root; on another host, something
//! that has authenticated the other side connects on its behalf.

use crate::failure::Failure;
use crate::machine::{Machine, ServedNic};
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::{Wake, Watcher};
use hawser_backend::migration::{Handle, Migration, Part, Report};
use hawser_backend::port::Port;
use hawser_backend::sys::listening_socket::ListeningSocket;
use rustix::process::geteuid;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// The migrations of a machine.
#[derive(Clone)]
pub(crate) struct Migrations(Arc<Shared>);

struct Shared {
    machine: Arc<Machine>,
    ends: Mutex<Vec<End>>,
}

/// One end of a channel.
struct End {
    port: String,
    part: Part,
    handle: Handle,
    thread: JoinHandle<()>,
}

/// A channel, as the operator sees it.
#[derive(Clone, Debug)]
pub(crate) struct EndReport {
    /// Name of the port.
    pub port: String,
    /// The end that this process is.
    pub part: Part,
    /// Its state.
    pub report: Report,
}

/// The reason why a migration cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// The other process does not listen there.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// Path of its socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The process there belongs to someone else.
    #[error("the process that listens at {0} belongs to another user")]
    Stranger(PathBuf),
    /// The port has a channel.
    #[error("a migration of {0} is prepared already")]
    Busy(String),
    /// The thread cannot start.
    #[error("{0}")]
    Start(String),
}

/// The thread that waits for sources. Dropping it ends the thread and removes the socket.
pub(crate) struct Arrivals {
    _watcher: Watcher,
    _socket: ListeningSocket,
}

impl Migrations {
    /// The migrations of `machine`, of which there are none yet.
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self(Arc::new(Shared {
            machine,
            ends: Mutex::default(),
        }))
    }

    /// Listens at `path`. Sources that connect before [`accept`](Self::accept) wait in the socket's queue.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(crate) fn listen(path: &Path, sandbox: &Sandbox) -> Result<ListeningSocket, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::runtime(format_args!("--migration-socket: {error}"));
        let socket = ListeningSocket::bind(path, SOCKET_MODE).map_err(|error| failed(&error))?;
        sandbox.own(path).map_err(|error| failed(&error))?;
        Ok(socket)
    }

    /// Accepts sources until the result is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn accept(&self, socket: ListeningSocket) -> Result<Arrivals, Failure> {
        let listener = socket.listener().try_clone();
        let listener = listener.map_err(|e| Failure::runtime(format_args!("--migration-socket: {e}")))?;
        let migrations = self.clone();
        let sandbox = self.0.machine.sandbox();
        let watcher = Watcher::start(sandbox, ThreadKind::Launcher, "migrations", move |end| {
            let mut is_told = false;
            while matches!(end.or_event(&listener), Ok(Wake::Event)) {
                let Ok((channel, _)) = listener.accept() else { continue };
                if !is_of_our_user(&channel) {
                    if !std::mem::replace(&mut is_told, true) {
                        log::warn!("a process of another user connected to --migration-socket and was refused");
                    }
                    continue;
                }
                if let Err(why) = migrations.arrive(channel) {
                    log::warn!("a migration to this process was refused: {why}");
                }
            }
        })?;
        Ok(Arrivals {
            _watcher: watcher,
            _socket: socket,
        })
    }

    /// Begins as the target of a source that has connected.
    fn arrive(&self, channel: UnixStream) -> Result<(), PrepareError> {
        let mut ports = self.0.machine.nics().into_iter().filter_map(port_of);
        match (ports.next(), ports.next()) {
            (Some(port), None) => self.begin(port, channel, Part::Target),
            _ => Err(PrepareError::Start(
                "this process serves several NICs, or none".to_owned(),
            )),
        }
    }

    /// Opens the channel of `nic` to the process that listens at `to`, in which its guest will run.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing has changed then.
    pub(crate) fn prepare(&self, nic: ServedNic, to: &Path, drain: Duration) -> Result<(), PrepareError> {
        let name = nic.name().to_owned();
        let port = port_of(nic).ok_or_else(|| PrepareError::Start(format!("{name} is passed through")))?;
        let failed = |source| PrepareError::Connect {
            path: to.to_owned(),
            source,
        };
        let channel = UnixStream::connect(to).map_err(failed)?;
        if !is_of_our_user(&channel) {
            return Err(PrepareError::Stranger(to.to_owned()));
        }
        self.begin(port, channel, Part::Source { drain })
    }

    fn begin(&self, port: Arc<Port>, channel: UnixStream, part: Part) -> Result<(), PrepareError> {
        let name = port.config().name.clone();
        let mut ends = self.ends();
        let is_busy = |end: &End| end.port == name && end.part_is(part) && !end.thread.is_finished();
        if ends.iter().any(is_busy) {
            return Err(PrepareError::Busy(name));
        }
        let failed = |e: &dyn std::fmt::Display| PrepareError::Start(e.to_string());
        let migration = Migration::new(port, channel, part).map_err(|e| failed(&e))?;
        let handle = migration.handle();
        let sandbox = self.0.machine.sandbox();
        let thread = sandbox.spawn(ThreadKind::Migration, &format!("move-{name}"), || migration.run());
        let thread = thread.map_err(|e| failed(&e))?;
        // Only the last channel of an end that is closed is kept, for the status.
        ends.retain(|end| end.port != name || !end.part_is(part));
        ends.push(End {
            port: name,
            part,
            handle,
            thread,
        });
        Ok(())
    }

    /// The channels, those that have ended last included.
    pub(crate) fn reports(&self) -> Vec<EndReport> {
        let report = |end: &End| EndReport {
            port: end.port.clone(),
            part: end.part,
            report: end.handle.report(),
        };
        self.ends().iter().map(report).collect()
    }

    /// True if a channel is open.
    pub(crate) fn is_open(&self) -> bool {
        self.ends().iter().any(|end| !end.thread.is_finished())
    }

    /// Closes the channels of a port.
    pub(crate) fn abort(&self, port: &str) {
        let ends = self.ends();
        ends.iter()
            .filter(|end| end.port == port)
            .for_each(|end| end.handle.abort());
    }

    /// Closes all channels and waits for their threads.
    pub(crate) fn end(&self) {
        let ends = std::mem::take(&mut *self.ends());
        ends.iter().for_each(|end| end.handle.abort());
        for end in ends {
            // A thread that panicked has already printed its message.
            let _ = end.thread.join();
        }
    }

    fn ends(&self) -> MutexGuard<'_, Vec<End>> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn part_is(&self, part: Part) -> bool {
        matches!(
            (self.part, part),
            (Part::Target, Part::Target) | (Part::Source { .. }, Part::Source { .. })
        )
    }
}

fn port_of(nic: ServedNic) -> Option<Arc<Port>> {
    match nic {
        ServedNic::VhostUser { port, .. } => Some(port),
        ServedNic::PassedThrough(_) => None,
    }
}

/// True if the process at the other end belongs to the user of this process, or to root.
fn is_of_our_user(channel: &UnixStream) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(channel);
    peer.is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}
