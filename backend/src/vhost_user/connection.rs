//! Serves one connection of a front end, from the first message to the last.
//!
//! The connection never blocks on the front end. While answers wait because the front end does not read, no requests
//! are read, so memory is bounded by one message in each direction.

use super::device::Device;
use super::message::Message;
use super::session::{Refused, Rejected, Session};
use super::socket::{MessageSocket, Received, SocketError, Watch, wait};
use crate::port::Port;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A normal end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The front end has gone.
    Closed,
    /// The peer connected and closed the connection without a message, so it was not a front end.
    Silent,
    /// The server was stopped.
    Stopped,
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

/// Serves one front end until it disconnects or `stop` becomes readable.
///
/// # Errors
/// [`ConnectionError`]
pub fn serve(port: &Arc<Port>, front: UnixStream, stop: RawFd) -> Result<Ended, ConnectionError> {
    let device = Device::new(Arc::clone(port));
    let hosts = device.ring_hosts();
    let mut session = Session::new(device, hosts)?;
    Connection::new(front)?.run(stop, |request| session.on_request(request))
}

/// The socket of a front end.
#[derive(Debug)]
struct Connection {
    front: MessageSocket,
    /// True once the front end has sent a message.
    spoken: bool,
}

impl Connection {
    /// # Errors
    /// The error of fcntl(2).
    fn new(front: UnixStream) -> io::Result<Self> {
        Ok(Self {
            front: MessageSocket::new(front)?,
            spoken: false,
        })
    }

    /// Answers requests until the connection ends or `stop` becomes readable.
    fn run(
        mut self,
        stop: RawFd,
        mut answer: impl FnMut(Message) -> Result<Option<Message>, Box<Rejected>>,
    ) -> Result<Ended, ConnectionError> {
        loop {
            let clogged = self.front.is_clogged();
            let watch = |fd: RawFd, read: bool, write: bool| Watch { fd, read, write };
            let [stopped, front] = wait(
                [
                    watch(stop, true, false),
                    watch(self.front.as_raw_fd(), !clogged, clogged),
                ],
                -1,
            )?;
            if stopped.readable {
                return Ok(Ended::Stopped);
            }
            if front.readable && !clogged {
                match self.front.receive()? {
                    Received::Message(request) => {
                        self.spoken = true;
                        self.answer(answer(request))?;
                    }
                    Received::Nothing => {}
                    Received::End if self.spoken => return Ok(Ended::Closed),
                    Received::End => return Ok(Ended::Silent),
                }
            }
            match self.front.flush() {
                Err(e) if is_gone(&e) => return Ok(Ended::Closed),
                flushed => flushed.map_err(SocketError::from)?,
            }
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
