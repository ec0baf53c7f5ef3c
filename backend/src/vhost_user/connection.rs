//! Serves one connection of a front end, from the first message to the last.
//!
//! A connection can also continue in another process ([`Connection::hand_over`]): it ends here between two reads, and
//! the front end stays connected.
//!
//! The connection never blocks on the front end. While answers wait because the front end does not read, no requests
//! are read, so memory is bounded by one message in each direction.

use super::device::Device;
use super::message::Message;
use super::ring::RingHost;
use super::session::{Busy, Refused, Rejected, Session, SessionRecord};
#[cfg(test)]
use super::socket::wait;
use super::socket::{InTransit, MessageSocket, Ready, Received, SocketError, Watch};
use crate::config::handover::{Descriptors, HandoverError};
use crate::port::Port;
use serde::{Deserialize, Serialize};
use std::io;
#[cfg(test)]
use std::os::fd::RawFd;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A normal end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The front end has gone.
    Closed,
    /// The peer connected and closed the connection without a message, so it was not a front end.
    Silent,
    /// The server was stopped, or another process wants to continue.
    Interrupted,
}

/// The reason why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The front end violated the protocol.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The socket failed, or the peer uses another protocol.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A system call failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A ring cannot be created.
    #[error("{0}")]
    Ring(#[from] virtio_queue::Error),
}

/// A connection without its descriptors, which are those of the socket, then those of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    transit: InTransit,
    spoken: bool,
    session: SessionRecord,
}

/// The connection of one front end with a port.
pub struct Connection {
    socket: FrontSocket,
    session: Session<Device>,
}

debug_fields!(Connection { socket });

/// How a session begins.
type Begin = fn(Device, Vec<Box<dyn RingHost>>) -> Result<Session<Device>, virtio_queue::Error>;

impl Connection {
    /// The connection of a front end that has just connected.
    ///
    /// # Errors
    /// [`ConnectionError`]
    pub fn new(port: &Arc<Port>, front: UnixStream) -> Result<Self, ConnectionError> {
        Self::with(Device::new(Arc::clone(port)), front, Session::new)
    }

    /// The connection of the only front end, which was open when the process started.
    ///
    /// # Errors
    /// [`ConnectionError`]
    pub fn inherited(port: &Arc<Port>, front: UnixStream) -> Result<Self, ConnectionError> {
        Self::with(Device::on_inherited(Arc::clone(port)), front, Session::new)
    }

    /// The connection of a front end while another one is served.
    ///
    /// # Errors
    /// [`ConnectionError`]
    pub fn on_standby(port: &Arc<Port>, front: UnixStream) -> Result<Self, ConnectionError> {
        Self::with(Device::new(Arc::clone(port)), front, Session::on_standby)
    }

    fn with(device: Device, front: UnixStream, begin: Begin) -> Result<Self, ConnectionError> {
        let hosts = device.ring_hosts();
        Ok(Self {
            session: begin(device, hosts)?,
            socket: FrontSocket::new(front)?,
        })
    }

    /// The session.
    pub(super) const fn session(&mut self) -> &mut Session<Device> {
        &mut self.session
    }

    /// What to wait for.
    pub(super) fn watch(&self) -> Watch {
        self.socket.watch()
    }

    /// Handles what is ready. Returns the end of the connection, once it has come.
    pub(super) fn step(&mut self, ready: Ready) -> Result<Option<Ended>, ConnectionError> {
        let session = &mut self.session;
        self.socket.step(ready, |request| session.on_request(request))
    }

    /// Splits the connection into a record and descriptors, for [`take_over`](Self::take_over) in another process or,
    /// if that fails, in this one.
    ///
    /// # Errors
    /// [`Busy`], with the connection, which continues.
    pub fn hand_over(mut self) -> Result<(ConnectionRecord, Vec<OwnedFd>), (Busy, Box<Self>)> {
        let (session, of_session) = match self.session.hand_over() {
            Ok(parts) => parts,
            Err(busy) => return Err((busy, Box::new(self))),
        };
        let (transit, mut descriptors) = self.socket.front.into_handover();
        descriptors.extend(of_session);
        let record = ConnectionRecord {
            transit,
            spoken: self.socket.spoken,
            session,
        };
        Ok((record, descriptors))
    }

    /// Continues a connection of another process.
    ///
    /// # Errors
    /// [`HandoverError`]
    pub fn take_over(
        port: &Arc<Port>,
        record: ConnectionRecord,
        descriptors: &mut Descriptors,
    ) -> Result<Self, HandoverError> {
        let front = MessageSocket::take_over(record.transit, descriptors)?;
        let device = Device::new(Arc::clone(port));
        let hosts = device.ring_hosts();
        Ok(Self {
            session: Session::take_over(device, hosts, record.session, descriptors)?,
            socket: FrontSocket {
                front,
                spoken: record.spoken,
            },
        })
    }
}

/// The socket of a front end.
#[derive(Debug)]
struct FrontSocket {
    front: MessageSocket,
    /// True once the front end has sent a message.
    spoken: bool,
}

impl FrontSocket {
    /// # Errors
    /// The error of fcntl(2).
    fn new(front: UnixStream) -> io::Result<Self> {
        Ok(Self {
            front: MessageSocket::new(front)?,
            spoken: false,
        })
    }

    /// Answers requests until the connection ends or one of `interrupts` becomes readable.
    #[cfg(test)]
    fn run(
        &mut self,
        interrupts: [RawFd; 2],
        mut answer: impl FnMut(Message) -> Result<Option<Message>, Box<Rejected>>,
    ) -> Result<Ended, ConnectionError> {
        loop {
            let [first, second] = interrupts.map(Watch::reads);
            let [first, second, front] = wait([first, second, self.watch()], -1)?;
            if first.readable || second.readable {
                return Ok(Ended::Interrupted);
            }
            if let Some(ended) = self.step(front, &mut answer)? {
                return Ok(ended);
            }
        }
    }

    fn watch(&self) -> Watch {
        let clogged = self.front.is_clogged();
        Watch {
            fd: self.front.as_raw_fd(),
            read: !clogged,
            write: clogged,
        }
    }

    fn step(
        &mut self,
        ready: Ready,
        answer: impl FnOnce(Message) -> Result<Option<Message>, Box<Rejected>>,
    ) -> Result<Option<Ended>, ConnectionError> {
        if ready.readable && !self.front.is_clogged() {
            match self.front.receive()? {
                Received::Message(request) => {
                    self.spoken = true;
                    self.answer(answer(request))?;
                }
                Received::Nothing => {}
                Received::End if self.spoken => return Ok(Some(Ended::Closed)),
                Received::End => return Ok(Some(Ended::Silent)),
            }
        }
        match self.front.flush() {
            Err(e) if is_gone(&e) => Ok(Some(Ended::Closed)),
            flushed => flushed.map(|()| None).map_err(|e| SocketError::from(e).into()),
        }
    }

    /// Queues an answer. The last answer of a connection is written as far as the socket has room.
    fn answer(&mut self, answer: Result<Option<Message>, Box<Rejected>>) -> Result<(), Refused> {
        let (message, refused) = match answer {
            Ok(message) => (message, Ok(())),
            Err(rejected) => (rejected.answer, Err(rejected.why)),
        };
        if let Some(message) = message {
            self.front.queue(message);
        }
        refused.inspect_err(|_| {
            // If the front end is gone or does not read, only this message is lost.
            let _ = self.front.flush();
        })
    }
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
