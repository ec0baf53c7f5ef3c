//! Notifies the service manager (`sd_notify(3)`) that set-up is complete, of the list of NICs, and that the process is
//! about to end. It knows the process that it started, which may be the parent of this one.

use crate::machine::{Machine, ServedNic};
use crate::notification;
use crate::vmm_process::ParentLine;
use rustix::process::Pid;

/// The way to the service manager.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceManager(Option<ParentLine>);

impl ServiceManager {
    /// The service manager, which has started `parent` if there is one.
    pub(crate) const fn of(parent: Option<ParentLine>) -> Self {
        Self(parent)
    }

    /// Reports that everything is set up.
    pub(crate) fn ready(&self, machine: &Machine) {
        match &self.0 {
            Some(parent) => parent.ready(status(machine)),
            None => notification::ready(&status(machine)),
        }
    }

    /// Reports that the NICs have changed.
    pub(crate) fn changed(&self, machine: &Machine) {
        match &self.0 {
            Some(parent) => parent.status(status(machine)),
            None => notification::status(&status(machine)),
        }
    }

    /// Reports that the process is about to end.
    pub(crate) fn stopping(&self) {
        match &self.0 {
            Some(parent) => parent.stopping(),
            None => notification::stopping(),
        }
    }

    /// Reports that process `pid` replaces this one, unless this one has a parent, which stays.
    pub(crate) fn main_process(&self, pid: Pid) {
        if self.0.is_none() {
            notification::main_process(pid);
        }
    }
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
