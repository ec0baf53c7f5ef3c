//! What outlives a VM's process: which MAC and which addresses belong to which interface.
//!
//! A VM's interfaces are given MACs and addresses as leases ([`claim`]), all of a VM's in one
//! step that is made whole or not at all, and before anything is served: whoever is killed at
//! any moment has either not given a lease out yet, or finds it again. A store keeps them. It
//! knows how to keep, find and change records in such steps ([`Store`], [`Ledger`]); what is
//! given to whom is decided above it, the same for every store. [`sqlite`] is a file that the
//! processes of one node share; a cluster's store would be another.

#![forbid(unsafe_code)]

pub mod claim;
pub mod copy;
pub mod range;
pub mod sqlite;

use hawser_packet::MacAddr;
use ipnet::IpNet;
use range::Number;
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

/// An interface of a VM: who holds a lease.
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

/// What is an interface's until it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub holder: Holder,
    /// "pod", or namespace/name of the network.
    pub network: String,
    /// The L2 segment, on which MAC and addresses are this holder's alone.
    pub segment: String,
    /// The MAC; `None` where the segment gives it.
    pub mac: Option<MacAddr>,
    /// Addresses with the width of their networks.
    pub addresses: Vec<IpNet>,
}

/// A place that keeps leases for many processes.
pub trait Store {
    /// Begins a step. Until it is committed or dropped nobody else changes anything.
    ///
    /// # Errors
    /// [`StoreError`]
    fn begin(&mut self) -> Result<Box<dyn Ledger + '_>, StoreError>;
}

/// The records of a store during one step. Dropped without a commit, nothing has happened.
pub trait Ledger {
    /// Leases of one VM, or all, in the order of their holders.
    ///
    /// # Errors
    /// [`StoreError`], as of all that follow.
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError>;
    /// Who has `mac` on a segment, or on any.
    fn mac_holder(&self, segment: Option<&str>, mac: MacAddr) -> Result<Option<Holder>, StoreError>;
    /// Who has `address` on a segment, or on any.
    fn address_holder(&self, segment: Option<&str>, address: IpAddr) -> Result<Option<Holder>, StoreError>;
    /// What was given out last of the range called `range`.
    fn cursor(&self, range: &str) -> Result<Option<Number>, StoreError>;
    /// Notes what was given out last.
    fn set_cursor(&mut self, range: &str, last: Number) -> Result<(), StoreError>;
    /// Notes a lease whose holder has none.
    fn put(&mut self, lease: &Lease) -> Result<(), StoreError>;
    /// Strikes out the lease of a holder, if there is one.
    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError>;
    /// Makes the step happen, for good and for all to see.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Why a store cannot be used.
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
    #[error("there is no such file: name the store that hawser run was given")]
    Missing,
    /// The folder cannot be made.
    #[error("cannot make its folder: {0}; name a file this process can write, or give --store=off")]
    Folder(io::Error),
    /// It cannot be opened, read or written.
    #[error("{0}; name a file that this process can write in a folder it can write, or give --store=off")]
    Access(String),
    /// No room.
    #[error("its disk is full: make room there and try again; no lease was changed")]
    Full,
    /// A newer layout.
    #[error(
        "a newer hawser made it (layout {found}, and this one knows {known}): use that one, or name another file; \
         nothing was changed in it"
    )]
    Newer {
        /// Of the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A database of somebody else's.
    #[error("it is the database of another program: name another file; nothing was changed in it")]
    Foreign,
    /// No database, or a broken one.
    #[error(
        "it is damaged, or no store of hawser's ({0}): put a copy of it back, or move it away so that a new one is \
         begun, which knows of no lease; nothing was changed in it"
    )]
    Damaged(String),
    /// Somebody does not let go of it.
    #[error(
        "another process has held it for {0} seconds: look who has it open (fuser -v FILE), end that, and try again; \
         no lease was changed"
    )]
    Locked(u64),
    /// What should not happen.
    #[error("{0}")]
    Other(String),
}
