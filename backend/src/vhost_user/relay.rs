//! The relay between the front end's socket and the daemon.
//!
//! One thread, never blocked by either side: while one does not read, nothing more is
//! read from the other, so that memory is bounded by one message each way and the
//! requests one message can become ([`super::quirks`]).

use super::message::Message;
use super::quirks::{Actions, Quirks, Refused};
use super::socket::{MessageSocket, Received, SocketError, Watch, wait};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// The front end has gone.
    Closed,
    /// Whoever connected left without a word.
    Silent,
    /// We were asked to stop.
    Stopped,
    /// The daemon hung up; it knows why.
    DaemonClosed,
    /// The front end sent something that cannot be gone on with.
    Refused(Refused),
    /// Its socket failed, or carries another protocol.
    Socket(SocketError),
}

/// A relay for one connection.
#[derive(Debug)]
pub struct Relay {
    front: MessageSocket,
    daemon: MessageSocket,
    quirks: Quirks,
    /// True once the front end has said something.
    spoken: bool,
}

impl Relay {
    /// A relay between two connected sockets.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn new(front: UnixStream, daemon: UnixStream, quirks: Quirks) -> io::Result<Self> {
        Ok(Self {
            front: MessageSocket::new(front)?,
            daemon: MessageSocket::new(daemon)?,
            quirks,
            spoken: false,
        })
    }

    /// Passes messages on until the connection ends or `stop` becomes readable.
    pub fn run(mut self, stop: RawFd, actions: &impl Actions) -> End {
        loop {
            match self.turn(stop, actions) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(e) => return End::Socket(e),
            }
        }
    }

    fn turn(&mut self, stop: RawFd, actions: &impl Actions) -> Result<Option<End>, SocketError> {
        let (to_front, to_daemon) = (self.front.is_clogged(), self.daemon.is_clogged());
        let watch = |fd: RawFd, read: bool, write: bool| Watch { fd, read, write };
        let [stopped, front, daemon] = wait(
            [
                watch(stop, true, false),
                watch(self.front.as_raw_fd(), !to_front && !to_daemon, to_front),
                watch(self.daemon.as_raw_fd(), !to_front, to_daemon),
            ],
            -1,
        )?;
        if stopped.readable {
            return Ok(Some(End::Stopped));
        }
        // The daemon first: its answers come before those to later requests, and what
        // it said before it hung up still reaches the front end.
        if daemon.readable && !to_front {
            match self.daemon.receive()? {
                Received::Message(message) => return self.send_front(message),
                Received::Nothing => {}
                Received::End => return Ok(Some(End::DaemonClosed)),
            }
        } else if front.readable && !to_front && !to_daemon {
            match self.front.receive()? {
                Received::Message(message) => return self.request(message, actions),
                Received::Nothing => {}
                Received::End if !self.spoken => return Ok(Some(End::Silent)),
                Received::End => return Ok(Some(End::Closed)),
            }
        }
        if daemon.writable {
            self.flush_daemon()?;
        }
        if front.writable {
            return self.flush_front();
        }
        Ok(None)
    }

    fn request(&mut self, message: Message, actions: &impl Actions) -> Result<Option<End>, SocketError> {
        self.spoken = true;
        let verdict = match self.quirks.on_request(message, actions) {
            Ok(verdict) => verdict,
            Err(refused) => return Ok(Some(End::Refused(refused))),
        };
        for message in verdict.to_daemon {
            self.daemon.queue(message);
        }
        self.flush_daemon()?;
        match verdict.to_front {
            Some(answer) => self.send_front(answer),
            None => Ok(None),
        }
    }

    fn send_front(&mut self, message: Message) -> Result<Option<End>, SocketError> {
        self.front.queue(message);
        self.flush_front()
    }

    fn flush_front(&mut self) -> Result<Option<End>, SocketError> {
        match self.front.flush() {
            Ok(()) => Ok(None),
            Err(e) if is_gone(&e) => Ok(Some(End::Closed)),
            Err(e) => Err(e.into()),
        }
    }

    /// A daemon that has hung up is met again when its socket is read.
    fn flush_daemon(&mut self) -> Result<(), SocketError> {
        match self.daemon.flush() {
            Err(e) if is_gone(&e) => {
                self.daemon.discard();
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
