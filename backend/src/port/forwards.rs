//! Lists, adds and removes the forwards of a running port.

use super::Port;
use crate::config::{Families, Forward, ModeConfig};
use crate::masquerade::forwards;
use crate::mode::{ForwardChange, ModeCommand};
use crate::nat::listen::{self, ListenError};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{MutexGuard, PoisonError};

/// A forward of the port, and the addresses of its sockets if they were opened here.
#[derive(Clone, Debug)]
pub(super) struct Known {
    forward: Forward,
    addresses: HashSet<SocketAddr>,
}

/// A forward between two processes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedForward {
    forward: Forward,
    addresses: Vec<SocketAddr>,
}

/// The reason why forwards cannot be changed. Nothing has changed in that case.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Neither the mode nor the network has a gateway.
    #[error("the port has no gateway that could forward: its guest is reached at its own addresses")]
    NoGateway,
    /// Every port is already forwarded under its own number.
    #[error("every port is already forwarded to the guest")]
    EveryPort,
    /// A port cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The port has no such forward.
    #[error("{0} is not forwarded")]
    Unknown(Forward),
    /// The worker could not take over the sockets.
    #[error("cannot watch the sockets: {0}")]
    Watch(#[from] io::Error),
}

impl Port {
    /// The forwards of a mode with a gateway.
    pub fn forwards(&self) -> Vec<Forward> {
        let known = self.known_forwards();
        known.iter().map(|known| known.forward.clone()).collect()
    }

    /// Adds a forward. The calling thread opens the sockets in its network namespace.
    ///
    /// # Errors
    /// [`ForwardError`]
    pub fn add_forward(&self, forward: &Forward) -> Result<(), ForwardError> {
        let families = self.families()?;
        let mut known = self.known_forwards();
        let bound = forwards::bind(forward, families)?;
        let addresses = bound.addresses();
        self.tell_listener(ForwardChange::Add(bound))
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => ForwardError::EveryPort,
                _ => error.into(),
            })?;
        known.push(Known {
            forward: forward.clone(),
            addresses,
        });
        Ok(())
    }

    /// Removes and returns the forward with the transport, address and ports of `forward` on the
    /// host. Its open connections stay.
    ///
    /// # Errors
    /// [`ForwardError`]
    pub fn remove_forward(&self, forward: &Forward) -> Result<Forward, ForwardError> {
        let host = |f: &Forward| (f.transport, f.bind, f.host_port, f.count);
        self.families()?;
        let mut known = self.known_forwards();
        let at = known.iter().position(|known| host(&known.forward) == host(forward));
        let at = at.ok_or_else(|| ForwardError::Unknown(forward.clone()))?;
        let addresses = known[at].addresses.clone();
        self.tell_listener(ForwardChange::Remove(forward.transport, addresses))?;
        Ok(known.remove(at).forward)
    }

    /// The forwards, for another process.
    pub(super) fn save_forwards(&self) -> Vec<SavedForward> {
        let save = |known: &Known| SavedForward {
            forward: known.forward.clone(),
            addresses: known.addresses.iter().copied().collect(),
        };
        self.known_forwards().iter().map(save).collect()
    }

    /// Replaces the forwards by those of another process. Their sockets belong to the mode.
    pub(super) fn load_forwards(&self, saved: Vec<SavedForward>) {
        let load = |saved: SavedForward| Known {
            forward: saved.forward,
            addresses: saved.addresses.into_iter().collect(),
        };
        *self.known_forwards() = saved.into_iter().map(load).collect();
    }

    /// Locks the forwards, which serialises changes.
    fn known_forwards(&self) -> MutexGuard<'_, Vec<Known>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a change to worker 0, which has the listening sockets.
    fn tell_listener(&self, change: ForwardChange) -> io::Result<()> {
        match self.workers.first() {
            Some(worker) => worker.command_mode_and_wait(ModeCommand::Forwards(change)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn families(&self) -> Result<Families, ForwardError> {
        let inbound = self.config.mode.properties().inbound();
        Ok(inbound.ok_or(ForwardError::NoGateway)?.families)
    }
}

/// The initial forwards of a port.
pub(super) fn initial(mode: &ModeConfig) -> Vec<Known> {
    let Some(inbound) = mode.properties().inbound() else {
        return Vec::new();
    };
    let known = |forward: &Forward| Known {
        forward: forward.clone(),
        addresses: listen::ends(inbound.families, forward),
    };
    inbound.forwards.iter().map(known).collect()
}
