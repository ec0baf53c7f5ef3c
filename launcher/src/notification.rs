//! Messages to the service manager (`sd_notify(3)`).

use rustix::process::Pid;
use sd_notify::NotifyState;
use std::os::unix::ffi::OsStrExt as _;

const SOCKET: &str = "NOTIFY_SOCKET";

/// True if its socket has no file.
pub(crate) fn is_abstract() -> bool {
    std::env::var_os(SOCKET).is_some_and(|path| path.as_bytes().starts_with(b"@"))
}

/// Reports that everything is set up.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports a status.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Reports that the process is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Reports that process `pid` is the main one.
pub(crate) fn main_process(pid: Pid) {
    // Process numbers are positive.
    tell(&[NotifyState::MainPid(pid.as_raw_nonzero().get().unsigned_abs())]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager ({SOCKET}): {e}");
    }
}
