//! Receives frames of the segment and delivers them to the guest.
//!
//! The length of a frame is known only after it has been read, and a read into a buffer that is too small truncates it.
//! While frames are small, they are read into a buffer of our own and copied. This is cheaper than reserving guest
//! buffers for the largest frame each time. While frames are large, the head is read into our buffer and the rest
//! directly into guest memory, followed by a spill buffer in case the guest has not posted enough. The most recent
//! frames decide between the two. A wrong guess costs a copy.
//!
//! Datagrams that arrive as one frame stay together if the guest accepts that. Otherwise they are split here
//! ([`split`](crate::gso::split)), because the kernel would split them into one frame, and one read, each.

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

/// Maximum frames read per turn.
const FRAMES_PER_TURN: usize = 64;
/// Length of the longest frame: an IP packet of 65535 bytes, its Ethernet header and a tag.
const MAX_FRAME: usize = 65535 + EthernetHeader::LEN + 4;
/// Length up to which a frame is cheaper to copy.
const SMALL: usize = 2048;
/// After this many consecutive small frames, the next frame is expected to be small too.
const HABIT: u8 = 8;
/// Bytes of every frame that are read into our memory: the virtio header and the head.
const OWN: usize = HEADER_LEN + HEAD_MAX;

/// Reads frames from the device and delivers them.
pub(super) struct Inbound {
    counters: Arc<Counters>,
    vlan: VlanRules,
    /// Source MAC of all frames to the guest, on a routed segment.
    sender: Option<MacAddr>,
    /// Virtio header and frame. The part after the head may be in guest memory instead.
    buffer: Vec<u8>,
    scatter: ScatterList,
    /// Number of consecutive small frames so far.
    copies: u8,
    /// Length of the head of the last large frame, after its tag was edited.
    head: usize,
    /// The frame in `buffer` that waits for room.
    pending: Option<Pending>,
    /// True if the guest had no room at the last attempt.
    blocked: bool,
    claims: Claims,
}

/// Frames of other ports that the guest might have sent.
enum Claims {
    /// Nobody wants to know.
    Unwatched,
    /// The guest's MAC, and whether another port has sent with it.
    Watched(MacAddr, bool),
}

/// A frame in the buffer that is ready for the guest.
#[derive(Clone, Copy)]
struct Pending {
    frame: Frame,
    /// Offset of the frame's end in the buffer.
    end: usize,
    split: Option<Split>,
}

/// A frame whose head is in the buffer, with its tag edited.
#[derive(Clone, Copy)]
struct Frame {
    /// Offset of the frame's start in the buffer.
    start: usize,
    offload: Offload,
}

/// The result of an attempt to read.
enum Read {
    /// A frame was read and handled.
    Frame,
    /// No frame was waiting.
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
            claims: Claims::Unwatched,
        }
    }

    /// Watches for frames of other ports with the MAC of the guest.
    pub(super) fn watch_claims(&mut self, mac: MacAddr) {
        self.claims = Claims::Watched(mac, false);
    }

    /// True if another port has sent with the guest's MAC since the last call.
    pub(super) fn take_claim(&mut self) -> bool {
        match &mut self.claims {
            Claims::Unwatched => false,
            Claims::Watched(_, claimed) => std::mem::take(claimed),
        }
    }

    /// True if nothing can be delivered until the guest posts buffers.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// True if a frame has been read and waits for room.
    pub(super) const fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Drops the waiting frame, because the guest's driver is gone.
    pub(super) fn stop(&mut self) {
        self.pending = None;
    }

    /// Delivers frames as long as the guest has room.
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

    /// Reads a frame into our buffer and copies it to the guest.
    fn read_small(&mut self, segment: &mut Segment, sink: &mut dyn GuestSink) -> Result<Read, NoRoom> {
        let mut scatter = self.scatter.start();
        scatter.push(&mut self.buffer);
        match segment.queue().read(scatter.slices()) {
            Ok(n) => self.copied(n, sink).map(|()| Read::Frame),
            Err(error) => Ok(failed(segment, &error)),
        }
    }

    /// Reads a frame into guest memory, except for its head.
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
        // The spill starts at an offset equal to the room, so that the frame can be assembled in place.
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

    /// Inspects a frame of `n` bytes, whose head at least is in the buffer, and edits its tag. `None` if the frame is
    /// dropped, which is counted.
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
            // These bytes carry the full checksum too.
            offload.checksum = Checksum::Complete;
        }
        if let Claims::Watched(mac, claimed) = &mut self.claims {
            *claimed |= self.buffer[HEADER_LEN..][EthernetHeader::SRC] == mac.0;
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
        // If the header has grown, it overwrites the end of the virtio header.
        let start = HEADER_LEN + edited.replaces - edited.bytes().len();
        self.buffer[start..HEADER_LEN + edited.replaces].copy_from_slice(edited.bytes());
        Ok(Frame {
            start,
            offload: edit.offload(offload),
        })
    }

    /// Handles a frame that is completely in the buffer. `n` includes the virtio header.
    fn copied(&mut self, n: usize, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        match self.examine(n, sink.caps()) {
            Some(frame) => self.deliver(frame, n, sink),
            None => Ok(()),
        }
    }

    /// Delivers a frame that ends at offset `end` of the buffer.
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
