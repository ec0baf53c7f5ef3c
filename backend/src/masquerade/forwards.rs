//! Forwards that come and go while the worker runs.
//!
//! Sockets are opened by whoever asks, so that a port that cannot be had is found out there
//! and costs no packet; the worker only takes them over, or lets them go. Connections and
//! flows that came by a forward outlive it.

use super::listen::{Families, ListenError};
use super::{Masquerade, tcp, udp};
use crate::config::{Forward, Transport};
use socket2::Socket;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

/// A socket that waits for clients of a port of the guest.
#[derive(Debug)]
pub struct ForwardSocket {
    /// The socket.
    pub socket: Socket,
    /// Where it waits.
    pub at: SocketAddr,
    /// The port of the guest.
    pub guest_port: u16,
}

/// A forward whose sockets are open.
#[derive(Debug)]
pub struct BoundForward {
    forward: Forward,
    sockets: Vec<ForwardSocket>,
    /// Where they wait.
    addresses: HashSet<SocketAddr>,
}

/// What becomes of a forward.
#[derive(Debug)]
pub enum ForwardChange {
    /// Clients of these sockets are the guest's from now on.
    Add(BoundForward),
    /// Nobody waits at these addresses any more.
    Remove(Transport, HashSet<SocketAddr>),
}

impl BoundForward {
    /// Opens the sockets of a forward, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The first port that cannot be listened on; none is kept then.
    pub fn open(forward: &Forward, families: Families) -> Result<Self, ListenError> {
        let mut sockets = Vec::new();
        families.listen(forward, |at, guest_port| {
            let socket = match forward.transport {
                Transport::Tcp => tcp::host_socket::listen(at)?,
                Transport::Udp => udp::listen(at)?,
            };
            sockets.push(ForwardSocket { socket, at, guest_port });
            Ok(())
        })?;
        Ok(Self {
            forward: forward.clone(),
            addresses: sockets.iter().map(|socket| socket.at).collect(),
            sockets,
        })
    }

    /// Where its sockets wait.
    pub const fn addresses(&self) -> &HashSet<SocketAddr> {
        &self.addresses
    }
}

impl Masquerade {
    pub(super) fn change(&mut self, change: ForwardChange) -> io::Result<()> {
        match change {
            ForwardChange::Add(bound) => self.add_forward(bound),
            ForwardChange::Remove(transport, addresses) => {
                self.remove_forward(transport, &addresses);
                Ok(())
            }
        }
    }

    fn add_forward(&mut self, bound: BoundForward) -> io::Result<()> {
        if self.every_port.is_some() {
            // What leads there knows the forwards there were when it was made, and comes first.
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (transport, poller) = (bound.forward.transport, self.surroundings.poller.clone());
        let added = bound.sockets.into_iter().try_for_each(|socket| match transport {
            Transport::Tcp => self.tcp.adopt(socket, &poller),
            Transport::Udp => self.udp.adopt(socket, &poller),
        });
        if added.is_err() {
            self.remove_forward(transport, &bound.addresses);
        }
        added
    }

    fn remove_forward(&mut self, transport: Transport, addresses: &HashSet<SocketAddr>) {
        match transport {
            Transport::Tcp => self.tcp.unlisten(addresses),
            Transport::Udp => self.udp.unlisten(addresses),
        }
    }
}
