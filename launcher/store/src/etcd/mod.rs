//! A store that nodes share, in etcd.
//!
//! A step ([`Store::step`](crate::Store::step)) reads one revision of the cluster and collects its changes ([`view`]).
//! At its end one transaction writes them, if everything the step relied on is unchanged; otherwise the step runs again
//! on the newer revision. So a step locks nothing, and a process that is killed at any moment leaves nothing half done.
//! A claim that loses a race continues at a random place of its range, so that many nodes that start at once do not all
//! try the same number.
//!
//! Bindings of ports ([`epochs`]) change by compare-and-swap on their epoch and are attached to no time lease of etcd: a
//! node that is cut off from the cluster still forwards frames, and only an explicit change of the binding ends that.
//! The process of a binding is under a time lease ([`liveness`]), whose end is a suspicion only.
//!
//! A watcher follows one network ([`follow`]): a task lists its bindings in pages of one revision, then applies the
//! events of a watch from that revision on. After a lost connection, a compaction, or the restoration of a backup it
//! lists again and compares, so that no change is missed; where it cannot tell what has changed, it reports a gap.
//!
//! Keys ([`keys`]) and values ([`records`]) have a layout number. A process refuses a store with a newer layout, also if
//! the layout changes while the process runs.
//!
//! All calls block, for at most [`connection::PATIENCE`] each. They must not come from a thread that runs asynchronous
//! tasks.

mod connection;
mod epochs;
mod follow;
mod keys;
mod liveness;
mod options;
mod records;
mod step;
mod table;
mod view;

pub use connection::Etcd;
pub use options::{EtcdOptions, Place, Tls, User};
