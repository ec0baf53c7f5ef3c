//! Which processes still run.
//!
//! A process renews a lease of time; one that was killed does not, and is listed as dead once the
//! time is over. Death is a suspicion: a process that is cut off from the store may still forward
//! frames. The epoch of a [binding](crate::bindings) alone decides which process owns a port.

use crate::error::StoreError;
use std::fmt;
use std::time::Duration;

/// A process that serves ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// Name of the node it runs on.
    pub node: String,
    /// Its name there, such as that of its VM.
    pub process: String,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on node {}", self.process, self.node)
    }
}

/// A moment that all processes of a node agree on, whatever happens to the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// `/proc/sys/kernel/random/boot_id`. No process outlives the boot it was started in.
    pub boot: String,
    /// `CLOCK_BOOTTIME`.
    pub since_boot: Duration,
}

/// Leases of time that processes hold.
pub trait Liveness {
    /// Notes that `process` runs, and that it is dead `lifetime` from `now` unless this is called
    /// again before. Renew at a third of the lifetime. A process that was listed as dead returns to
    /// life with this.
    ///
    /// A store whose server measures the time does not use `now`.
    ///
    /// # Errors
    /// [`StoreError`], as of all that follow. The process keeps what it has, and tries again.
    fn keep_alive(&mut self, process: &ProcessId, now: &Moment, lifetime: Duration) -> Result<(), StoreError>;

    /// Processes whose time is over, in order.
    fn dead(&self, now: &Moment) -> Result<Vec<ProcessId>, StoreError>;

    /// Removes a process, at its regular end or after its ports were taken over.
    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError>;
}
