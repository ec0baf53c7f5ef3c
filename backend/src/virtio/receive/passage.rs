//! The stage between the modes and the receive ring.

use crate::counters::DropReason;
use crate::frame::{Budget, GuestSlice, Segmentation};

/// Limits, filters and observers for frames to the guest. The passage is a type parameter of the receive side, so that
/// an absent stage costs nothing.
pub trait Passage {
    /// The number of frames and bytes that may pass now.
    fn budget(&self) -> Budget;

    /// True if a frame may pass. Otherwise there is no room for some time.
    fn admits(&mut self) -> bool;

    /// Checks whether the guest may receive a frame that begins with `head`.
    ///
    /// # Errors
    /// The reason for which the frame is dropped.
    fn check(&self, head: &[u8]) -> Result<(), DropReason>;

    /// True if an observer must see the frames.
    fn is_watched(&self) -> bool;

    /// Shows a frame to the observer: its header, `len` bytes of payload, and the reason if it was dropped.
    fn show(&self, head: &[u8], payload: &[GuestSlice<'_>], len: usize, dropped: Option<DropReason>);

    /// Shows a frame that consists of `parts` to the observer.
    fn show_parts(&self, parts: &[&[u8]], dropped: Option<DropReason>);

    /// Accounts for a frame of `bytes` sent to the guest.
    fn pass(&mut self, bytes: usize, segmentation: Segmentation);

    /// Called after the frames sent so far have been published.
    fn settle(&mut self);
}

/// A passage without any limit, filter or observer.
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
