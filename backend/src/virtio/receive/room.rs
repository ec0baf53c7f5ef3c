//! Finds room for frames: chains, and the payload part of their buffers.

use super::{Passage, Receive};
use crate::counters::DropReason;
use crate::frame::{Budget, GuestSliceMut, HEAD_MAX, Layout, NoRoom};
use crate::packet::EthernetHeader;
use crate::virtio::ring::{Chain, Segments};
use std::ops::Range;

/// Maximum payload buffers in one reservation. One recvmsg(2) takes 1024 (IOV_MAX), and a mode may add some of its own.
pub const MAX_RESERVED_SEGMENTS: usize = 1000;
/// Maximum chains of one frame. Drivers with mergeable buffers post at least 1.5 KiB per chain, so 64 KiB take about
/// 44.
const MAX_CHAINS: usize = 512;
/// Number of buffers, of waiting and used chains together, at which the used ones are removed.
const SWEEP_AT: usize = 4096;
/// Maximum number of buffers in waiting chains.
const MAX_WAITING_SEGMENTS: usize = 8192;

/// Maximum descriptors visited in one turn. This is ten times the buffers that a guest needs for 64 connections of 64
/// KiB each, and takes a few milliseconds.
pub(super) const VISITS_PER_TURN: usize = 32_768;

/// Room reserved for frames: ranges of waiting chains and of payload buffers.
#[derive(Default)]
pub(super) struct Reservation {
    /// Length of each frame's header in bytes.
    pub(super) header: usize,
    pub(super) frames: Vec<ReservedFrame>,
    payload: Segments,
}

/// Room for one frame.
#[derive(Clone, Debug)]
pub(super) struct ReservedFrame {
    /// Indices of the frame's chains in `Receive::waiting`.
    pub(super) chains: Range<usize>,
    /// Indices of the frame's payload buffers in `Reservation::payload`.
    payload: Range<usize>,
    /// Room for payload in bytes.
    pub(super) room: usize,
}

/// Chains found for a frame.
pub(super) struct Found {
    pub(super) chains: Range<usize>,
    /// Room in all of these chains, in bytes.
    pub(super) bytes: usize,
    /// True if there may be more chains, but the buffers are too small to reach `wanted`.
    pub(super) at_limit: bool,
}

impl Reservation {
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.payload.clear();
    }

    pub(super) fn payload(&mut self, index: usize) -> &mut [GuestSliceMut<'_>] {
        let range = self.frames.get(index).map_or(0..0, |f| f.payload.clone());
        self.payload.slices_mut(range)
    }

    pub(super) fn payload_all(&mut self) -> &mut [GuestSliceMut<'_>] {
        self.payload.slices_mut(0..self.payload.len())
    }

    pub(super) fn payload_read(&self, frame: &ReservedFrame) -> &[crate::frame::GuestSlice<'_>] {
        self.payload.slices(frame.payload.clone())
    }
}

impl<P: Passage> Receive<P> {
    pub(super) fn reserve_frames(&mut self, layout: Layout) -> Result<usize, NoRoom> {
        debug_assert!(layout.header <= HEAD_MAX, "headers fit into the head");
        self.reservation.clear();
        self.reservation.header = layout.header;
        if !self.passage.admits() {
            self.starved = true;
            return Err(NoRoom);
        }
        let overhead = self.header_len + layout.header;
        let wanted = overhead + layout.payload;
        // A read into an empty buffer would look like the end of a stream.
        let least = overhead + layout.payload.min(1);
        let count = self.affordable(layout.count, layout.header + layout.payload);
        let mut next = 0;
        while self.reservation.frames.len() < count {
            let Some(found) = self.find_room(next, wanted, least) else {
                break;
            };
            let first = self.reservation.frames.is_empty();
            // Later frames need everything that they request. The first accepts less, so that a guest with few buffers
            // is still served.
            if self.mergeable && found.bytes < wanted && !first {
                break;
            }
            let frame = self.lay_out(&found, overhead, layout.payload);
            if frame.payload.end > MAX_RESERVED_SEGMENTS && !first {
                self.reservation.payload.truncate(frame.payload.start);
                break;
            }
            next = found.chains.end;
            self.reservation.frames.push(frame);
        }
        match self.reservation.frames.len() {
            0 => {
                self.starved = true;
                Err(NoRoom)
            }
            n => Ok(n),
        }
    }

    /// How many of `count` frames of up to `bytes` each may pass now: at least one.
    fn affordable(&self, count: usize, bytes: usize) -> usize {
        let budget = self.passage.budget();
        if budget == Budget::UNLIMITED {
            return count;
        }
        let frames = (budget.bytes / bytes.max(1) as u64).min(budget.packets);
        count.min(usize::try_from(frames).unwrap_or(usize::MAX)).max(1)
    }

    /// Finds chains for a frame of `wanted` bytes including the virtio header, beginning with the waiting chain `from`.
    /// The room is smaller if the guest has not posted more, or without mergeable buffers. `None` if it would be
    /// smaller than `least`.
    pub(super) fn find_room(&mut self, from: usize, wanted: usize, least: usize) -> Option<Found> {
        self.sweep();
        let (mut end, mut bytes) = (from, 0);
        while bytes < wanted && !self.at_limit(end - from) {
            if !self.have_chain(end) {
                break;
            }
            let len = self.waiting[end].len;
            if !self.mergeable && len < least {
                self.reject(end, DropReason::BufferTooSmall);
                continue;
            }
            bytes += len;
            end += 1;
            if !self.mergeable {
                break;
            }
        }
        (end > from && bytes >= least).then_some(Found {
            chains: from..end,
            bytes,
            at_limit: bytes < wanted && self.at_limit(end - from),
        })
    }

    fn at_limit(&self, chains: usize) -> bool {
        chains >= MAX_CHAINS || self.segments.len() >= MAX_WAITING_SEGMENTS
    }

    /// Ensures that the waiting chain with this index exists, if the guest has posted one.
    fn have_chain(&mut self, index: usize) -> bool {
        while self.waiting.len() <= index {
            self.sweep();
            let Some(ring) = &mut self.ring else { return false };
            // A guest that posts only malformed chains, or long chains of empty buffers, must not delay the worker.
            // Chains posted in the meantime wait for the next turn.
            let is_spent = self.rejected > ring.size() || ring.visited() >= VISITS_PER_TURN;
            if is_spent || self.broken.is_some() {
                return false;
            }
            match ring.pop(&mut self.segments) {
                Ok(Some(chain)) => self.take(chain),
                Ok(None) => return false,
                Err(error) => {
                    self.broken = Some(error);
                    return false;
                }
            }
        }
        true
    }

    fn take(&mut self, chain: Chain) {
        self.waiting.push_back(chain);
        let last = self.waiting.len() - 1;
        let least = if self.mergeable {
            self.header_len
        } else {
            self.header_len + EthernetHeader::LEN
        };
        if chain.readable != 0 {
            self.reject(last, DropReason::BadChain);
        } else if chain.len < least {
            self.reject(last, DropReason::BufferTooSmall);
        }
    }

    /// Returns a chain to the guest empty, and counts the reason.
    fn reject(&mut self, index: usize, reason: DropReason) {
        if let (Some(chain), Some(ring)) = (self.waiting.remove(index), &mut self.ring) {
            ring.push_used(chain.head, 0);
            self.rejected = self.rejected.saturating_add(1);
            self.counters.count_drop(reason);
        }
    }

    /// Removes buffers of used chains from the list.
    fn sweep(&mut self) {
        if self.waiting.is_empty() && self.reservation.frames.is_empty() {
            self.segments.clear();
        } else if self.segments.len() >= SWEEP_AT {
            self.segments.keep(self.waiting.iter_mut());
        }
    }

    /// The payload buffers of a frame: everything after the first `overhead` bytes of its chains.
    fn lay_out(&mut self, found: &Found, overhead: usize, payload: usize) -> ReservedFrame {
        let list = &mut self.reservation.payload;
        let first = list.len();
        let (mut skip, mut left) = (overhead, payload.min(found.bytes - overhead));
        let mut room = 0;
        let chains = self.waiting.range(found.chains.clone());
        for buffer in chains.flat_map(|chain| self.segments.raw(chain.segments())) {
            if left == 0 || list.len() - first == MAX_RESERVED_SEGMENTS {
                break;
            }
            let offset = skip.min(buffer.iov_len);
            skip -= offset;
            let len = left.min(buffer.iov_len - offset);
            if len > 0 {
                list.push_part(*buffer, offset, len);
                left -= len;
                room += len;
            }
        }
        ReservedFrame {
            chains: found.chains.clone(),
            payload: first..list.len(),
            room,
        }
    }
}
