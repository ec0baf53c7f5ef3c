//! The types shared by the worker and the modes: frames sent by the guest, receive room posted by the guest, and the
//! offload metadata of both.
//!
//! A frame from the guest is a [`GuestFrame`]. Its first bytes are copied out of guest memory and parsed once.
//! Decisions are made on this copy, because the guest can change its memory at any time. The payload stays in guest
//! memory as slices that the kernel reads from. The receive side of the guest is a [`GuestSink`]: reserve room, let the
//! kernel write directly into guest memory, then commit with the headers.

mod budget;
mod collected;
mod offload;
mod sink;
mod slice;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use crate::packet::Head;

pub use budget::Budget;
pub use collected::{Awaited, Collected};
pub use offload::{Checksum, Offload, Segmentation};
pub use sink::{GuestCaps, GuestSink, Layout, NoRoom};
pub use slice::{Gather, GatherList, GuestSlice, GuestSliceMut, Scatter, ScatterList, copy_from_guest, copy_from_room};

/// Number of bytes of a frame that are copied out of guest memory for inspection. Ethernet (14), VLAN (4), IPv6 (40)
/// and TCP with all options (60) fit into it.
pub const HEAD_MAX: usize = 128;

/// A frame that the guest sent, beginning with the Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct GuestFrame<'a> {
    /// Copy of the first `min(len, HEAD_MAX)` bytes.
    pub head: &'a [u8],
    /// Parsed form of `head`.
    pub parsed: Head,
    /// The whole frame in guest memory, including header bytes. Decisions were made on `head`. The guest may have
    /// changed the same bytes here since.
    pub slices: &'a [GuestSlice<'a>],
    /// Length of the frame in bytes.
    pub len: usize,
    /// Offloads that the guest left to hawser (checked form of the `virtio_net_hdr`).
    pub offload: Offload,
}

impl<'a> GuestFrame<'a> {
    /// Adds the frame's bytes `[offset, offset + len)` to `gather`, as they are in guest memory. Use this only for
    /// payload, on which no decision depends. Returns the number of bytes added.
    pub fn gather(&self, offset: usize, len: usize, gather: &mut Gather<'_, 'a>) -> usize {
        gather.push_range(self.slices, offset, len)
    }

    /// Copies the frame's bytes, starting at `offset`, into `out` and returns how many were copied. Bytes of the head
    /// come from the copy that was inspected, so none is fetched from the guest twice.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        let known = self.head.get(offset..).unwrap_or_default();
        let known = &known[..known.len().min(out.len())];
        let (first, rest) = out.split_at_mut(known.len());
        first.copy_from_slice(known);
        known.len() + copy_from_guest(self.slices, offset + known.len(), rest)
    }
}

/// A batch of frames taken in order from the guest's transmit ring. The chains go back to the guest when the mode
/// returns, so the payload may be used only until then.
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
