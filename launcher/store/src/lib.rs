//! The store of leases: the MACs and addresses of a VM's interfaces, which outlive its process.
//!
//! [`claim`] leases MACs and addresses to a VM's interfaces. It changes all leases of a VM in one atomic step, before
//! any NIC is served, so a process that is killed at any moment loses no lease. `claim` decides what each interface
//! gets, independently of the kind of store. A store ([`Store`]) runs a step over its records ([`Ledger`]). It may run
//! the step again, so that a remote store can use compare-and-swap transactions. [`sqlite`] is a file that the
//! processes of one node share. [`memory`] is a copy on which claims can be tried. The module `etcd` is a store that nodes
//! share; only the node agent is built with it. [`agreement`] keeps apart the networks that nodes share.
//!
//! [`records`] contains texts that nodes share, such as manifests, which this crate does not interpret.
//!
//! Three traits cover the state that processes share while they run: the process that serves a port
//! ([`bindings::Epochs`]), changes of that ([`bindings::Watch`]), and the processes that still run
//! ([`liveness::Liveness`]). A store for several nodes implements them too. Nothing uses them yet:
//! leases are read once, before a VM is served.
//!
//! The crate does not depend on manifests or plans.

#![forbid(unsafe_code)]

pub mod agreement;
pub mod bindings;
pub mod claim;
mod error;
mod escape;
#[cfg(feature = "etcd")]
pub mod etcd;
mod holder;
mod lease;
mod ledger;
pub mod liveness;
pub mod memory;
mod network;
pub mod range;
pub mod records;
mod segment;
pub mod sqlite;
#[cfg(test)]
mod tests;

pub use error::{StoreError, StoreProblem};
pub use holder::{Holder, VmName};
pub use lease::Lease;
pub use ledger::{Ledger, Store};
pub use network::NetworkRecord;
pub use segment::{RangeId, Segment};
