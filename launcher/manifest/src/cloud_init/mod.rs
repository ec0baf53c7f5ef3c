//! What cloud-init makes of a guest's NICs, beside what hawser hands out on them.
//!
//! ```text
//!  objects::network_data ── devices ─┐
//!                                    ├─ compare ── warnings and errors
//!  plan ── NICs ── offer ────────────┤
//!                                    └─ write ── `hawser cloud-init`
//! ```
//!
//! [`offer`] says what a NIC's guest hears of hawser, [`compare`] where the devices of the
//! VM's network data contradict it, [`write`] the network data that fit.

mod compare;
mod offer;
mod write;

pub use compare::check;
pub use write::network_data;

use crate::plan::VmPlan;

/// Whether the store gives the MAC of a NIC, so that the network data wait for its lease.
pub fn leaves_open(plan: &VmPlan) -> bool {
    plan.nics.iter().any(|nic| nic.mac.is_none() && nic.has_own_mac())
}

#[cfg(test)]
mod tests;
