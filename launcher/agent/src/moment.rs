//! The point in time on which the processes of this node agree.

use hawser_store::liveness::Moment;
use std::fs;
use std::time::Duration;

/// The current moment. It does not depend on the wall clock.
pub(crate) fn now() -> Moment {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // The first number of proc_uptime(5): the seconds since the boot, including time in suspend.
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime
        .split_whitespace()
        .next()
        .and_then(|seconds| seconds.parse().ok());
    Moment {
        boot: boot.trim().to_owned(),
        since_boot: Duration::from_secs_f64(seconds.unwrap_or_default()),
    }
}
