//! Notifications to the service manager (`sd_notify(3)`): set-up is complete, the list of NICs, the
//! process is ending.

use crate::machine::Machine;
use hawser_backend::port::Port;
use sd_notify::NotifyState;
use std::sync::Arc;

/// All is set up.
pub fn ready(machine: &Machine) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(machine))]);
}

/// The NICs have changed.
pub fn changed(machine: &Machine) {
    tell(&[NotifyState::Status(&status(machine))]);
}

/// The process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The NICs, in one line.
fn status(machine: &Machine) -> String {
    let ports = machine.ports();
    let name = |port: &Arc<Port>| {
        let down = if port.link().is_up() { "" } else { " (link down)" };
        format!("{}{down}", port.config().name)
    };
    let names: Vec<String> = ports.iter().map(name).collect();
    format!("serving {}", names.join(", "))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager (NOTIFY_SOCKET): {e}");
    }
}
