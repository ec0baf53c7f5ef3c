//! Messages over a non-blocking Unix socket, and waiting for several descriptors.

use super::message::{Assembler, FILES_MAX, Malformed, Message};
use crate::config::handover::{Descriptors, HandoverError, next_of};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::{io, iter};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Result of a non-blocking read.
#[derive(Debug)]
pub enum Received {
    /// A message has arrived completely.
    Message(Message),
    /// No message is complete yet.
    Nothing,
    /// The peer has closed the socket between two messages.
    End,
}

/// The reason why a socket is no longer usable.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer does not use the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Descriptors of a message did not arrive.
    #[error(
        "file descriptors of a message were lost: it had more than {FILES_MAX}, or this process cannot open \
            more (raise its limit on open files)"
    )]
    FilesLost,
    /// A system call failed.
    #[error("vhost-user socket: {0}")]
    Io(#[from] io::Error),
}

/// A socket, the message being read and the messages being written.
#[derive(Debug)]
pub struct MessageSocket {
    stream: UnixStream,
    incoming: Assembler,
    outgoing: VecDeque<Message>,
    /// Bytes of the first outgoing message that have already been sent.
    sent: usize,
}

impl MessageSocket {
    /// Wraps a connected stream.
    ///
    /// # Errors
    /// The error of fcntl(2).
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            incoming: Assembler::default(),
            outgoing: VecDeque::new(),
            sent: 0,
        })
    }

    /// Reads at most one message. Call this again until it returns [`Received::Nothing`].
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn receive(&mut self) -> Result<Received, SocketError> {
        loop {
            let (n, files) = match receive_with_files(&self.stream, self.incoming.space()) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::End),
                // The kernel has closed the descriptors that did not fit, so the message is incomplete.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Err(SocketError::FilesLost),
                Err(e) => return Err(e.into()),
            };
            if n == 0 {
                return if self.incoming.is_empty() {
                    Ok(Received::End)
                } else {
                    Err(Malformed::Cut.into())
                };
            }
            if let Some(message) = self.incoming.advance(n, files)? {
                return Ok(Received::Message(message));
            }
        }
    }

    /// Appends a message to those that are waiting to be written.
    pub fn queue(&mut self, message: Message) {
        self.outgoing.push_back(message);
    }

    /// True while messages wait for the peer to read.
    pub fn is_clogged(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Writes as much as the socket accepts now.
    ///
    /// # Errors
    /// [`io::Error`], such as EPIPE if the peer is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(message) = self.outgoing.front() {
            // Descriptors travel with the first byte.
            let files: Vec<RawFd> = match self.sent {
                0 => message.files.iter().map(AsRawFd::as_raw_fd).collect(),
                _ => Vec::new(),
            };
            let rest = &message.bytes()[self.sent..];
            match self.stream.send_with_fds(&[rest], &files) {
                Ok(n) if n < rest.len() => self.sent += n,
                Ok(_) => {
                    self.sent = 0;
                    self.outgoing.pop_front();
                }
                Err(e) => match io::Error::from_raw_os_error(e.errno()) {
                    e if e.kind() == io::ErrorKind::WouldBlock => break,
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
        Ok(())
    }
}

/// The data in transit on a socket: bytes of messages that have not been read or written completely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InTransit {
    /// The start of a message of the peer.
    incoming: Vec<u8>,
    /// Descriptors that arrived with it.
    files: usize,
    /// Answers that the peer has not read.
    outgoing: Vec<u8>,
}

impl MessageSocket {
    /// The socket for another process. Descriptors: the stream, then those of an incomplete message. Answers have none.
    pub fn into_handover(self) -> (InTransit, Vec<OwnedFd>) {
        let mut outgoing: Vec<u8> = self.outgoing.iter().flat_map(Message::bytes).copied().collect();
        outgoing.drain(..self.sent);
        let (incoming, files) = self.incoming.into_parts();
        let transit = InTransit {
            incoming,
            files: files.len(),
            outgoing,
        };
        (transit, iter::once(self.stream.into()).chain(files).collect())
    }

    /// Continues where another process stopped.
    ///
    /// # Errors
    /// [`HandoverError`]
    pub fn take_over(transit: InTransit, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let what = "the connection to the front end";
        let system = |source| HandoverError::System { what, source };
        let mut socket = Self::new(next_of(what, descriptors)?.into()).map_err(system)?;
        let files = (0..transit.files).map(|_| next_of(what, descriptors));
        let incoming = Assembler::from_parts(&transit.incoming, files.collect::<Result<_, _>>()?);
        socket.incoming = incoming.map_err(|e| system(io::Error::other(e)))?;
        if !transit.outgoing.is_empty() {
            socket.queue(Message::rest(transit.outgoing));
        }
        Ok(socket)
    }
}

impl AsRawFd for MessageSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// Calls recvmsg(2) once: reads bytes into `buf`, and the descriptors that arrived with them.
fn receive_with_files(stream: &UnixStream, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = [libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    }];
    let mut fds = [-1; FILES_MAX];
    // SAFETY: the iovec is the whole of `buf`, borrowed for the call; any bytes may be
    // written to it.
    let received = unsafe { stream.recv_with_fds(&mut iov, &mut fds) };
    let (n, files) = received.map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
    // SAFETY: the kernel has just created these descriptors for this call; nothing else owns them.
    let files = fds.iter().take(files).map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((n, files.collect()))
}

/// The events for which [`wait`] waits on a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Descriptor to watch.
    pub fd: RawFd,
    /// True to wake up when there is something to read.
    pub read: bool,
    /// True to wake up when there is room to write.
    pub write: bool,
}

impl Watch {
    /// Waits until there is something to read.
    pub const fn reads(fd: RawFd) -> Self {
        Self {
            fd,
            read: true,
            write: false,
        }
    }

    /// Waits for nothing.
    pub const IGNORED: Self = Self {
        fd: -1,
        read: false,
        write: false,
    };
}

/// Result of [`wait`] for a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// True if there is something to read, or the stream has ended.
    pub readable: bool,
    /// True if there is room to write.
    pub writable: bool,
}

/// Waits until one of the descriptors is ready, at most `timeout_ms` (-1: without a limit). A signal ends the wait
/// early with nothing ready.
///
/// # Errors
/// The error of poll(2).
pub fn wait<const N: usize>(watches: [Watch; N], timeout_ms: i32) -> io::Result<[Ready; N]> {
    let mut fds = watches.map(|w| libc::pollfd {
        // poll(2) skips a negative number. Otherwise it would report a hang-up unconditionally.
        fd: if w.read || w.write { w.fd } else { -1 },
        events: if w.read { libc::POLLIN } else { 0 } | if w.write { libc::POLLOUT } else { 0 },
        revents: 0,
    });
    // SAFETY: `fds` is an array of N pollfds, alive for the call.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return match e.kind() {
            io::ErrorKind::Interrupted => Ok([Ready::default(); N]),
            _ => Err(e),
        };
    }
    let ended = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
    Ok(fds.map(|fd| Ready {
        readable: fd.revents & (libc::POLLIN | ended) != 0,
        writable: fd.revents & (libc::POLLOUT | ended) != 0,
    }))
}
