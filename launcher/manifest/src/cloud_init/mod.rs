//! Compares cloud-init's configuration of a guest's NICs with the configuration that hawser hands out.
//!
//! ```text
//!  objects::network_data ── devices ─┐
//!                                    ├─ compare ── warnings and errors
//!  plan ── NICs ── offer ────────────┤
//!                                    └─ write ── `hawser cloud-init`
//! ```
//!
//! [`offer`] describes the configuration that hawser hands out to a NIC's guest, [`compare`] finds devices in the VM's
//! network data that contradict it, and [`write`] produces matching network data.

mod compare;
mod offer;
mod write;

pub use compare::check;
pub use write::network_data;

use crate::plan::VmPlan;

/// True if the store assigns the MAC of a NIC, so that the network data must wait for its lease.
pub fn leaves_open(plan: &VmPlan) -> bool {
    plan.nics.iter().any(|nic| nic.mac.is_none() && nic.has_own_mac())
}

#[cfg(test)]
mod tests;
