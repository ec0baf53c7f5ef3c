//! Bindings: the process that serves each port of a network that nodes share.
//!
//! A binding locates a port: its process, MAC, addresses and VTEP. It has an epoch, which grows with every change of
//! the process or its location. A process binds by compare-and-swap ([`Epochs`]): it passes the epoch that it has read,
//! and the store assigns the next epoch. The loser of a race is fenced, and so is a process whose port has since moved.
//! Peers refuse frames with an epoch lower than the one they know, so the epoch of a port never decreases, even while
//! the port is unbound.
//!
//! [`Watch`] lists the bindings of a network and then returns what has changed since. A gap in that sequence is
//! reported as a gap, never as an empty list of changes. The watcher then lists again and compares.

use crate::error::StoreError;
use crate::holder::Holder;
use crate::liveness::ProcessId;
use hawser_packet::MacAddr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// A port of a network: an interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// namespace/name of the network.
    pub network: String,
    /// Interface that has the port.
    pub holder: Holder,
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on network {}", self.holder, self.network)
    }
}

/// Number that identifies a binding of a port. The first epoch is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The location of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Process that serves the port.
    pub process: ProcessId,
    /// MAC of the guest's NIC.
    pub mac: MacAddr,
    /// Addresses of the guest on the network.
    pub addresses: Vec<IpAddr>,
    /// Address and UDP port on which the process receives tunnelled frames. Processes of one node
    /// have different ports.
    pub vtep: SocketAddr,
}

/// A port with its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Identity of the port.
    pub port: PortId,
    /// Epoch of the binding.
    pub epoch: Epoch,
    /// Location of the port.
    pub binding: Binding,
}

/// A port that moves to another process or location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Identity of the port.
    pub port: PortId,
    /// Epoch of the binding that is replaced.
    pub seen: Epoch,
    /// Location of the port from now on.
    pub binding: Binding,
}

/// The reason why a binding was not changed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port is not at the epoch that the process passed.
    #[error(
        "{port} {}: this process must not send for it; stop this process, or take over the port from that state",
        found.as_ref().map_or_else(
            || "is no longer bound".to_owned(),
            |bound| format!("is bound to {} at epoch {}", bound.binding.process, bound.epoch)
        )
    )]
    Fenced {
        /// Port that the process tried to change.
        port: PortId,
        /// Binding in the store. If it is the caller's own, an earlier attempt succeeded and its answer was lost.
        found: Option<Box<Bound>>,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The epoch of a new binding of a port, whose last change is `last`, for a process that has read epoch `seen`. `floor`
/// is the last epoch that a port without a record may have had.
///
/// # Errors
/// [`BindError::Fenced`]
pub(crate) fn next_epoch(
    port: &PortId,
    last: Option<&Change>,
    seen: Option<Epoch>,
    floor: u32,
) -> Result<Epoch, BindError> {
    let before = match last {
        Some(Change::Bound(found)) if seen != Some(found.epoch) => return Err(fenced(port, Some(found))),
        None | Some(Change::Unbound { .. }) if seen.is_some() => return Err(fenced(port, None)),
        Some(Change::Bound(Bound { epoch, .. }) | Change::Unbound { epoch, .. }) => epoch.0,
        None => floor,
    };
    Ok(Epoch(before.saturating_add(1)))
}

/// Checks that a port is bound at epoch `seen`.
///
/// # Errors
/// [`BindError::Fenced`]
pub(crate) fn check_bound(port: &PortId, last: Option<&Change>, seen: Epoch) -> Result<(), BindError> {
    match last {
        Some(Change::Bound(found)) if found.epoch == seen => Ok(()),
        Some(Change::Bound(found)) => Err(fenced(port, Some(found))),
        None | Some(Change::Unbound { .. }) => Err(fenced(port, None)),
    }
}

/// The binding of a port after a flip. A port that has the flip's binding already keeps it: an earlier attempt has
/// succeeded, and its answer was lost. No other process has the same binding.
///
/// # Errors
/// [`BindError::Fenced`]
pub(crate) fn flipped(flip: &Flip, last: Option<&Change>) -> Result<Bound, BindError> {
    if let Some(Change::Bound(found)) = last.filter(|_| is_flipped(flip, last)) {
        return Ok(found.clone());
    }
    let epoch = next_epoch(&flip.port, last, Some(flip.seen), 0)?;
    let (port, binding) = (flip.port.clone(), flip.binding.clone());
    Ok(Bound { port, epoch, binding })
}

/// True if the port has the flip's binding.
pub(crate) fn is_flipped(flip: &Flip, last: Option<&Change>) -> bool {
    matches!(last, Some(Change::Bound(found)) if found.binding == flip.binding && found.epoch > flip.seen)
}

fn fenced(port: &PortId, found: Option<&Bound>) -> BindError {
    BindError::Fenced {
        port: port.clone(),
        found: found.cloned().map(Box::new),
    }
}

/// Changes bindings by compare-and-swap.
pub trait Epochs {
    /// Binds a port that is at epoch `seen`, or is unbound if that is `None`. Returns the epoch of the new binding,
    /// which is higher than any earlier one.
    ///
    /// # Errors
    /// [`BindError`]
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError>;

    /// Binds ports that are at the epochs of these flips, all or none of them. Returns the epochs of the new bindings in
    /// their order. A port that has its binding already keeps it.
    ///
    /// # Errors
    /// [`BindError`] of one of the ports
    fn flip(&mut self, flips: &[Flip]) -> Result<Vec<Epoch>, BindError>;

    /// Unbinds a port that is at epoch `seen`.
    ///
    /// # Errors
    /// [`BindError`]
    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError>;
}

/// A revision of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Number of the store. A different store at the same address or path has a different number.
    pub store: i64,
    /// Grows with every change of a binding.
    pub number: i64,
}

/// A change to the binding of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A port was bound, or its location changed.
    Bound(Bound),
    /// A port was unbound.
    Unbound {
        /// Identity of the port.
        port: PortId,
        /// Epoch of the last binding.
        epoch: Epoch,
    },
}

impl Change {
    /// The port that the change concerns.
    pub const fn port(&self) -> &PortId {
        match self {
            Self::Bound(Bound { port, .. }) | Self::Unbound { port, .. } => port,
        }
    }
}

/// The changes since a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The list contains all changes since the revision.
    Complete {
        /// Changes, oldest first. If a port has changed several times, only the last change is guaranteed.
        changes: Vec<Change>,
        /// Revision from which to continue.
        revision: Revision,
    },
    /// The store no longer has these changes: it was compacted, restored from a copy, or replaced. List the bindings
    /// again. Those missing from the list are unbound.
    Gap,
}

/// Access to the bindings of networks and their changes.
pub trait Watch {
    /// All bindings of a network, and the revision from which to watch.
    ///
    /// # Errors
    /// [`StoreError`]
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError>;

    /// The binding of one port, if it is bound.
    ///
    /// # Errors
    /// [`StoreError`]
    fn bound(&self, port: &PortId) -> Result<Option<Bound>, StoreError> {
        let (bound, _) = self.bindings(&port.network)?;
        Ok(bound.into_iter().find(|bound| bound.port == *port))
    }

    /// The changes of a network's bindings after a revision. Does not block.
    ///
    /// # Errors
    /// [`StoreError`]. The watcher keeps its state and retries.
    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError>;

    /// A descriptor that is readable when there may be changes. `None` if the store cannot push: call
    /// [`changes`](Self::changes) at intervals.
    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
