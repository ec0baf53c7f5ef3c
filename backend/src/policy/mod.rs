//! Rules for the frames that cross a port: which frames from and to the guest pass, at what rate, and from which
//! addresses.
//!
//! The module is a leaf: rules use headers, frames and counters, but not rings, workers or modes.

mod admission;
pub mod claims;
mod guard;
pub mod rate;
mod snooping;
pub mod vlan;

pub use admission::Admission;
pub use guard::Guard;
pub use snooping::{SNOOPED_MAX, SnoopSource, SnoopedAddress, Snooping};

use crate::counters::DropReason;

/// A rule for frames on their way to the guest.
pub trait Rule: Send + Sync {
    /// Checks whether the guest may receive a frame that begins with `head`. It contains all headers written for the
    /// frame, or the first part of a frame that is passed on.
    ///
    /// # Errors
    /// The reason to drop the frame.
    fn check(&self, head: &[u8]) -> Result<(), DropReason>;
}
