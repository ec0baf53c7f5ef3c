//! The receive side of the guest, as a mode uses it.

use super::{GuestSliceMut, Offload, Segmentation};

/// Offloads that the guest accepts on its receive side, according to the negotiated features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCaps {
    /// GUEST_CSUM: the guest accepts partial checksums, and frames marked as having a good checksum.
    pub checksum: bool,
    /// GUEST_TSO4: the guest accepts IPv4 TCP frames above the MTU.
    pub tso4: bool,
    /// GUEST_TSO6: the guest accepts IPv6 TCP frames above the MTU.
    pub tso6: bool,
    /// GUEST_ECN: such TCP frames may carry ECN.
    pub ecn: bool,
    /// GUEST_USO4: the guest accepts IPv4 UDP frames that carry several datagrams.
    pub uso4: bool,
    /// GUEST_USO6: the guest accepts IPv6 UDP frames that carry several datagrams.
    pub uso6: bool,
}

impl GuestCaps {
    /// All offloads.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso4: true,
        uso6: true,
    };

    /// True if the guest accepts a frame with this segmentation. Frames in flight may still use an offload that the
    /// guest has switched off.
    #[inline]
    pub const fn takes(self, offload: Offload) -> bool {
        match offload.segmentation {
            Segmentation::None => true,
            Segmentation::Tcp4 { ecn, .. } => self.tso4 && (self.ecn || !ecn),
            Segmentation::Tcp6 { ecn, .. } => self.tso6 && (self.ecn || !ecn),
            Segmentation::Udp { .. } => self.uso4 && self.uso6,
        }
    }
}

/// The frames of one reservation: `count` frames, each with `header` bytes written by hawser and up to `payload` bytes
/// written by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Header bytes per frame, counted from the Ethernet header (at most [`super::HEAD_MAX`]).
    pub header: usize,
    /// Requested payload bytes per frame.
    pub payload: usize,
    /// Requested number of frames.
    pub count: usize,
}

/// The guest has no receive buffers left. `GuestSink` records the refusal, and the worker calls `Mode::on_room` once
/// buffers are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has no receive buffers left")]
pub struct NoRoom;

/// The guest's receive side, as a mode uses it.
///
/// There are two ways to deliver. [`send`](Self::send) copies a small frame. For bulk data, `reserve`, a system call
/// that writes into [`payload`](Self::payload), and [`commit`](Self::commit) avoid a copy. Frames become visible to the
/// guest together, when the worker ends its turn.
///
/// In both cases the checksum may be partial. The sink completes it for a guest that cannot. Segmentation may be left
/// to the guest only if [`caps`](Self::caps) allows it.
pub trait GuestSink {
    /// Offloads that the guest accepts.
    fn caps(&self) -> GuestCaps;

    /// Sends one frame made of `parts`, which begin with the Ethernet header.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing was sent.
    fn send(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom>;

    /// Reserves buffers for `layout` and returns how many frames fit (at least one, at most `layout.count`). An earlier
    /// reservation that was not committed is released. Without mergeable buffers, a frame may have less payload room
    /// than requested: see [`payload`](Self::payload).
    ///
    /// # Errors
    /// [`NoRoom`]: not even one frame fits.
    fn reserve(&mut self, layout: Layout) -> Result<usize, NoRoom>;

    /// Payload room of frame `index` of the reservation, in order.
    fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>];

    /// Payload room of all frames of the reservation, in order. A single stream read can fill it from front to back.
    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>];

    /// Ends the reservation: frame `i` carries `lengths[i]` payload bytes, and frames beyond `lengths` are released.
    /// `header(i, length, buf)` writes the header into `buf` (`layout.header` bytes) and returns the offloads left to
    /// the guest.
    ///
    /// A frame with a length of zero has no payload, but its header is still sent.
    fn commit(&mut self, lengths: &[usize], header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload);
}
