//! Notifies the service manager (`sd_notify(3)`) that set-up is complete, of the list of NICs, and that the process is
//! about to end.

use crate::machine::{Machine, ServedNic};
use rustix::process::Pid;
use sd_notify::NotifyState;

/// Reports that everything is set up.
pub(crate) fn ready(machine: &Machine) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(machine))]);
}

/// Reports that the NICs have changed.
pub(crate) fn changed(machine: &Machine) {
    tell(&[NotifyState::Status(&status(machine))]);
}

/// Reports that the process is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Reports that process `pid` replaces this one.
pub(crate) fn main_process(pid: Pid) {
    // Process numbers are positive.
    tell(&[NotifyState::MainPid(pid.as_raw_nonzero().get().unsigned_abs())]);
}

/// The list of NICs, as one line.
fn status(machine: &Machine) -> String {
    let name = |nic: &ServedNic| {
        let down = if nic.is_link_up() { "" } else { " (link down)" };
        format!("{}{down}", nic.name())
    };
    let names: Vec<String> = machine.nics().iter().map(name).collect();
    format!("serving {}", names.join(", "))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager (NOTIFY_SOCKET): {e}");
    }
}
