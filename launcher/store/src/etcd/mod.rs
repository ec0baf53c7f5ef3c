//! A store that nodes share, in etcd.
//!
//! A step ([`Store::step`](crate::Store::step)) reads one revision of the cluster and collects its changes ([`view`]).
//! At the end one transaction writes them, if everything that the step relied on is unchanged. Otherwise the step runs
//! again on the newer revision. So a step locks nothing, and a process that is killed at any moment leaves nothing half
//! done. A claim that loses a race continues at a random place of its range, so that many nodes that start at once do
//! not all try the same number.
//!
//! Bindings of ports ([`epochs`]) change by compare-and-swap on their epoch, and no time lease of etcd is attached to
//! them. A node that is cut off from the cluster still forwards frames, and only an explicit change of the binding ends
//! that. The process of a binding has a time lease ([`liveness`]). Its expiry is only a suspicion.
//!
//! A watcher follows one network ([`follow`]). A task lists the network's bindings in pages of one revision, then
//! applies the events of a watch from that revision onwards. After a lost connection, a compaction, or the restoration
//! of a backup it lists again and compares, so that no change is missed. If it cannot tell what has changed, it reports
//! a gap.
//!
//! Records of agents ([`objects`]) are texts. A watch of a folder of records only says that the folder is to be listed
//! again.
//!
//! Keys ([`keys`]) and values ([`records`]) have a layout number. A process refuses a store with a newer layout, even
//! if the layout changes while the process runs.
//!
//! All calls block, each for at most [`connection::PATIENCE`]. They must not come from a thread that runs asynchronous
//! tasks.

mod connection;
mod epochs;
mod follow;
mod keys;
mod liveness;
mod objects;
mod options;
mod records;
mod step;
mod table;
mod view;

pub use connection::Etcd;
pub use options::{EtcdOptions, Place, Tls, User};
