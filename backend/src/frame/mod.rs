//! The vocabulary between the worker and the modes: frames the guest sent, room
//! the guest gave, and the offload metadata of both.
//!
//! A frame from the guest is a [`GuestFrame`]: its first bytes copied out of guest
//! memory once (the guest can change them under us, so decisions are made on the
//! copy) and parsed once, its payload left in guest memory as slices the kernel reads from.
//! Room towards the guest is a [`GuestSink`]: reserve, let the kernel write
//! straight into guest memory, commit with the headers.

mod budget;
mod offload;
mod sink;
mod slice;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use crate::packet::Head;

pub use budget::Budget;
pub use offload::{Checksum, Offload, Segmentation};
pub use sink::{GuestCaps, GuestSink, Layout, NoRoom};
pub use slice::{Gather, GatherList, GuestSlice, GuestSliceMut, Scatter, ScatterList, copy_from_guest, copy_from_room};

/// How many bytes of a frame are copied out of guest memory for decisions:
/// Ethernet (14) + VLAN (4) + IPv6 (40) + TCP with all options (60) fit.
pub const HEAD_MAX: usize = 128;

/// One frame the guest sent, from the Ethernet header on.
#[derive(Clone, Copy, Debug)]
pub struct GuestFrame<'a> {
    /// The first `min(len, HEAD_MAX)` bytes, copied.
    pub head: &'a [u8],
    /// What they say.
    pub parsed: Head,
    /// The whole frame, header bytes included, in guest memory. What is in `head` has been
    /// decided on, and may be other bytes here by now.
    pub slices: &'a [GuestSlice<'a>],
    /// Length of the frame in bytes.
    pub len: usize,
    /// What the guest left to us (checked form of the `virtio_net_hdr`).
    pub offload: Offload,
}

impl<'a> GuestFrame<'a> {
    /// Adds the frame's bytes `[offset, offset + len)` to `gather`, as they are in guest memory:
    /// payload, of which nothing depends on what it says. Returns how many bytes were there to
    /// add.
    pub fn gather(&self, offset: usize, len: usize, gather: &mut Gather<'_, 'a>) -> usize {
        gather.push_range(self.slices, offset, len)
    }

    /// Copies the frame's bytes from `offset` on into `out`; returns how many were there. Those
    /// of the head are those that were decided on: none is fetched from the guest twice.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        let known = self.head.get(offset..).unwrap_or_default();
        let known = &known[..known.len().min(out.len())];
        let (first, rest) = out.split_at_mut(known.len());
        first.copy_from_slice(known);
        known.len() + copy_from_guest(self.slices, offset + known.len(), rest)
    }
}

/// A batch of frames the guest sent, taken from its transmit ring in order. The
/// chains go back to the guest after the mode has returned, so the payload may be
/// used until then and not longer.
pub type GuestBurst<'a> = [GuestFrame<'a>];

#[cfg(test)]
mod tests {
    use super::testing::OwnedFrame;

    #[test]
    fn a_copy_has_the_head_that_was_decided_on_and_the_rest_as_it_is() {
        let bytes: Vec<u8> = (0..200).collect();
        let frame = OwnedFrame::new(bytes.clone());
        for (offset, len) in [
            (0, 200),
            (0, 60),
            (100, 100),
            (127, 2),
            (128, 72),
            (150, 50),
            (190, 99),
            (300, 9),
        ] {
            let mut copy = vec![0; len];
            let n = frame.with_head_overwritten(|frame| frame.copy_to(offset, &mut copy));
            let expected = bytes.get(offset..).unwrap_or_default();
            let expected = &expected[..expected.len().min(len)];
            assert_eq!(&copy[..n], expected, "{len} from {offset} on");
        }
    }
}
