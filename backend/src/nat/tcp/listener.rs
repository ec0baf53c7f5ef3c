//! Listening sockets for connections to the guest.

use super::{TcpFlows, host_socket};
use crate::config::{Families, Forward, Transport};
use crate::counters::{Counters, DropReason};
use crate::mode::ForwardSocket;
use crate::nat::event_owner;
use crate::nat::listen::{self, ListenError};
use crate::poller::{Interest, Poller, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use slab::Slab;
use socket2::Socket;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;

/// An accepted client.
#[derive(Debug)]
pub struct Client {
    /// Its connected socket.
    pub stream: Socket,
    /// Its address.
    pub address: SocketAddr,
    /// The guest's port that it connects to.
    pub guest_port: u16,
}

/// Result of accepting the next client.
#[derive(Debug)]
pub enum Accepted {
    /// A client.
    Client(Client),
    /// No client is waiting.
    NoClient,
    /// No descriptor or no memory is left.
    Limited,
}

/// The guest's port for clients of a listening socket.
#[derive(Clone, Copy, Debug)]
pub enum GuestPort {
    /// This port.
    One(u16),
    /// The port that the client connected to.
    AsAsked,
}

impl GuestPort {
    fn of(self, client: &Socket) -> io::Result<u16> {
        match self {
            Self::One(port) => Ok(port),
            Self::AsAsked => {
                let asked = client.local_addr()?.as_socket();
                // The kernel reports the local end of every TCP connection.
                Ok(asked.ok_or(io::ErrorKind::InvalidData)?.port())
            }
        }
    }
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    guest_port: GuestPort,
    /// True if it is in `Listeners::waiting`.
    is_waiting: bool,
}

/// The listening sockets of one worker.
#[derive(Debug, Default)]
pub struct Listeners {
    listeners: Slab<Listener>,
    /// Sockets whose clients may be waiting, because of a limit or for their turn.
    waiting: VecDeque<usize>,
}

impl Listeners {
    /// Listens for the TCP forwards of `forwards` on all their addresses.
    ///
    /// # Errors
    /// The error of the first port that cannot be bound.
    pub fn bind(forwards: &[Forward], families: Families, poller: &Poller) -> Result<Self, ListenError> {
        let mut all = Self::default();
        for forward in forwards.iter().filter(|f| f.transport == Transport::Tcp) {
            listen::listen(families, forward, |at, guest_port| {
                all.add(host_socket::listen(at)?, GuestPort::One(guest_port), poller)
            })?;
        }
        Ok(all)
    }

    /// Accepts clients of a socket that is already listening.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub fn adopt(&mut self, listening: ForwardSocket, poller: &Poller) -> io::Result<()> {
        self.add(listening.socket, GuestPort::One(listening.guest_port), poller)
    }

    /// Accepts clients of a listening socket.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub fn add(&mut self, socket: Socket, guest_port: GuestPort, poller: &Poller) -> io::Result<()> {
        let index = u32::try_from(self.listeners.vacant_key()).unwrap_or(u32::MAX);
        poller.add(
            &socket,
            Token::new(event_owner::TCP_LISTENER, index),
            Interest::ReadEdge,
        )?;
        self.listeners.insert(Listener {
            socket,
            guest_port,
            is_waiting: false,
        });
        Ok(())
    }

    /// Closes the sockets that are bound to `addresses`.
    pub fn close(&mut self, addresses: &HashSet<SocketAddr>) {
        let local = |socket: &Socket| socket.local_addr().ok()?.as_socket();
        self.listeners
            .retain(|_, listener| local(&listener.socket).is_none_or(|at| !addresses.contains(&at)));
        let listeners = &self.listeners;
        self.waiting.retain(|index| listeners.contains(*index));
    }

    /// Accepts the next client of listener `index`.
    pub fn accept(&mut self, index: usize, counters: &Counters) -> Accepted {
        let Some(listener) = self.listeners.get_mut(index) else {
            return Accepted::NoClient;
        };
        loop {
            match host_socket::accept(&listener.socket) {
                Ok((stream, address)) => {
                    let Ok(guest_port) = listener.guest_port.of(&stream) else {
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
                Err(_) if has_client(&listener.socket) => return Accepted::Limited,
                Err(_) => return Accepted::NoClient,
            }
        }
    }

    /// Postpones the clients of listener `index`.
    pub fn put_off(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index)
            && !std::mem::replace(&mut listener.is_waiting, true)
        {
            self.waiting.push_back(index);
        }
    }

    /// Number of listeners with waiting clients.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Removes and returns the listener whose clients have waited longest.
    pub fn next_waiting(&mut self) -> Option<usize> {
        let index = self.waiting.pop_front()?;
        self.listeners[index].is_waiting = false;
        Some(index)
    }
}

impl TcpFlows {
    /// Accepts clients of a socket that receives connections to every port: each client is for the
    /// guest's port of the same number.
    ///
    /// # Errors
    /// The poller cannot watch it.
    pub fn listen_at_any_port(&mut self, socket: Socket, poller: &Poller) -> io::Result<()> {
        self.listeners.add(socket, GuestPort::AsAsked, poller)
    }
}

fn has_client(listener: &Socket) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    // Fails for lack of memory; then a client may be waiting.
    poll(&mut asked, Some(&Timespec::default())) != Ok(0)
}

/// Errors that concern one client only (accept(2)).
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTUNREACH)
    )
}
