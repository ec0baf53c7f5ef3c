//! From the segment to the guest.
//!
//! How long a frame is, is known only once it is read, and reading it into too little room
//! cuts it off. Small frames are read into memory of our own and copied, which is cheaper
//! than to set room for the largest frame aside for each. While large ones come, the head
//! goes into memory of our own and the rest straight into guest memory, with a spill behind
//! it in case the guest has not posted enough. Which of the two, the last frames tell.

use super::segment::Segment;
use crate::counters::{Counters, DropReason};
use crate::frame::{
    GuestCaps, GuestSink, HEAD_MAX, Layout, NoRoom, Offload, ScatterList, Segmentation, copy_from_room,
};
use crate::packet::EthernetHeader;
use crate::virtio::net_header::{self, HEADER_LEN, LEGACY_HEADER_LEN};
use std::io;
use std::sync::Arc;

/// Frames read before others have a turn.
const FRAMES_PER_TURN: usize = 64;
/// Longest frame: an IP packet of 65535 bytes, its Ethernet header and a tag.
const MAX_FRAME: usize = 65535 + EthernetHeader::LEN + 4;
/// Up to here a frame is better copied.
const SMALL: usize = 2048;
/// So many small frames in a row, and the next is taken for one too.
const HABIT: u8 = 8;
/// What goes into memory of ours of every frame: the virtio header and the head.
const OWN: usize = HEADER_LEN + HEAD_MAX;

/// Reads frames from the device.
pub(super) struct Inbound {
    counters: Arc<Counters>,
    /// Virtio header and frame; in between there may be guest memory instead.
    buffer: Vec<u8>,
    scatter: ScatterList,
    /// Small frames since the last large one.
    small: u8,
    /// Length of the frame in `buffer` that waits for room.
    pending: Option<usize>,
}

/// What became of an attempt to read.
enum Read {
    /// A frame came, and has gone where it belongs.
    Frame,
    /// There is none.
    Drained,
}

impl Inbound {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            buffer: vec![0; HEADER_LEN + MAX_FRAME],
            scatter: ScatterList::default(),
            small: 0,
            pending: None,
        }
    }

    /// True if a frame has been read and waits for room.
    pub(super) const fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The guest is gone, and what waited for it.
    pub(super) fn stop(&mut self) {
        self.pending = None;
    }

    /// Gives the guest what there is, as far as it has room.
    pub(super) fn receive(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) {
        if self.deliver_pending(sink).is_err() {
            return;
        }
        for _ in 0..FRAMES_PER_TURN {
            if !segment.is_readable() {
                return;
            }
            let read = if self.small < HABIT {
                self.read_large(segment, sink)
            } else {
                self.read_small(segment, sink)
            };
            match read {
                Ok(Read::Frame) => {}
                Ok(Read::Drained) => segment.is_drained(),
                Err(NoRoom) => return,
            }
        }
    }

    /// Reads a frame into memory of ours and copies it.
    fn read_small(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) -> Result<Read, NoRoom> {
        let mut scatter = self.scatter.start();
        scatter.push(&mut self.buffer);
        match segment.queue().read(scatter.slices()) {
            Ok(n) => self.copied(n, sink).map(|()| Read::Frame),
            Err(error) => Ok(failed(segment, &error)),
        }
    }

    /// Reads a frame into guest memory, all but its head.
    fn read_large(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) -> Result<Read, NoRoom> {
        sink.reserve(Layout {
            header: HEAD_MAX,
            payload: MAX_FRAME - HEAD_MAX,
            count: 1,
        })?;
        let room: usize = sink.payload_all().iter().map(|slice| slice.len()).sum();
        let (own, rest) = self.buffer.split_at_mut(OWN);
        let mut scatter = self.scatter.start();
        scatter.push(own);
        scatter.extend(sink.payload_all());
        // The spill starts as far in as the room is long: the frame can be put together in place.
        scatter.push(&mut rest[room..]);
        let n = match segment.queue().read(scatter.slices()) {
            Ok(n) => n,
            Err(error) => return Ok(failed(segment, &error)),
        };
        let in_guest = n.saturating_sub(OWN);
        if in_guest == 0 || in_guest > room {
            copy_from_room(sink.payload_all(), 0, &mut self.buffer[OWN..OWN + in_guest.min(room)]);
            return self.copied(n, sink).map(|()| Read::Frame);
        }
        self.note_length(n);
        match self.offload(sink.caps()) {
            Some(offload) => {
                let head = &self.buffer[HEADER_LEN..OWN];
                sink.commit(&[in_guest], &mut |_, _, buffer| {
                    buffer.copy_from_slice(head);
                    offload
                });
            }
            None => self.counters.count_drop(DropReason::NotSegmented),
        }
        Ok(Read::Frame)
    }

    /// A frame of `n` bytes, virtio header and all, is in the buffer.
    fn copied(&mut self, n: usize, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        self.note_length(n);
        if n < HEADER_LEN + EthernetHeader::LEN {
            self.counters.count_drop(DropReason::Truncated);
            return Ok(());
        }
        self.pending = Some(n);
        self.deliver_pending(sink)
    }

    fn deliver_pending(&mut self, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        let Some(n) = self.pending else { return Ok(()) };
        match self.offload(sink.caps()) {
            Some(offload) => sink.send(offload, &[&self.buffer[HEADER_LEN..n]])?,
            None => self.counters.count_drop(DropReason::NotSegmented),
        }
        self.pending = None;
        Ok(())
    }

    fn note_length(&mut self, n: usize) {
        self.small = if n > SMALL { 0 } else { self.small.saturating_add(1) };
    }

    /// What is left undone on the frame in the buffer; `None` if the guest does not take it so.
    fn offload(&self, caps: GuestCaps) -> Option<Offload> {
        let header: &[u8; LEGACY_HEADER_LEN] = self.buffer.first_chunk()?;
        net_header::decode_trusted(header).filter(|offload| takes(caps, *offload))
    }
}

/// Frames that were queued before the guest changed its mind may come in a form it no longer takes.
const fn takes(caps: GuestCaps, offload: Offload) -> bool {
    match offload.segmentation {
        Segmentation::None => true,
        Segmentation::Tcp4 { ecn, .. } => caps.tso4 && (caps.ecn || !ecn),
        Segmentation::Tcp6 { ecn, .. } => caps.tso6 && (caps.ecn || !ecn),
        Segmentation::Udp { .. } => caps.uso4 && caps.uso6,
    }
}

fn failed(segment: &mut Segment, error: &io::Error) -> Read {
    segment.on_error(error);
    Read::Drained
}
