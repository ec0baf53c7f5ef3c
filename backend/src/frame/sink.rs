//! Room towards the guest.

use super::{GuestSliceMut, Offload, Segmentation};

/// What the guest accepts on its receive side, from the features it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestCaps {
    /// GUEST_CSUM: partial checksums and "checksum is good" are understood.
    pub checksum: bool,
    /// GUEST_TSO4: IPv4 TCP frames above the MTU.
    pub tso4: bool,
    /// GUEST_TSO6: IPv6 TCP frames above the MTU.
    pub tso6: bool,
    /// GUEST_ECN: such frames may carry ECN.
    pub ecn: bool,
    /// GUEST_USO4: IPv4 UDP frames standing for several datagrams.
    pub uso4: bool,
    /// GUEST_USO6: IPv6 UDP frames standing for several datagrams.
    pub uso6: bool,
}

impl GuestCaps {
    /// Everything.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso4: true,
        uso6: true,
    };

    /// True if the guest takes a frame with this segmentation. It may have switched off an offload
    /// that frames on their way still use.
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

/// The frames one reservation asks for: `count` frames, each of `header` bytes that
/// we write and up to `payload` bytes that the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Header bytes per frame, from the Ethernet header on (at most [`super::HEAD_MAX`]).
    pub header: usize,
    /// Payload bytes wished for per frame.
    pub payload: usize,
    /// Frames wished for.
    pub count: usize,
}

/// The guest has no receive buffers left. `GuestSink` records the
/// refusal, and the worker calls `Mode::on_room` once there are some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has no receive buffers left")]
pub struct NoRoom;

/// The guest's receive side, seen from a mode.
///
/// Two ways in: [`send`](Self::send) copies a small frame; `reserve`, then a
/// system call that writes into [`payload`](Self::payload), then
/// [`commit`](Self::commit) moves bulk without a copy of our own. Frames become
/// visible to the guest together, when the worker ends its turn.
///
/// Either way a checksum may be left undone: for a guest that cannot do it the sink
/// completes it. Segmentation may be left undone only if [`caps`](Self::caps) says so.
pub trait GuestSink {
    /// What the guest accepts.
    fn caps(&self) -> GuestCaps;

    /// Sends one frame made of `parts`, Ethernet header first.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing was sent.
    fn send(&mut self, offload: Offload, parts: &[&[u8]]) -> Result<(), NoRoom>;

    /// Sets buffers aside for `layout`; returns for how many frames there was room
    /// (at least one, at most `layout.count`). An earlier reservation that was not
    /// committed is given back. Where buffers cannot be merged a frame may have less
    /// payload room than asked for: see [`payload`](Self::payload).
    ///
    /// # Errors
    /// [`NoRoom`]: not even one frame fits.
    fn reserve(&mut self, layout: Layout) -> Result<usize, NoRoom>;

    /// Payload room of frame `index` of the reservation, in order.
    fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>];

    /// Payload room of all frames of the reservation, in order: what one stream read
    /// fills from front to back.
    fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>];

    /// Ends the reservation: frame `i` carries `lengths[i]` payload bytes, frames
    /// beyond `lengths` are given back. `header(i, length, buf)` writes the header
    /// into `buf` (`layout.header` bytes) and says what is left to the guest.
    ///
    /// A length of zero skips that frame's payload but still sends its header.
    fn commit(&mut self, lengths: &[usize], header: &mut dyn FnMut(usize, usize, &mut [u8]) -> Offload);
}
