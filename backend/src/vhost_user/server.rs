//! Accepts front ends, or connects to them, and serves them one after another.
//!
//! One front end is served at a time. The next one waits in the socket's queue. The port keeps its state from one front
//! end to the next.

use super::connection::{self, Ended};
use super::socket::{Ready, Watch, wait};
use crate::port::Port;
use crate::sys::listening_socket::{BindError, ListeningSocket};
use socket2::{Domain, SockRef, Type};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

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
    /// A system call failed.
    #[error("cannot wait for front ends: {0}")]
    System(#[from] io::Error),
}

/// Ends a server from another thread or a signal handler.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<EventFd>);

impl StopHandle {
    /// Ends the server: it closes the connection to the front end and removes the socket
    /// file. Safe in a signal handler: one write(2) to an eventfd.
    pub fn stop(&self) {
        // The write fails only when the counter is full. The server is already stopping then.
        let _ = self.0.write(1);
    }
}

impl AsRawFd for StopHandle {
    /// The eventfd. Writing a 64-bit 1 in native byte order has the same effect as [`stop`](Self::stop).
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[derive(Debug)]
enum Source {
    Listener(ListeningSocket),
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
    source: Source,
    port: Arc<Port>,
    lifetime: Lifetime,
    stop: StopHandle,
}

debug_fields!(Server { port });

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
        let stop = StopHandle(Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?));
        let ended = stop.clone();
        port.health().tell(Box::new(move || ended.stop()));
        Ok(Self {
            source,
            port,
            lifetime,
            stop,
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
        while let Some(front) = self.next_front()? {
            let name = &self.port.config().name;
            let ended = connection::serve(&self.port, front, self.stop.as_raw_fd());
            match &ended {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Silent) => log::debug!("port {name}: a peer connected and left without a message"),
                Ok(Ended::Closed) => log::info!("port {name}: the front end has gone"),
                Err(why) => log::warn!("port {name}: the connection to the front end ended: {why}"),
            }
            if self.lifetime == Lifetime::OneOff && !matches!(ended, Ok(Ended::Silent)) {
                break;
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
        Ok(())
    }

    /// The next front end; `None` if stopped, or if no more can arrive.
    fn next_front(&mut self) -> Result<Option<UnixStream>, ServeError> {
        match &mut self.source {
            Source::Connected(stream) => Ok(stream.take()),
            Source::Listener(socket) => accept(socket.listener(), self.stop.as_raw_fd()),
            Source::Connect { path, delay } => connect(path, delay, self.lifetime, self.stop.as_raw_fd()),
        }
    }
}

fn adopt(fd: OwnedFd) -> Result<Source, ServeError> {
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

fn accept(listener: &UnixListener, stop: RawFd) -> Result<Option<UnixStream>, ServeError> {
    loop {
        let watch = |fd| Watch {
            fd,
            read: true,
            write: false,
        };
        let [stopped, _] = wait([watch(stop), watch(listener.as_raw_fd())], -1)?;
        if stopped.readable {
            return Ok(None);
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // The lack of descriptors or memory may be temporary. The front end waits in the queue.
            Err(e) => {
                log::warn!("cannot accept a front end: {e}; trying again");
                if pause(stop, RETRY_MAX)? {
                    return Ok(None);
                }
            }
        }
    }
}

/// Connects after `delay`, and retries after increasing delays.
fn connect(
    path: &Path,
    delay: &mut Duration,
    lifetime: Lifetime,
    stop: RawFd,
) -> Result<Option<UnixStream>, ServeError> {
    // This check is made even without a delay: a stopped server does not connect again.
    while !pause(stop, *delay)? {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Some(stream)),
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
    Ok(None)
}

fn longer(delay: Duration) -> Duration {
    (delay * 2).clamp(RETRY_FIRST, RETRY_MAX)
}

/// Waits for `duration`. True if the server was stopped meanwhile.
fn pause(stop: RawFd, duration: Duration) -> io::Result<bool> {
    let watch = Watch {
        fd: stop,
        read: true,
        write: false,
    };
    let millis = i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    let [Ready { readable, .. }] = wait([watch], millis)?;
    Ok(readable)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
