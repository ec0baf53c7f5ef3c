//! The vocabulary between the worker and the modes: frames the guest sent, room
//! the guest gave, and the offload metadata of both.
//!
//! A frame from the guest is a [`GuestFrame`]: its first bytes copied out of guest
//! memory once (the guest can change them under us, so decisions are made on the
//! copy), its payload left in guest memory as slices the kernel reads from.
//! Room towards the guest is a [`GuestSink`]: reserve, let the kernel write
//! straight into guest memory, commit with the headers.

mod offload;
mod sink;
mod slice;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

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
    /// The whole frame, header bytes included, in guest memory.
    pub slices: &'a [GuestSlice<'a>],
    /// Length of the frame in bytes.
    pub len: usize,
    /// What the guest left to us (checked form of the `virtio_net_hdr`).
    pub offload: Offload,
}

impl<'a> GuestFrame<'a> {
    /// Adds the frame's bytes `[offset, offset + len)` to `gather`.
    /// Returns how many bytes were there to add.
    pub fn gather(&self, offset: usize, len: usize, gather: &mut Gather<'_, 'a>) -> usize {
        gather.push_range(self.slices, offset, len)
    }

    /// Copies the frame's bytes from `offset` on into `out`; returns how many were there.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        copy_from_guest(self.slices, offset, out)
    }
}

/// A batch of frames the guest sent, taken from its transmit ring in order. The
/// chains go back to the guest after the mode has returned, so the payload may be
/// used until then and not longer.
pub type GuestBurst<'a> = [GuestFrame<'a>];
