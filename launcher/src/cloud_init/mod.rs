//! What cloud-init makes of a guest's NICs, beside what hawser hands out on them.
//!
//! ```text
//!  manifest::network_data ── devices ─┐
//!                                     ├─ compare ── warnings and errors
//!  plan ── NICs ── offer ─────────────┤
//!                                     └─ write ── `hawser cloud-init`
//! ```
//!
//! [`offer`] says what a NIC's guest hears of hawser, [`compare`] where the devices of the
//! VM's network data contradict it, [`write`] the network data that fit.

mod compare;
mod offer;
mod write;

pub use compare::check;

use crate::cli::CloudInitArgs;
use crate::failure::Failure;
use crate::leases;
use crate::plan::VmPlan;
use crate::validate::{self, Checked, Rejected};

/// Runs `hawser cloud-init`: prints the network data that fit the VM's NICs.
///
/// # Errors
/// If the manifests cannot be served, or a NIC's MAC is not known.
pub fn run(args: &CloudInitArgs) -> Result<(), Failure> {
    let Checked { plan, warnings } = validate::check(&args.manifest)?.map_err(Rejected::tell)?;
    validate::tell(&warnings);
    let mut settled = plan.clone();
    if leaves_open(&plan) {
        leases::settle(&mut settled, &args.store)?;
    }
    // The addresses stay those of the manifest: what is leased is told by DHCP.
    let macs: Vec<_> = settled.nics.iter().map(|nic| nic.mac).collect();
    crate::print(&write::network_data(&plan, &macs).map_err(Failure::usage)?)
}

/// True if a NIC's MAC is for the store to give.
fn leaves_open(plan: &VmPlan) -> bool {
    plan.nics
        .iter()
        .any(|nic| nic.mac.is_none() && leases::has_own_mac(nic))
}

#[cfg(test)]
mod tests;
