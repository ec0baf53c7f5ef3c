//! Keeps links down in a QEMU that shows them as up. That happens when another program starts QEMU, or when hawser
//! restarts, because QEMU sets a link up whenever its socket connects.
//!
//! The back end's channel shows that QEMU has connected. QEMU sets the link up a moment after that,
//! so the link is set down at the next check.

use crate::machine::Machine;
use crate::vmm::running::{RunningError, VmmSocket};
use hawser_manifest::objects::interface::LinkState;
use hawser_manifest::plan::NicPlan;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Interval of the checks while a link is down.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a link could not be set down in the VMM.
const LEAVE: Duration = Duration::from_secs(30);

/// Links that are kept down.
#[derive(Debug)]
pub(super) struct DownLinks {
    next: Instant,
    /// Interfaces whose QEMU was connected at the last check.
    met: BTreeSet<String>,
    /// Interfaces whose link has been set down in QEMU since then.
    held: BTreeSet<String>,
}

impl DownLinks {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now() + LOOK,
            met: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    /// Time of the next check. `None` if no link is down.
    pub(super) fn deadline(&self, vmm: Option<&VmmSocket>, nics: &[NicPlan]) -> Option<Instant> {
        let is_qemu = matches!(vmm, Some(VmmSocket::Qemu(_)));
        (is_qemu && nics.iter().any(is_down)).then_some(self.next)
    }

    /// Checks the links, if a check is due.
    pub(super) fn hold(&mut self, vmm: Option<&VmmSocket>, nics: &[NicPlan], machine: &Machine) {
        if Instant::now() < self.next {
            return;
        }
        let is_met = |nic: &&NicPlan| machine.nic(&nic.name).is_some_and(|served| served.is_link_told());
        let now: BTreeSet<String> = nics.iter().filter(is_met).map(|nic| nic.name.clone()).collect();
        let before = std::mem::replace(&mut self.met, now);
        self.held.retain(|name| self.met.contains(name));
        let is_due = |nic: &&NicPlan| {
            let name = &nic.name;
            is_down(nic) && before.contains(name) && self.met.contains(name) && !self.held.contains(name)
        };
        let due: Vec<&NicPlan> = nics.iter().filter(is_due).collect();
        self.next = Instant::now() + LOOK;
        let (Some(socket), false) = (vmm, due.is_empty()) else {
            return;
        };
        match take_down(socket, &due) {
            Ok(()) => self.held.extend(due.iter().map(|nic| nic.name.clone())),
            Err(error) => {
                log::warn!("the VMM may show a link as up although it is down: {error}");
                self.next = Instant::now() + LEAVE;
            }
        }
    }
}

fn take_down(socket: &VmmSocket, nics: &[&NicPlan]) -> Result<(), RunningError> {
    let mut vmm = socket.connect()?;
    for nic in nics {
        vmm.set_link(&nic.name, false)?;
        log::info!("interface {}: set its link down in the VMM", nic.name);
    }
    Ok(())
}

fn is_down(nic: &NicPlan) -> bool {
    nic.state == LinkState::Down
}
