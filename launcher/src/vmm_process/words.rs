//! What a process that serves the guest of a VMM, and the process that started both, say to each other.

use hawser_config::payload::Payload;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;

/// What the serving process says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Start this program with these arguments.
    Start(Vec<OsString>),
    /// Send the VMM this signal.
    Kill(i32),
    /// Tell the service manager that everything is set up, with this status.
    Ready(String),
    /// Tell the service manager this status.
    Status(String),
    /// Tell the service manager that the VM ends.
    Stopping,
}

/// What the parent says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// The VMM runs. A pidfd of it comes along.
    Started,
    /// The VMM was not started, for this reason.
    NotStarted(String),
    /// The parent has received this signal.
    Signal(i32),
    /// The VMM has ended with this exit status.
    Ended(u8),
}

/// The line to the parent, and a pidfd of the VMM, between two serving processes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmmRecord {}

impl Payload for VmmRecord {
    const KIND: &'static str = "vmm-process";
    const VERSION: u32 = 1;
}
