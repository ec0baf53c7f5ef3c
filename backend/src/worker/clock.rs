//! The monotonic clock and the thread's own, as the values protocol code is handed.

use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::Duration;

/// What time it is. All workers of a process share one start.
pub fn now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let passed = START.get_or_init(std::time::Instant::now).elapsed();
    Instant::from_nanos(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
}

/// Processor time of the calling thread so far.
pub fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}
