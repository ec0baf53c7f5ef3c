//! Reads the monotonic clock. Protocol code receives the values as arguments.

use crate::time::Instant;
use std::sync::OnceLock;

/// The current time. All workers of a process share the same start.
pub fn now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let passed = START.get_or_init(std::time::Instant::now).elapsed();
    Instant::from_nanos(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
}
