//! Packet capture on a port: frames in both directions, with the reason for each drop.
//!
//! Without a reader, the cost is one load per direction in each turn of the worker, and one test per frame to the
//! guest. With a reader, the first bytes of each frame are copied and sent over a bounded channel. A slow reader loses
//! packets and learns how many it has lost, but never delays a worker. During a capture the mode receives the guest's
//! frames one at a time, so that each counted reason can be matched to its frame.

mod filter;
mod pcapng;

pub use filter::{BadFilter, CaptureFilter};
pub use pcapng::PcapngWriter;

use crate::counters::DropReason;
use crate::frame::{GuestFrame, GuestSlice, copy_from_guest};
use crate::packet::Head;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Maximum packets that wait for the reader.
const CHANNEL: usize = 4096;
/// Number of bytes kept of a packet by default, enough for the longest one.
pub const SNAP_LENGTH_MAX: usize = 65_535 + 18;

/// Direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest sent it.
    FromGuest,
    /// It was sent to the guest.
    ToGuest,
}

/// Settings of a capture.
#[derive(Clone, Debug)]
pub struct CaptureRules {
    /// Number of bytes kept of each packet.
    pub snap_length: usize,
    /// Selects the packets to show.
    pub filter: CaptureFilter,
}

/// A captured packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Time of the capture.
    pub at: SystemTime,
    /// Direction of the packet.
    pub direction: Direction,
    /// The first bytes of the packet, beginning with the Ethernet header.
    pub bytes: Vec<u8>,
    /// Length of the packet. For a frame that was not admitted, it is the length of its head.
    pub len: usize,
    /// The reason why the packet was dropped, if it was.
    pub dropped: Option<DropReason>,
    /// Number of packets lost since the previous one because the reader was slow.
    pub lost: u64,
}

/// Another capture of the port is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another capture of this port is running: end it first")]
pub struct Busy;

/// State that the workers of a port share with the reader.
#[derive(Debug, Default)]
pub struct Capture {
    session: Mutex<Option<Session>>,
    /// Incremented whenever `session` changes.
    generation: AtomicU64,
}

#[derive(Clone, Debug)]
struct Session {
    rules: Arc<CaptureRules>,
    sender: SyncSender<Packet>,
}

impl Capture {
    /// Starts a capture.
    ///
    /// # Errors
    /// [`Busy`]
    pub fn start(self: &Arc<Self>, rules: CaptureRules) -> Result<CaptureStream, Busy> {
        let (sender, packets) = sync_channel(CHANNEL);
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if session.is_some() {
            return Err(Busy);
        }
        *session = Some(Session {
            rules: Arc::new(rules),
            sender,
        });
        self.generation.fetch_add(1, Ordering::Release);
        Ok(CaptureStream {
            packets,
            capture: Arc::clone(self),
        })
    }

    fn stop(&self) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// The reader's end of a capture. Dropping it ends the capture.
#[derive(Debug)]
pub struct CaptureStream {
    packets: Receiver<Packet>,
    capture: Arc<Capture>,
}

impl CaptureStream {
    /// Waits for the next packet; `None` if none arrives within `patience`.
    ///
    /// # Errors
    /// The port is gone.
    pub fn next(&self, patience: Duration) -> Result<Option<Packet>, PortGone> {
        match self.packets.recv_timeout(patience) {
            Ok(packet) => Ok(Some(packet)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(PortGone),
        }
    }

    /// Takes a packet that has already arrived, if there is one.
    pub fn ready(&self) -> Option<Packet> {
        self.packets.try_recv().ok()
    }
}

impl Drop for CaptureStream {
    fn drop(&mut self) {
        self.capture.stop();
    }
}

/// The captured port has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the port has ended")]
pub struct PortGone;

/// The end of a capture on which a worker records packets.
#[derive(Debug)]
pub struct CaptureTap {
    capture: Arc<Capture>,
    generation: u64,
    session: Option<Session>,
    lost: Cell<u64>,
    /// Packets that are held back since [`hold`](Self::hold).
    held: RefCell<Option<Vec<Packet>>>,
}

impl CaptureTap {
    /// Creates a worker's end of `capture`.
    pub fn new(capture: Arc<Capture>) -> Self {
        Self {
            capture,
            generation: 0,
            session: None,
            lost: Cell::new(0),
            held: RefCell::default(),
        }
    }

    /// True if a capture is running. Called once per turn.
    #[inline]
    pub fn look(&mut self) -> bool {
        let generation = self.capture.generation.load(Ordering::Relaxed);
        if generation != self.generation {
            self.follow(generation);
        }
        self.session.is_some()
    }

    #[cold]
    fn follow(&mut self, generation: u64) {
        self.generation = generation;
        let session = self.capture.session.lock();
        self.session = session.unwrap_or_else(PoisonError::into_inner).clone();
        self.lost.set(0);
    }

    /// True if a capture was running at the last [`look`](Self::look).
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.session.is_some()
    }

    /// Holds back packets from now on. Whether a request was dropped is known only after the mode has handled it, and
    /// the answer must not appear before the request.
    pub fn hold(&mut self) {
        self.held.get_mut().get_or_insert_default();
    }

    /// Sends the packets that were held back.
    pub fn release(&mut self) {
        for mut packet in self.held.take().unwrap_or_default() {
            packet.at = SystemTime::now();
            self.send(packet);
        }
    }

    /// Captures a frame from the guest.
    #[cold]
    pub fn frame(&self, frame: &GuestFrame<'_>, dropped: Option<DropReason>) {
        let head = || frame.parsed;
        self.show(Direction::FromGuest, dropped, (frame.head, frame.len), head, |bytes| {
            frame.copy_to(0, bytes);
        });
    }

    /// Captures the head of a frame from the guest that was not admitted.
    #[cold]
    pub fn refused(&self, head: &[u8], reason: DropReason) {
        let parse = || Head::parse(head, head.len());
        self.show(Direction::FromGuest, Some(reason), (head, head.len()), parse, |bytes| {
            bytes.copy_from_slice(&head[..bytes.len()]);
        });
    }

    /// Captures a frame for the guest, given as a header and payload slices.
    #[cold]
    pub fn to_guest(&self, head: &[u8], payload: &[GuestSlice<'_>], len: usize, dropped: Option<DropReason>) {
        let all = head.len() + len;
        self.show(
            Direction::ToGuest,
            dropped,
            (head, all),
            || Head::parse(head, all),
            |bytes| {
                let in_head = head.len().min(bytes.len());
                bytes[..in_head].copy_from_slice(&head[..in_head]);
                copy_from_guest(payload, 0, &mut bytes[in_head..]);
            },
        );
    }

    /// Captures a frame for the guest, given as `parts`.
    #[cold]
    pub fn parts_to_guest(&self, parts: &[&[u8]], dropped: Option<DropReason>) {
        self.parts(Direction::ToGuest, parts, dropped);
    }

    /// Captures a frame given as `parts`. The first part contains the headers.
    #[cold]
    pub fn parts(&self, direction: Direction, parts: &[&[u8]], dropped: Option<DropReason>) {
        let head = parts.first().copied().unwrap_or_default();
        let len = parts.iter().map(|part| part.len()).sum();
        self.show(
            direction,
            dropped,
            (head, len),
            || Head::parse(head, len),
            |bytes| {
                let all = parts.iter().flat_map(|part| part.iter());
                bytes.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
            },
        );
    }

    fn show(
        &self,
        direction: Direction,
        dropped: Option<DropReason>,
        (first, len): (&[u8], usize),
        head: impl FnOnce() -> Head,
        copy: impl FnOnce(&mut [u8]),
    ) {
        let Some(session) = &self.session else { return };
        if !session.rules.filter.takes(direction, first, head, dropped) {
            return;
        }
        let mut bytes = vec![0; len.min(session.rules.snap_length)];
        copy(&mut bytes);
        let packet = Packet {
            at: SystemTime::now(),
            direction,
            bytes,
            len,
            dropped,
            lost: 0,
        };
        if let Some(held) = &mut *self.held.borrow_mut() {
            return held.push(packet);
        }
        self.send(packet);
    }

    fn send(&self, mut packet: Packet) {
        let Some(session) = &self.session else { return };
        packet.lost = self.lost.take();
        // If the reader is gone, the next `look` notices.
        if let Err(TrySendError::Full(packet)) = session.sender.try_send(packet) {
            self.lost.set(packet.lost + 1);
        }
    }
}

#[cfg(test)]
mod tests;
