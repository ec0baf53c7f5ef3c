//! What outlives a VM's process: which MAC and which addresses belong to which interface.
//!
//! A VM's interfaces are given MACs and addresses as leases ([`claim`]), all of a VM's in one step
//! that happens whole or not at all, and before anything is served: a process that is killed at any
//! moment has either given out no lease yet, or finds it again. What is given to which interface is
//! decided above the stores, the same for each. A store runs such steps ([`Store`]) over its records
//! ([`Ledger`]), again if need be, so that it may be a remote one with compare-and-swap
//! transactions. [`sqlite`] is a file that the processes of one node share; [`memory`] is a copy to
//! try claims on.
//!
//! The crate knows neither manifests nor the plan made of them. It has no watch, epoch or liveness:
//! leases are read once, before a VM is served. A store of many nodes brings these as a trait of its
//! own.

#![forbid(unsafe_code)]

pub mod claim;
pub mod memory;
pub mod range;
mod segment;
pub mod sqlite;
#[cfg(test)]
mod tests;

pub use segment::{RangeId, Segment};

use hawser_packet::MacAddr;
use ipnet::IpNet;
use range::{Number, Span};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A VM, by its name in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err("give NAMESPACE/NAME of the VM, such as default/vm1".into()),
        }
    }
}

/// An interface of a VM: the holder of a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The VM.
    pub vm: VmName,
    /// Name of the interface.
    pub interface: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of VM {}", self.interface, self.vm)
    }
}

/// What an interface has until it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The interface that has it.
    pub holder: Holder,
    /// "pod", or namespace/name of the network.
    pub network: String,
    /// The L2 segment, on which MAC and addresses have no other holder.
    pub segment: Segment,
    /// The MAC; `None` where the segment gives it.
    pub mac: Option<MacAddr>,
    /// Addresses with the width of their networks.
    pub addresses: Vec<IpNet>,
}

/// A place that keeps leases for many processes.
pub trait Store {
    /// Runs `step` on one state of the records. All its changes happen together, or none if it
    /// fails.
    ///
    /// A store that waits for the others before it starts a step runs it once. One that only finds
    /// out at the end that another process has changed what the step read runs it again, on the
    /// newer state. So `step` changes nothing but the ledger, and what follows from its result is
    /// done after this returns.
    ///
    /// # Errors
    /// That of `step`, or a [`StoreError`].
    fn step<T, E: From<StoreError>>(&mut self, step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E>;

    /// The leases of one VM, or of all, in the order of their holders, as of one moment. No writer
    /// waits for this.
    ///
    /// # Errors
    /// [`StoreError`]
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
}

/// The records of a store during one [step](Store::step).
///
/// A store that compares at the end needs to compare these: the leases of each VM that was read,
/// and that what [`put`](Self::put) gives out is still free. Cursors and held numbers are hints
/// for the search: another process may change them in between.
pub trait Ledger {
    /// Leases of one VM, or all, in the order of their holders.
    ///
    /// # Errors
    /// [`StoreError`], as of all that follow.
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
    /// The holder of `mac` on a segment.
    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError>;
    /// The holder of `address` on a segment, or on any.
    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError>;
    /// The first `limit` MACs within `span` that are held on any segment, ascending, each once.
    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The first `limit` addresses within `span` that are held on a segment, or on any, ascending,
    /// each once.
    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError>;
    /// The number that was given out last of a range.
    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError>;
    /// Notes the number that was given out last.
    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError>;
    /// Adds a lease whose holder has none.
    fn put(&mut self, lease: &Lease) -> Result<(), StoreError>;
    /// Removes the lease of a holder, if there is one.
    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError>;
}

/// A store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--store={}: {problem}", path.display())]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: StoreProblem,
}

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// There is no such file.
    #[error("the file does not exist: name the store of hawser run")]
    Missing,
    /// The directory cannot be created.
    #[error("cannot create its directory: {0}; name a file that this process can write, or give --store=off")]
    Folder(io::Error),
    /// It cannot be opened, read or written.
    #[error("{0}; name a file in a directory that this process can write, or give --store=off")]
    Access(String),
    /// The disk is full.
    #[error("its disk is full: free some space and try again; no lease was changed")]
    Full,
    /// The layout is newer than this version supports.
    #[error(
        "a newer hawser created it (layout {found}, this one supports {known}): use that version, or name another \
         file; the file was not changed"
    )]
    Newer {
        /// Layout of the file.
        found: i64,
        /// Newest supported layout.
        known: i64,
    },
    /// A database of another program.
    #[error("it is the database of another program: name another file; the file was not changed")]
    Foreign,
    /// Not a database, or a broken one.
    #[error(
        "it is damaged, or not a store of hawser ({0}): restore a copy, or move it away so that hawser starts an \
         empty store; the file was not changed"
    )]
    Damaged(String),
    /// Another process keeps the file locked.
    #[error(
        "another process has locked it for {0} seconds: find that process (fuser -v FILE), end it, and try again; \
         no lease was changed"
    )]
    Locked(u64),
    /// An unexpected error of SQLite.
    #[error("{0}")]
    Other(String),
}
