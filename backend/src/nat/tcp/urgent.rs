//! Urgent data (RFC 9293 3.8.5): one byte of the stream, marked by the sender's urgent pointer.
//!
//! The meaning of the pointer was long unclear. All current kernels treat the byte before it as the urgent byte, and
//! RFC 6093 recommends accepting that. The byte keeps its position in the stream, and each program decides whether it
//! reads the byte there or out of band.
//!
//! From the guest: the byte is sent to the host socket separately, with MSG_OOB, so that the kernel
//! points at it. The bytes before and after it in one burst pass through the spill, which keeps the
//! order.
//!
//! To the guest: the poller reports an urgent byte in a host socket (EPOLLPRI). The kernel ends a
//! read before that byte, so it is at the front when its event arrives. Once a connection has had
//! an urgent byte in either direction, the mark is also checked after each read: the kernel sets
//! the mark before the byte can be read. Segments up to the byte carry the pointer. Only the first
//! urgent byte of a connection can pass unmarked, if it arrives between an event for other bytes
//! and the read after that. It then stays an ordinary byte: a receiver ignores a pointer to data
//! that it already has (RFC 9293 3.10.7.4).
//!
//! There is one pointer in each direction. A new one replaces an earlier one that has not been reached, as in any TCP.
//! This costs nothing on a connection without urgent data.

use super::connection::Connection;
use super::receive::Segment;
use super::seq::Seq;
use super::stream::HostStream;
use serde::{Deserialize, Serialize};

/// Urgent bytes in transit. Each is the sequence number of the byte itself, not of the next byte.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Byte from the guest that has not been passed to the host socket yet.
    from_guest: Option<Seq>,
    /// Byte for the guest that has not been acknowledged yet.
    to_guest: Option<Seq>,
}

/// [`Urgent`] as a plain value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedUrgent {
    from_guest: Option<Seq>,
    to_guest: Option<Seq>,
}

impl From<&Urgent> for SavedUrgent {
    fn from(&Urgent { from_guest, to_guest }: &Urgent) -> Self {
        Self { from_guest, to_guest }
    }
}

impl From<SavedUrgent> for Urgent {
    fn from(SavedUrgent { from_guest, to_guest }: SavedUrgent) -> Self {
        Self { from_guest, to_guest }
    }
}

impl Connection {
    /// Handles the urgent pointer of a segment of the guest, whose next byte is `next`.
    pub(super) fn on_urgent_pointer(&mut self, segment: &Segment, next: Seq) {
        let pointer = segment.header.urgent;
        let byte = Seq(segment.header.seq) + u32::from(pointer) - 1;
        if pointer == 0 || byte.before(next) {
            return;
        }
        let known = &mut self.urgent.get_or_insert_default().from_guest;
        // RCV.UP never moves back.
        *known = Some(known.map_or(byte, |before| before.max(byte)));
    }

    /// Position of the urgent byte among the next `bytes` of the guest. The byte then counts as passed on.
    pub(super) fn take_urgent_among(&mut self, bytes: usize) -> Option<usize> {
        let urgent = self.urgent.as_mut()?;
        let byte = urgent.from_guest?;
        let place = byte.since(self.rcv_nxt) as usize;
        if place >= bytes || byte.before(self.rcv_nxt) {
            return None;
        }
        urgent.from_guest = None;
        Some(place)
    }

    /// Records that the host socket has an urgent byte to read.
    pub(super) fn on_urgent(&mut self) {
        self.urgent.get_or_insert_default();
    }

    /// Looks for an urgent byte in the host socket's queue. Call this only when the front of the queue is SND.UNA.
    pub(super) fn seek_urgent(&mut self, stream: &mut impl HostStream) {
        let is_closed = self.snd_una + self.snd_wnd == self.snd_nxt;
        let Some(urgent) = &mut self.urgent else { return };
        if urgent.to_guest.is_some_and(|byte| byte.before(self.snd_una)) {
            urgent.to_guest = None;
        }
        let found = stream.urgent_at().map(|place| self.snd_una + place);
        // If it was already sent, it was sent as an ordinary byte.
        let found = found.filter(|byte| !byte.before(self.snd_max));
        if found.is_some() && found != urgent.to_guest {
            urgent.to_guest = found;
            // A closed window does not withhold the pointer from the guest (RFC 9293 3.8.5).
            self.ack_due |= is_closed;
        }
    }

    /// The urgent byte that segments for the guest point at.
    pub(super) fn urgent_to_guest(&self) -> Option<Seq> {
        self.urgent.as_ref()?.to_guest
    }
}

/// The urgent pointer for a segment with sequence number `seq`. `None` if the urgent byte precedes it, or is so far
/// after it that a later segment will point at it.
pub(super) fn pointer(byte: Seq, seq: Seq) -> Option<u16> {
    if byte.before(seq) {
        return None;
    }
    u16::try_from(byte.since(seq) + 1).ok()
}
