//! Accepts front ends, or connects to them, and serves them one after another.
//!
//! The rings of one front end run at a time; a second one is served up to its rings ([`fronts`](super::fronts)), and the
//! others wait in the socket's queue. The port keeps its state from one front end to the next.

use super::connection::{Connection, ConnectionError, Ended};
use super::fronts::Fronts;
use super::requests::{HandedOver, ServerRecord, SourceRecord, StopHandle};
use super::socket::{Watch, wait};
use crate::config::handover::{Descriptors, Handover as _, HandoverError, next_of};
use crate::config::payload::Sealed;
use crate::port::Port;
use crate::sys::listening_socket::{BindError, ListeningSocket, OfferedSocket};
use socket2::{Domain, SockRef, Type};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Mode of a socket file: the user and group of this process may connect.
const SOCKET_MODE: u32 = 0o660;
/// Pause before the second attempt to connect to a front end.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The way in which front ends are reached.
#[derive(Debug)]
pub enum Endpoint {
    /// They connect to a socket that the server creates at this path.
    Listen(PathBuf),
    /// They listen at this path (QEMU `server=on`), and the server connects.
    Connect(PathBuf),
    /// An open socket: connected to a front end, or listening for them.
    Fd(OwnedFd),
}

/// How long a server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the first front end has gone.
    OneOff,
    /// Until stopped; the port keeps its state between front ends.
    Persistent,
}

/// The reason why front ends cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket cannot be created.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The front end cannot be reached.
    #[error("cannot connect to the front end at {path}: {source}; start it first, with its chardev as server=on")]
    Connect {
        /// Path of the front end's socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The descriptor is not a suitable socket.
    #[error("the inherited descriptor is not a Unix stream socket: pass a connected or a listening one")]
    BadFd,
    /// A worker of the port has ended early.
    #[error("{0}; the port is no longer served")]
    Failed(String),
    /// The server of another process cannot be continued.
    #[error(transparent)]
    TakeOver(#[from] HandoverError),
    /// A system call failed.
    #[error("cannot wait for front ends: {0}")]
    System(#[from] io::Error),
}

/// The source of front ends. `L` is [`ListeningSocket`], or [`OfferedSocket`] between two processes.
#[derive(Debug)]
enum Source<L> {
    Listener(L),
    Connect {
        path: PathBuf,
        /// Pause before the next attempt to connect.
        delay: Duration,
    },
    /// A connection that was already open; `None` once it is served.
    Connected(Option<UnixStream>),
}

/// Serves the front ends of one port.
pub struct Server {
    source: Source<ListeningSocket>,
    /// The front end that another process served until now.
    front: Option<Fronts>,
    port: Arc<Port>,
    lifetime: Lifetime,
    stop: StopHandle,
}

debug_fields!(Server { port });

/// A server of another process, before this process owns it. Dropping it leaves the other process's socket alone.
pub struct StagedServer {
    source: Source<OfferedSocket>,
    front: Option<Fronts>,
    port: Arc<Port>,
    lifetime: Lifetime,
    stop: StopHandle,
}

debug_fields!(StagedServer { port });

impl Server {
    /// Prepares to serve `port` at `endpoint`; a front end can connect from now on.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is left behind.
    pub fn bind(endpoint: Endpoint, port: Arc<Port>, lifetime: Lifetime) -> Result<Self, ServeError> {
        let source = match endpoint {
            Endpoint::Listen(path) => Source::Listener(ListeningSocket::bind(&path, SOCKET_MODE)?),
            Endpoint::Connect(path) => Source::Connect {
                path,
                delay: Duration::ZERO,
            },
            Endpoint::Fd(fd) => adopt(fd)?,
        };
        Ok(Self {
            source,
            front: None,
            stop: stop_handle(&port)?,
            port,
            lifetime,
        })
    }

    /// A handle that ends [`run`](Self::run).
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves front ends until stopped, or until no more can arrive: after the first with [`Lifetime::OneOff`], and
    /// after the only one if the endpoint is a connection.
    ///
    /// # Errors
    /// [`ServeError`]. Faults of a front end are logged and do not count as errors.
    pub fn run(mut self) -> Result<(), ServeError> {
        let served = self.serve_all();
        match self.port.health().failure() {
            Some(why) => {
                self.port.set_failed();
                Err(ServeError::Failed(why.to_owned()))
            }
            None => served,
        }
    }

    fn serve_all(&mut self) -> Result<(), ServeError> {
        loop {
            let connected = match self.front.take() {
                Some(fronts) => Ok(fronts),
                None => match self.next_front()? {
                    Next::Front(stream) => self.connection(stream).map(Fronts::new),
                    Next::Interrupted if !self.hands_over(None) => continue,
                    Next::Interrupted | Next::End => return Ok(()),
                },
            };
            let listener = match (&self.source, self.lifetime) {
                (Source::Listener(socket), Lifetime::Persistent) => Some(socket.listener()),
                _ => None,
            };
            let ended = connected.and_then(|mut fronts| {
                let ended = fronts.run(&self.port, self.stop.interrupts(), listener)?;
                Ok((ended, fronts))
            });
            let ended = match ended {
                Ok((Ended::Interrupted, fronts)) => {
                    if self.hands_over(Some(fronts)) {
                        return Ok(());
                    }
                    continue;
                }
                ended => ended.map(|(ended, _)| ended),
            };
            let name = &self.port.config().name;
            match &ended {
                Ok(Ended::Silent) => log::debug!("port {name}: a peer connected and left without a message"),
                Ok(_) => log::info!("port {name}: the front end has gone"),
                Err(why) => log::warn!("port {name}: the connection to the front end ended: {why}"),
            }
            if self.lifetime == Lifetime::OneOff && !matches!(ended, Ok(Ended::Silent)) {
                return Ok(());
            }
            if let Source::Connect { delay, .. } = &mut self.source {
                // A front end that repeatedly hangs up at once must not cause a busy loop.
                *delay = if matches!(ended, Ok(Ended::Closed)) {
                    RETRY_FIRST
                } else {
                    longer(*delay)
                };
            }
        }
    }

    /// Handles an interrupt of `served` or of the wait for the next front end. True if the server ends: it was stopped,
    /// or another process continues. Otherwise it serves the same front end again.
    fn hands_over(&mut self, served: Option<Fronts>) -> bool {
        let Some(request) = self.stop.take_request() else {
            self.front = served.filter(|_| !self.stop.is_stopped());
            return self.front.is_none() && self.stop.is_stopped();
        };
        let handed = match served {
            None => Ok(None),
            Some(fronts) => fronts.hand_over().map(Some),
        };
        let front = match handed {
            Ok(front) => front,
            Err((busy, fronts)) => {
                self.front = Some(*fronts);
                // If the caller has given up, nothing was handed over.
                let _ = request.send(Err(busy.into()));
                return false;
            }
        };
        let source = std::mem::replace(&mut self.source, Source::Connected(None)).give_up();
        let (source, mut descriptors) = source.into_handover();
        let (front, of_front) = front.unzip();
        descriptors.extend(of_front.into_iter().flatten());
        let record = Sealed(ServerRecord { source, front });
        // If the caller has given up, the descriptors close here, as at the end of the process.
        let _ = request.send(Ok(HandedOver { record, descriptors }));
        true
    }

    fn connection(&self, stream: UnixStream) -> Result<Connection, ConnectionError> {
        match self.source {
            Source::Connected(_) => Connection::inherited(&self.port, stream),
            Source::Listener(_) | Source::Connect { .. } => Connection::new(&self.port, stream),
        }
    }

    fn next_front(&mut self) -> Result<Next, ServeError> {
        match &mut self.source {
            Source::Connected(stream) => Ok(stream.take().map_or(Next::End, Next::Front)),
            Source::Listener(socket) => accept(socket.listener(), &self.stop),
            Source::Connect { path, delay } => connect(path, delay, self.lifetime, &self.stop),
        }
    }
}

impl StagedServer {
    /// Prepares to continue a server of another process, with the front end that it serves.
    ///
    /// # Errors
    /// [`ServeError`]
    pub fn take_over(handed: HandedOver, port: Arc<Port>, lifetime: Lifetime) -> Result<Self, ServeError> {
        let (record, mut descriptors) = handed.split();
        let source = Source::take_over(record.source, &mut descriptors)?;
        let served = record
            .front
            .map(|record| Connection::take_over(&port, record, &mut descriptors));
        let front = served.transpose()?.map(Fronts::new);
        Ok(Self {
            source,
            front,
            stop: stop_handle(&port)?,
            port,
            lifetime,
        })
    }

    /// The server. The other process must have given it up.
    pub fn own(self) -> Server {
        Server {
            source: self.source.own(),
            front: self.front,
            port: self.port,
            lifetime: self.lifetime,
            stop: self.stop,
        }
    }
}

/// The handle of a server, which also stops if a worker of the port fails.
fn stop_handle(port: &Port) -> io::Result<StopHandle> {
    let stop = StopHandle::new()?;
    let ended = stop.clone();
    port.health().tell(Box::new(move || ended.stop()));
    Ok(stop)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.end();
    }
}

/// Result of the wait for a front end.
enum Next {
    Front(UnixStream),
    /// No more can arrive.
    End,
    /// There is a request of another thread.
    Interrupted,
}

impl Source<ListeningSocket> {
    fn give_up(self) -> Source<OfferedSocket> {
        self.map(ListeningSocket::give_up)
    }
}

impl<L> Source<L> {
    fn map<M>(self, map: impl FnOnce(L) -> M) -> Source<M> {
        match self {
            Self::Listener(socket) => Source::Listener(map(socket)),
            Self::Connect { path, delay } => Source::Connect { path, delay },
            Self::Connected(stream) => Source::Connected(stream),
        }
    }
}

impl Source<OfferedSocket> {
    fn own(self) -> Source<ListeningSocket> {
        self.map(OfferedSocket::own)
    }

    fn into_handover(self) -> (SourceRecord, Vec<OwnedFd>) {
        match self {
            Self::Listener(socket) => {
                let (record, descriptors) = socket.into_handover();
                (SourceRecord::Listener(record), descriptors)
            }
            Self::Connect { path, .. } => (SourceRecord::Connect(path), Vec::new()),
            Self::Connected(stream) => (
                SourceRecord::Connected(stream.is_some()),
                stream.into_iter().map(Into::into).collect(),
            ),
        }
    }

    fn take_over(record: SourceRecord, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        Ok(match record {
            SourceRecord::Listener(record) => Self::Listener(OfferedSocket::take_over(record, descriptors)?),
            SourceRecord::Connect(path) => Self::Connect {
                path,
                delay: Duration::ZERO,
            },
            SourceRecord::Connected(waits) => {
                let stream = waits.then(|| next_of("a connection", descriptors)).transpose()?;
                Self::Connected(stream.map(Into::into))
            }
        })
    }
}

fn adopt(fd: OwnedFd) -> Result<Source<ListeningSocket>, ServeError> {
    let socket = SockRef::from(&fd);
    if socket.domain().ok() != Some(Domain::UNIX) || socket.r#type().ok() != Some(Type::STREAM) {
        return Err(ServeError::BadFd);
    }
    if !socket.is_listener()? {
        socket.peer_addr().map_err(|_| ServeError::BadFd)?;
        return Ok(Source::Connected(Some(fd.into())));
    }
    Ok(Source::Listener(ListeningSocket::adopt(fd.into())?))
}

fn accept(listener: &UnixListener, stop: &StopHandle) -> Result<Next, ServeError> {
    loop {
        let [stopped, asked] = stop.interrupts().map(Watch::reads);
        let [stopped, asked, _] = wait([stopped, asked, Watch::reads(listener.as_raw_fd())], -1)?;
        if stopped.readable || asked.readable {
            return Ok(Next::Interrupted);
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Next::Front(stream)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // The lack of descriptors or memory may be temporary. The front end waits in the queue.
            Err(e) => {
                log::warn!("cannot accept a front end: {e}; trying again");
                if pause(stop, RETRY_MAX)? {
                    return Ok(Next::Interrupted);
                }
            }
        }
    }
}

/// Connects after `delay`, and retries after increasing delays.
fn connect(path: &Path, delay: &mut Duration, lifetime: Lifetime, stop: &StopHandle) -> Result<Next, ServeError> {
    // This check is made even without a delay: a stopped server does not connect again.
    while !pause(stop, *delay)? {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Next::Front(stream)),
            Err(source) if lifetime == Lifetime::OneOff => {
                return Err(ServeError::Connect {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(e) if delay.is_zero() => log::info!("waiting for a front end at {}: {e}", path.display()),
            Err(_) => {}
        }
        *delay = longer(*delay);
    }
    Ok(Next::Interrupted)
}

fn longer(delay: Duration) -> Duration {
    (delay * 2).clamp(RETRY_FIRST, RETRY_MAX)
}

/// Waits; true if there is a request meanwhile.
fn pause(stop: &StopHandle, duration: Duration) -> io::Result<bool> {
    let millis = i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    let ready = wait(stop.interrupts().map(Watch::reads), millis)?;
    Ok(ready.iter().any(|ready| ready.readable))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
