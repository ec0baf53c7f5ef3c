//! What may cross a port: which frames of the guest come in, which reach it, how many, and
//! which addresses it uses.
//!
//! A leaf: rules know headers, frames and counters, and nothing of rings, workers or modes.

mod admission;
mod guard;
pub mod rate;
mod snooping;
pub mod vlan;

pub use admission::Admission;
pub use snooping::{SNOOPED_MAX, SnoopSource, SnoopedAddress, Snooping};

use crate::counters::DropReason;

/// A rule for frames on their way to the guest.
pub trait Rule: Send + Sync {
    /// Whether the guest gets a frame that begins with `head`: all headers that were written
    /// for it, or the first part of a frame that is passed on.
    ///
    /// # Errors
    /// Why it does not.
    fn check(&self, head: &[u8]) -> Result<(), DropReason>;
}
