//! Receives frames of the segment and delivers them to the guest.
//!
//! How long a frame is, is known only once it is read, and reading it into too little room
//! cuts it off. Small frames are read into memory of our own and copied, which is cheaper
//! than to set room for the largest frame aside for each. While large ones come, the head
//! goes into memory of our own and the rest straight into guest memory, with a spill behind
//! it in case the guest has not posted enough. Which of the two, the last frames tell; a
//! wrong guess costs a copy.
//!
//! Datagrams that come as one frame stay together for a guest that takes that, and are cut
//! here ([`split`](crate::gso::split)) for one that does not: the kernel would make a frame, and
//! a read, of each.

use super::segment::Segment;
use crate::config::{Forwarding, GATEWAY_MAC};
use crate::counters::{Counters, DropReason};
use crate::frame::{Checksum, GuestCaps, GuestSink, HEAD_MAX, Layout, NoRoom, Offload, ScatterList, copy_from_room};
use crate::gso::split::Split;
use crate::packet::{EthernetHeader, MacAddr};
use crate::policy::vlan::VlanRules;
use crate::virtio::net_header::{self, HEADER_LEN, LEGACY_HEADER_LEN};
use std::io;
use std::sync::Arc;

/// Frames read before others have a turn.
const FRAMES_PER_TURN: usize = 64;
/// Longest frame: an IP packet of 65535 bytes, its Ethernet header and a tag.
const MAX_FRAME: usize = 65535 + EthernetHeader::LEN + 4;
/// Up to here a frame is better copied.
const SMALL: usize = 2048;
/// After this many frames to copy in a row the next is expected to be one too.
const HABIT: u8 = 8;
/// Bytes of every frame that are read into our memory: the virtio header and the head.
const OWN: usize = HEADER_LEN + HEAD_MAX;

/// Reads frames from the device.
pub(super) struct Inbound {
    counters: Arc<Counters>,
    vlan: VlanRules,
    /// Source MAC of all frames to the guest, where the segment routes.
    sender: Option<MacAddr>,
    /// Virtio header and frame; what is behind the head may be in guest memory instead.
    buffer: Vec<u8>,
    scatter: ScatterList,
    /// Frames to copy since the last that was not.
    copies: u8,
    /// Bytes the head of the last large frame had after its tag was edited.
    head: usize,
    /// The frame in `buffer` that waits for room.
    pending: Option<Pending>,
    /// The guest had no room at the last attempt.
    blocked: bool,
}

/// A frame in the buffer, ready for the guest.
#[derive(Clone, Copy)]
struct Pending {
    frame: Frame,
    /// Where it ends in the buffer.
    end: usize,
    split: Option<Split>,
}

/// A frame of which the head is in the buffer, its tag edited.
#[derive(Clone, Copy)]
struct Frame {
    /// Where it begins in the buffer.
    start: usize,
    offload: Offload,
}

/// The result of an attempt to read.
enum Read {
    /// A frame was read and handled.
    Frame,
    /// There is none.
    Drained,
}

impl Inbound {
    pub(super) fn new(counters: Arc<Counters>, vlan: VlanRules, forwarding: Forwarding) -> Self {
        Self {
            counters,
            vlan,
            sender: match forwarding {
                Forwarding::Switched => None,
                Forwarding::Routed { .. } => Some(GATEWAY_MAC),
            },
            buffer: vec![0; HEADER_LEN + MAX_FRAME],
            scatter: ScatterList::default(),
            copies: 0,
            head: HEAD_MAX,
            pending: None,
            blocked: false,
        }
    }

    /// True if nothing can be given to the guest until it has posted buffers.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// True if a frame has been read and waits for room.
    pub(super) const fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Drops the frame that waits for the guest, which is gone.
    pub(super) fn stop(&mut self) {
        self.pending = None;
    }

    /// Delivers frames as far as the guest has room.
    pub(super) fn receive(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) {
        self.blocked = self.try_receive(segment, sink).is_err();
    }

    fn try_receive(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        self.deliver_pending(sink)?;
        for _ in 0..FRAMES_PER_TURN {
            if !segment.is_readable() {
                break;
            }
            let read = if self.copies < HABIT {
                self.read_large(segment, sink)?
            } else {
                self.read_small(segment, sink)?
            };
            match read {
                Read::Frame => {}
                Read::Drained => segment.drained(),
            }
        }
        Ok(())
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
            header: self.head,
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
        let Some(frame) = self.examine(n, sink.caps()) else {
            return Ok(Read::Frame);
        };
        let payload = n.saturating_sub(OWN);
        let head = &self.buffer[frame.start..OWN];
        if (1..=room).contains(&payload) && head.len() == self.head && sink.caps().takes(frame.offload) {
            self.copies = if n > SMALL { 0 } else { self.copies.saturating_add(1) };
            sink.commit(&[payload], &mut |_, _, buffer| {
                buffer.copy_from_slice(head);
                frame.offload
            });
            return Ok(Read::Frame);
        }
        copy_from_room(sink.payload_all(), 0, &mut self.buffer[OWN..OWN + payload.min(room)]);
        self.deliver(frame, n, sink).map(|()| Read::Frame)
    }

    /// Looks at a frame of which at least the head is in the buffer, `n` bytes in all, and
    /// edits its tag. `None` if it goes nowhere, which is counted.
    fn examine(&mut self, n: usize, caps: GuestCaps) -> Option<Frame> {
        match self.try_examine(n, caps) {
            Ok(frame) => Some(frame),
            Err(reason) => {
                self.counters.count_drop(reason);
                None
            }
        }
    }

    fn try_examine(&mut self, n: usize, caps: GuestCaps) -> Result<Frame, DropReason> {
        if n < HEADER_LEN + EthernetHeader::LEN {
            return Err(DropReason::Truncated);
        }
        let header: &[u8; LEGACY_HEADER_LEN] = self.buffer.first_chunk().ok_or(DropReason::Truncated)?;
        let mut offload = net_header::decode_trusted(header).ok_or(DropReason::NotSegmented)?;
        if offload.checksum == Checksum::Valid && !caps.checksum {
            // It is in the bytes too.
            offload.checksum = Checksum::Complete;
        }
        if let Some(sender) = self.sender {
            self.buffer[HEADER_LEN..][EthernetHeader::SRC].copy_from_slice(&sender.0);
        }
        let head = &self.buffer[HEADER_LEN..n.min(OWN)];
        let edit = self.vlan.incoming(head)?;
        let Some(edited) = edit.header(head) else {
            return Ok(Frame {
                start: HEADER_LEN,
                offload,
            });
        };
        // A header that has become longer takes the place of the virtio header.
        let start = HEADER_LEN + edited.replaces - edited.bytes().len();
        self.buffer[start..HEADER_LEN + edited.replaces].copy_from_slice(edited.bytes());
        Ok(Frame {
            start,
            offload: edit.offload(offload),
        })
    }

    /// A frame of `n` bytes, virtio header and all, is in the buffer.
    fn copied(&mut self, n: usize, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        match self.examine(n, sink.caps()) {
            Some(frame) => self.deliver(frame, n, sink),
            None => Ok(()),
        }
    }

    /// Gives the guest a frame that lies in the buffer and ends at `end`.
    fn deliver(&mut self, frame: Frame, end: usize, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        let mut split = None;
        let whole = sink.caps().takes(frame.offload);
        if !whole {
            let bytes = &self.buffer[frame.start..end];
            split = Split::new(bytes, bytes.len(), frame.offload);
            if split.is_none() {
                self.counters.count_drop(DropReason::NotSegmented);
                return Ok(());
            }
        }
        if whole && end > SMALL {
            (self.copies, self.head) = (0, OWN.saturating_sub(frame.start).min(HEAD_MAX));
        } else {
            self.copies = self.copies.saturating_add(1);
        }
        self.pending = Some(Pending { frame, end, split });
        self.deliver_pending(sink)
    }

    fn deliver_pending(&mut self, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        let Some(pending) = &mut self.pending else {
            return Ok(());
        };
        let frame = &self.buffer[pending.frame.start..pending.end];
        match &mut pending.split {
            None => sink.send(pending.frame.offload, &[frame])?,
            Some(split) => {
                while let Some(piece) = split.next(frame) {
                    sink.send(piece.offload, &[piece.headers(), &frame[piece.payload.clone()]])?;
                    split.taken();
                }
            }
        }
        self.pending = None;
        Ok(())
    }
}

fn failed(segment: &mut Segment, error: &io::Error) -> Read {
    segment.on_error(error);
    Read::Drained
}
