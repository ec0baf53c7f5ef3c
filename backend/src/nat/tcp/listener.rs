//! Listening sockets for connections to the guest.

use super::host_socket;
use crate::config::{Families, Forward, Transport};
use crate::counters::{Counters, DropReason};
use crate::mode::{ForwardSocket, GuestPort};
use crate::nat::event_owner;
use crate::nat::listen::{self, ListenError};
use crate::poller::{Interest, Poller, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use slab::Slab;
use socket2::Socket;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;

/// A client whose connection was accepted.
#[derive(Debug)]
pub(super) struct Client {
    /// Connected socket.
    pub stream: Socket,
    /// Address of the client.
    pub address: SocketAddr,
    /// Port of the guest to which the client connects.
    pub guest_port: u16,
}

/// Result of accepting the next client.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A client was accepted.
    Client(Client),
    /// No client is waiting.
    NoClient,
    /// No descriptor or memory is left.
    Limited,
}

/// The port of the guest that `client` is for.
fn guest_port(of: GuestPort, client: &Socket) -> io::Result<u16> {
    match of {
        GuestPort::One(port) => Ok(port),
        GuestPort::AsAsked => {
            let asked = client.local_addr()?.as_socket();
            // The kernel reports the local end of every TCP connection.
            Ok(asked.ok_or(io::ErrorKind::InvalidData)?.port())
        }
    }
}

#[derive(Debug)]
struct Listener {
    bound: ForwardSocket,
    /// True if the listener is in `Listeners::waiting`.
    is_waiting: bool,
}

/// The listening sockets of one worker.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: Slab<Listener>,
    /// Listeners whose clients may be waiting, because of a limit or because it is not their turn.
    waiting: VecDeque<usize>,
}

impl Listeners {
    /// Listens for the TCP forwards of `forwards` on all their addresses.
    ///
    /// # Errors
    /// The error of the first port that cannot be bound.
    pub(super) fn bind(forwards: &[Forward], families: Families, poller: &Poller) -> Result<Self, ListenError> {
        let mut all = Self::default();
        for forward in forwards.iter().filter(|f| f.transport == Transport::Tcp) {
            listen::listen(families, forward, |at, guest_port| {
                let (socket, guest_port) = (host_socket::listen(at)?, GuestPort::One(guest_port));
                all.adopt(ForwardSocket { socket, at, guest_port }, poller)
            })?;
        }
        Ok(all)
    }

    /// Accepts clients of a socket that is already listening.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub(super) fn adopt(&mut self, bound: ForwardSocket, poller: &Poller) -> io::Result<()> {
        let index = u32::try_from(self.listeners.vacant_key()).unwrap_or(u32::MAX);
        let token = Token::new(event_owner::TCP_LISTENER, index);
        poller.add(&bound.socket, token, Interest::ReadEdge)?;
        self.listeners.insert(Listener {
            bound,
            is_waiting: false,
        });
        Ok(())
    }

    /// Stops accepting clients and returns the listening sockets.
    pub(super) fn release(&mut self, poller: &Poller) -> Vec<ForwardSocket> {
        self.waiting.clear();
        let released = self.listeners.drain().map(|listener| listener.bound);
        released
            .inspect(|bound| {
                // Fails only for a socket that is not watched.
                let _ = poller.remove(&bound.socket);
            })
            .collect()
    }

    /// Copies of the listening sockets. Both copies accept the same clients.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn share(&self) -> io::Result<Vec<ForwardSocket>> {
        self.listeners
            .iter()
            .map(|(_, listener)| listener.bound.share())
            .collect()
    }

    /// Closes the sockets that are bound to `addresses`.
    pub(super) fn close(&mut self, addresses: &HashSet<SocketAddr>) {
        self.listeners
            .retain(|_, listener| !addresses.contains(&listener.bound.at));
        let listeners = &self.listeners;
        self.waiting.retain(|index| listeners.contains(*index));
    }

    /// Accepts the next client of listener `index`.
    pub(super) fn accept(&mut self, index: usize, counters: &Counters) -> Accepted {
        let Some(listener) = self.listeners.get_mut(index) else {
            return Accepted::NoClient;
        };
        loop {
            let ForwardSocket {
                socket, guest_port: of, ..
            } = &listener.bound;
            match host_socket::accept(socket) {
                Ok((stream, address)) => {
                    let Ok(guest_port) = guest_port(*of, &stream) else {
                        counters.count_drop(DropReason::SocketError);
                        continue;
                    };
                    return Accepted::Client(Client {
                        stream,
                        address,
                        guest_port,
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::NoClient,
                Err(e) if is_of_one_client(&e) => {}
                // The kernel allocates a descriptor before it looks for a client.
                Err(_) if has_client(socket) => return Accepted::Limited,
                Err(_) => return Accepted::NoClient,
            }
        }
    }

    /// Postpones the clients of listener `index`.
    pub(super) fn put_off(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index)
            && !std::mem::replace(&mut listener.is_waiting, true)
        {
            self.waiting.push_back(index);
        }
    }

    /// Assumes that clients wait at every listener, because events may have been missed.
    pub(super) fn put_off_all(&mut self) {
        let all: Vec<_> = self.listeners.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.put_off(index));
    }

    /// Number of listeners with waiting clients.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the listener whose clients have waited longest.
    pub(super) fn next_waiting(&mut self) -> Option<usize> {
        let index = self.waiting.pop_front()?;
        self.listeners[index].is_waiting = false;
        Some(index)
    }
}

fn has_client(listener: &Socket) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    // This fails only for lack of memory. In that case a client is assumed to be waiting.
    poll(&mut asked, Some(&Timespec::default())) != Ok(0)
}

/// True for errors that concern one client only (accept(2)).
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTUNREACH)
    )
}
