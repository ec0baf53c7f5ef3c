//! Migrations of the process's guests: the socket that other processes connect to, and the channels that are open.
//!
//! A thread waits for sources at `--migration-socket`. The target of a migration is started by a source that connects,
//! and the source by a request of the API. Each channel belongs to one port and has a thread of its own
//! ([`hawser_backend::migration`]), so a VM with several NICs has several. They are opened together, or not at all. The peer must be a process of the same user, or of root; on another host, something
//! that has authenticated the other side connects on its behalf.

use crate::failure::Failure;
use crate::machine::{Machine, ServedNic};
use crate::sandbox::{Sandbox, ThreadKind};
use crate::watcher::{Wake, Watcher};
use hawser_backend::migration::{Arrival, Handle, Migration, Part, Report};
use hawser_backend::port::{Identity, Port};
use hawser_backend::sys::listening_socket::ListeningSocket;
use rustix::process::geteuid;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// Name of the port. Not set until the source has said which NIC it serves.
    port: Arc<OnceLock<String>>,
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
    /// None of the NICs can take part.
    #[error("{0} passed through: hawser has none of its connections")]
    PassedThrough(String),
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
        let name = Arc::new(OnceLock::new());
        let (migrations, found) = (self.clone(), Arc::clone(&name));
        let find = move |nic: &Identity| migrations.find(nic, &found);
        let arrival = Arrival::new(channel, Box::new(find)).map_err(|e| PrepareError::Start(e.to_string()))?;
        let handle = arrival.handle();
        // The thread looks for others when it knows its port.
        let mut ends = self.ends();
        let thread = self.spawn("arrival", move || arrival.run())?;
        let end = End {
            port: name,
            part: Part::Target,
            handle,
            thread,
        };
        ends.retain(|known| known.port.get().is_some() || !known.thread.is_finished());
        ends.push(end);
        Ok(())
    }

    /// The port of a NIC whose guest comes here. Its name is put into `name`.
    fn find(&self, nic: &Identity, name: &OnceLock<String>) -> Result<Arc<Port>, String> {
        let mut ports: Vec<_> = self.0.machine.nics().into_iter().filter_map(port_of).collect();
        // The only port is compared in full.
        if ports.len() > 1 {
            ports.retain(|port| nic.mac().is_some() && port.identity().mac() == nic.mac());
        }
        let port = match <[_; 1]>::try_from(ports) {
            Ok([port]) => port,
            Err(_) => return Err(no_such_nic(nic)),
        };
        let port_name = &port.config().name;
        let mut ends = self.ends();
        let is_same = |end: &End| end.is_of(port_name) && matches!(end.part, Part::Target);
        if ends.iter().any(|end| is_same(end) && end.is_open()) {
            return Err(format!("a guest is on its way to {port_name} of the target already"));
        }
        // Only the last channel of an end that is closed is kept, for the status.
        ends.retain(|end| !is_same(end));
        // Set only here.
        let _ = name.set(port_name.clone());
        Ok(port)
    }

    /// Opens the channels of `nics` to the process that listens at `to`, in which their guest will run. If one of them is
    /// refused, all of them end.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing has changed then.
    pub(crate) fn prepare(&self, nics: Vec<ServedNic>, to: &Path, drain: Duration) -> Result<(), PrepareError> {
        let names: Vec<_> = nics.iter().map(|nic| nic.name().to_owned()).collect();
        let ports: Vec<_> = nics.into_iter().filter_map(port_of).collect();
        if ports.is_empty() {
            return Err(PrepareError::PassedThrough(names.join(", ")));
        }
        let mut ends = self.ends();
        let is_source = |end: &End, name: &str| end.is_of(name) && matches!(end.part, Part::Source { .. });
        for port in &ports {
            let name = &port.config().name;
            if ends.iter().any(|end| is_source(end, name) && end.is_open()) {
                return Err(PrepareError::Busy(name.clone()));
            }
        }
        let part = Part::Source { drain };
        let open = |port: Arc<Port>| {
            let name = port.config().name.clone();
            let started = Migration::new(port, connect(to)?, drain);
            Ok((name, started.map_err(|e| PrepareError::Start(e.to_string()))?))
        };
        let opened = ports.into_iter().map(open).collect::<Result<Vec<_>, PrepareError>>()?;
        let handles: Arc<[Handle]> = opened.iter().map(|(_, migration)| migration.handle()).collect();
        for (name, migration) in opened {
            let (handle, all) = (migration.handle(), Arc::clone(&handles));
            let run = move || {
                if !migration.run() {
                    all.iter().for_each(Handle::abort);
                }
            };
            let thread = self.spawn(&name, run);
            let thread = thread.inspect_err(|_| handles.iter().for_each(Handle::abort))?;
            ends.retain(|end| !is_source(end, &name));
            ends.push(End {
                port: Arc::new(name.into()),
                part,
                handle,
                thread,
            });
        }
        Ok(())
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PrepareError> {
        let sandbox = self.0.machine.sandbox();
        let thread = sandbox.spawn(ThreadKind::Migration, &format!("move-{name}"), run);
        thread.map_err(|e| PrepareError::Start(e.to_string()))
    }

    /// The channels, those that have ended last included.
    pub(crate) fn reports(&self) -> Vec<EndReport> {
        let report = |end: &End| {
            Some(EndReport {
                port: end.port.get()?.clone(),
                part: end.part,
                report: end.handle.report(),
            })
        };
        self.ends().iter().filter_map(report).collect()
    }

    /// True if a channel is open.
    pub(crate) fn is_open(&self) -> bool {
        self.ends().iter().any(End::is_open)
    }

    /// Closes the channels of a NIC.
    pub(crate) fn abort(&self, nic: &ServedNic) {
        let ends = self.ends();
        ends.iter()
            .filter(|end| end.is_of(nic.name()))
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
    fn is_of(&self, port: &str) -> bool {
        self.port.get().is_some_and(|name| name == port)
    }

    fn is_open(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// A channel to the process that listens at `to`.
fn connect(to: &Path) -> Result<UnixStream, PrepareError> {
    let failed = |source| PrepareError::Connect {
        path: to.to_owned(),
        source,
    };
    let channel = UnixStream::connect(to).map_err(failed)?;
    if !is_of_our_user(&channel) {
        return Err(PrepareError::Stranger(to.to_owned()));
    }
    Ok(channel)
}

fn no_such_nic(nic: &Identity) -> String {
    match nic.mac() {
        Some(mac) => format!("the target serves several NICs, and none with the MAC {mac}"),
        None => "the target serves several NICs, and this one has no MAC in the configuration: give it one".to_owned(),
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
