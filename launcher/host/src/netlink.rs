//! Requests to the kernel's rtnetlink, one at a time, on a socket of the calling thread's network namespace.
//!
//! Each answer is read completely before the next request is sent. Set-up takes only a few dozen requests, so sending
//! several at once would gain nothing. A refusal is returned as the kernel's error number. The wait for an answer is
//! bounded, because the kernel drops an answer when its queue is full or memory is short.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Address of the kernel. For the local end, the same value means any address.
const KERNEL: SocketAddrNetlink = SocketAddrNetlink::new(0, 0);
/// Longest wait for an answer. The kernel answers within the request, but the request may wait for the kernel's lock on
/// all links, which other requests hold.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// Multicast group for link changes (RTNLGRP_LINK), in the form of a bit for bind(2).
const LINK_GROUP: u32 = 1;

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket for requests.
    ///
    /// # Errors
    /// The error of socket(2).
    pub fn open() -> io::Result<Self> {
        Self::bind(0, SocketFlags::CLOEXEC)
    }

    /// Opens a socket that becomes readable when a link changes (see [`drain`](Self::drain)).
    ///
    /// # Errors
    /// The error of socket(2).
    pub fn watch_links() -> io::Result<Self> {
        Self::bind(LINK_GROUP, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn bind(groups: u32, flags: SocketFlags) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a change or looks up one object. Returns all messages except the acknowledgement.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(false, &PATIENCE)
    }

    /// Lists all objects of a kind, except those that this library cannot read.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.answers(true, &PATIENCE)
    }

    /// Discards the messages of a socket that watches links. Lost messages do no harm, because a watcher reads the
    /// state of the links instead of the messages.
    pub fn drain(&self) {
        let mut buffer = Vec::new();
        loop {
            match receive(&self.socket, &mut buffer) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &KERNEL)?;
        Ok(())
    }

    fn answers(&self, lenient: bool, patience: &Timespec) -> io::Result<Vec<RouteNetlinkMessage>> {
        let (mut found, mut buffer) = (Vec::new(), Vec::new());
        loop {
            await_answer(&self.socket, patience)?;
            receive(&self.socket, &mut buffer)?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let (this, others) = split(rest)?;
                rest = others;
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(this) {
                    Ok(message) if message.header.sequence_number != self.sequence => {}
                    Ok(message) => match message.payload {
                        NetlinkPayload::InnerMessage(inner) => found.push(inner),
                        NetlinkPayload::Done(_) => return Ok(found),
                        NetlinkPayload::Error(error) => {
                            return match error.code {
                                None => Ok(found),
                                Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                            };
                        }
                        _ => {}
                    },
                    Err(error) if lenient => log::debug!("ignoring an invalid answer of rtnetlink: {error}"),
                    Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until there is something to read.
fn await_answer(socket: &OwnedFd, patience: &Timespec) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(patience)) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the kernel did not answer in time",
                ));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads one datagram of any length.
fn receive(socket: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    let (_, len) = rustix::net::recv(socket, &mut [0u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    buffer.clear();
    buffer.resize(len, 0);
    let (len, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(len);
    Ok(())
}

/// The first message of a datagram, and the bytes after it.
fn split(datagram: &[u8]) -> io::Result<(&[u8], &[u8])> {
    /// Messages begin at multiples of this number of bytes.
    const ALIGNMENT: usize = 4;
    let message = NetlinkBuffer::new_checked(datagram)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
    let padded = len.next_multiple_of(ALIGNMENT).min(datagram.len());
    Ok((&datagram[..len], &datagram[padded..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_never_comes_is_waited_for_so_long_and_no_longer() {
        let netlink = Netlink::open().unwrap();
        // No request was sent, so no answer arrives.
        let at_once = Timespec { tv_sec: 0, tv_nsec: 1 };
        let error = netlink.answers(false, &at_once).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}
