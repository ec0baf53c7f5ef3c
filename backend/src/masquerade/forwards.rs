//! Forwards that come and go while the worker runs.
//!
//! The thread that requests a forward opens its sockets, so that a port in use is reported there
//! and costs no packet; the worker only takes the sockets over, or closes them. Connections and
//! flows of a removed forward stay.

use super::Masquerade;
use crate::config::{Forward, Transport};
use crate::mode::{BoundForward, ForwardChange, ForwardSocket};
use crate::nat::listen::{Families, ListenError};
use crate::nat::{tcp, udp};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

/// Opens the sockets of a forward, in the network namespace of the calling thread.
///
/// # Errors
/// The first port that cannot be listened on; none is kept then.
pub fn bind(forward: &Forward, families: Families) -> Result<BoundForward, ListenError> {
    let mut sockets = Vec::new();
    families.listen(forward, |at, guest_port| {
        let socket = match forward.transport {
            Transport::Tcp => tcp::listen(at)?,
            Transport::Udp => udp::listen(at)?,
        };
        sockets.push(ForwardSocket { socket, at, guest_port });
        Ok(())
    })?;
    Ok(BoundForward {
        transport: forward.transport,
        sockets,
    })
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
            // The socket lookup program knows the forwards of its start only, and runs before
            // the kernel's own lookup.
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (transport, addresses) = (bound.transport, bound.addresses());
        let poller = self.surroundings.poller.clone();
        let added = bound.sockets.into_iter().try_for_each(|socket| match transport {
            Transport::Tcp => self.tcp.adopt(socket, &poller),
            Transport::Udp => self.udp.adopt(socket, &poller),
        });
        if added.is_err() {
            self.remove_forward(transport, &addresses);
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
