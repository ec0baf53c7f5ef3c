//! What stands between the modes and the receive ring.

use crate::counters::DropReason;
use crate::frame::{Budget, GuestSlice, Segmentation};

/// Limits, filters and observers of what the guest is sent. Part of the type of the receive
/// side, so that those that are absent cost nothing.
pub trait Passage {
    /// How much may pass now.
    fn budget(&self) -> Budget;

    /// True if a frame may pass. Otherwise there is no room for some time.
    fn admits(&mut self) -> bool;

    /// Whether the guest gets a frame that begins with `head`.
    ///
    /// # Errors
    /// Why it does not.
    fn check(&self, head: &[u8]) -> Result<(), DropReason>;

    /// True if frames are to be shown.
    fn is_watched(&self) -> bool;

    /// Shows a frame: its header, `len` bytes of payload, and why the guest does not get it.
    fn show(&self, head: &[u8], payload: &[GuestSlice<'_>], len: usize, dropped: Option<DropReason>);

    /// Shows a frame that lies in `parts`.
    fn show_parts(&self, parts: &[&[u8]], dropped: Option<DropReason>);

    /// Notes a frame of `bytes` that the guest was sent.
    fn pass(&mut self, bytes: usize, segmentation: Segmentation);

    /// Notes that what was sent so far is shown to the guest.
    fn settle(&mut self);
}

/// A passage that lets everything through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Passage for Open {
    fn budget(&self) -> Budget {
        Budget::UNLIMITED
    }

    fn admits(&mut self) -> bool {
        true
    }

    fn check(&self, _: &[u8]) -> Result<(), DropReason> {
        Ok(())
    }

    fn is_watched(&self) -> bool {
        false
    }

    fn show(&self, _: &[u8], _: &[GuestSlice<'_>], _: usize, _: Option<DropReason>) {}

    fn show_parts(&self, _: &[&[u8]], _: Option<DropReason>) {}

    fn pass(&mut self, _: usize, _: Segmentation) {}

    fn settle(&mut self) {}
}
