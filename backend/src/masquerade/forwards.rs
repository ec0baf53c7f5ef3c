//! Port forwards that are added and removed while the worker runs.
//!
//! The thread that requests a forward opens its sockets. A port in use is therefore reported there and delays no
//! packet. The worker only takes over the sockets, or closes them. Connections and flows of a removed forward stay.

use crate::config::{Families, Forward, Transport};
use crate::mode::{BoundForward, ForwardSocket, GuestPort};
use crate::nat::listen::{self, ListenError};
use crate::nat::{tcp, udp};

/// Opens the sockets of a forward, in the network namespace of the calling thread.
///
/// # Errors
/// The first port that cannot be bound; no socket is kept in that case.
pub fn bind(forward: &Forward, families: Families) -> Result<BoundForward, ListenError> {
    let mut sockets = Vec::new();
    listen::listen(families, forward, |at, guest_port| {
        let socket = match forward.transport {
            Transport::Tcp => tcp::listen(at)?,
            Transport::Udp => udp::listen(at)?,
        };
        let guest_port = GuestPort::One(guest_port);
        sockets.push(ForwardSocket { socket, at, guest_port });
        Ok(())
    })?;
    Ok(BoundForward {
        transport: forward.transport,
        sockets,
    })
}
