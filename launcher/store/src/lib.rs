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
//! Beside it are traits for what processes share while they run, which a store of many nodes
//! implements too: who serves a port ([`bindings::Epochs`]), what has changed of that
//! ([`bindings::Watch`]), and which processes still run ([`liveness::Liveness`]). Nothing uses them
//! yet: leases are read once, before a VM is served.
//!
//! The crate knows neither manifests nor the plan made of them.

#![forbid(unsafe_code)]

pub mod bindings;
pub mod claim;
mod error;
mod holder;
mod lease;
mod ledger;
pub mod liveness;
pub mod memory;
pub mod range;
mod segment;
pub mod sqlite;
#[cfg(test)]
mod tests;

pub use error::{StoreError, StoreProblem};
pub use holder::{Holder, VmName};
pub use lease::Lease;
pub use ledger::{Ledger, Store};
pub use segment::{RangeId, Segment};
