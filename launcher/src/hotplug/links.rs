//! Links that are to be down and that a QEMU shows up: one that somebody else starts, or that has
//! met hawser again after a restart, for QEMU takes a link up whenever its socket connects.
//!
//! That it has met hawser shows by the channel it gives its back end. It takes the link up a moment
//! after that: it is told at the next look.

use crate::machine::Machine;
use crate::vmm::running::{RunningError, VmmSocket};
use hawser_manifest::objects::interface::LinkState;
use hawser_manifest::plan::NicPlan;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often it is looked while a link is down.
const LOOK: Duration = Duration::from_secs(1);
/// How long a VMM that did not do as it was told is left alone.
const LEAVE: Duration = Duration::from_secs(30);

/// Who holds links down.
#[derive(Debug)]
pub(super) struct DownLinks {
    next: Instant,
    /// Of which QEMU had been met at the last look.
    met: BTreeSet<String>,
    /// Which QEMU has been told of since.
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

    /// When to look; `None`: nothing is to be looked after.
    pub(super) fn deadline(&self, vmm: Option<&VmmSocket>, nics: &[NicPlan]) -> Option<Instant> {
        let is_qemu = matches!(vmm, Some(VmmSocket::Qemu(_)));
        (is_qemu && nics.iter().any(is_down)).then_some(self.next)
    }

    /// Looks, if it is time.
    pub(super) fn hold(&mut self, vmm: Option<&VmmSocket>, nics: &[NicPlan], machine: &Machine) {
        if Instant::now() < self.next {
            return;
        }
        let is_met = |nic: &&NicPlan| machine.port(&nic.name).is_some_and(|port| port.link().is_told());
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
                log::warn!("the VMM may show a link up that is down: {error}");
                self.next = Instant::now() + LEAVE;
            }
        }
    }
}

fn take_down(socket: &VmmSocket, nics: &[&NicPlan]) -> Result<(), RunningError> {
    let mut vmm = socket.meet()?;
    for nic in nics {
        vmm.set_link(&nic.name, false)?;
        log::info!("interface {}: the VMM is told that its link is down", nic.name);
    }
    Ok(())
}

fn is_down(nic: &NicPlan) -> bool {
    nic.state == LinkState::Down
}
