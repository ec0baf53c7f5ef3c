//! Liveness: the processes that still run.
//!
//! A process renews its time lease. A killed process does not, and is listed as dead when the lease
//! expires. Death is only a suspicion: a process that is cut off from the store may still forward
//! frames. The epoch of a [binding](crate::bindings) alone decides which process owns a port.

use crate::error::StoreError;
use std::fmt;
use std::time::Duration;

/// A process that serves ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// Name of the node on which the process runs.
    pub node: String,
    /// Name of the process on its node, such as that of its VM.
    pub process: String,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on node {}", self.process, self.node)
    }
}

/// A point in time on which all processes of a node agree, even if the wall clock is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Content of `/proc/sys/kernel/random/boot_id`. No process outlives the boot in which it was started.
    pub boot: String,
    /// Time since that boot (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
}

/// Access to the time leases of processes.
pub trait Liveness {
    /// Records that `process` runs until `lifetime` after `now`. Call this again after a third of
    /// the lifetime. A process that was listed as dead is alive again after this.
    ///
    /// A store whose server measures the time does not use `now`.
    ///
    /// # Errors
    /// [`StoreError`]; the same for the methods below. The process keeps its ports and retries.
    fn keep_alive(&mut self, process: &ProcessId, now: &Moment, lifetime: Duration) -> Result<(), StoreError>;

    /// Processes whose lease has expired, in order.
    fn dead(&self, now: &Moment) -> Result<Vec<ProcessId>, StoreError>;

    /// Removes a process at its normal end, or after its ports were taken over.
    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError>;
}
