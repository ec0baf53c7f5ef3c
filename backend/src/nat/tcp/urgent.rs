//! Urgent data (RFC 9293 3.8.5): one byte of the stream that its sender points at.
//!
//! What the pointer points at was unclear for long. Everybody's kernel takes the byte before it
//! for the urgent one, and that is what RFC 6093 tells to live with; the byte keeps its place in
//! the stream, and whether a program reads it there or out of band is its own affair.
//!
//! From the guest: the byte is handed to the host socket by itself with MSG_OOB, so that the
//! kernel points at it. What came before and after it in one burst goes by way of the spill,
//! which keeps the order.
//!
//! To the guest: the poller tells that a host socket has an urgent byte (EPOLLPRI). The kernel
//! ends a read before that byte, so it is in front when its event comes. Once a connection has had
//! an urgent byte in either direction, the socket is asked after each read too: the kernel sets
//! its mark before the byte can be read. Segments up to the byte get the pointer. The one byte
//! that can pass unmarked is the first of a connection, if it arrives between an event of other
//! bytes and the read that follows it. It then stays an ordinary one: a receiver does not look at
//! a pointer behind what it has (RFC 9293 3.10.7.4).
//!
//! There is one pointer in either direction. A new one takes the place of an earlier one that
//! has not been reached, as in any TCP. A connection without urgent data pays for none of this.

use super::connection::Connection;
use super::receive::Segment;
use super::seq::Seq;
use super::stream::HostStream;

/// Urgent bytes on their way: number of the byte itself, not of the next.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// Of the guest, not handed over yet.
    from_guest: Option<Seq>,
    /// For the guest, not acknowledged yet.
    to_guest: Option<Seq>,
}

impl Connection {
    /// The urgent pointer of a segment of the guest, whose next byte is `next`.
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

    /// Place of the urgent byte among the next `bytes` of the guest. It counts as handed over.
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

    /// There is an urgent byte among those at the host socket.
    pub fn on_urgent(&mut self) {
        self.urgent.get_or_insert_default();
    }

    /// Looks for an urgent byte in the host socket's queue. To be called when the front of the
    /// queue is SND.UNA.
    pub(super) fn seek_urgent(&mut self, stream: &mut impl HostStream) {
        let is_closed = self.snd_una + self.snd_wnd == self.snd_nxt;
        let Some(urgent) = &mut self.urgent else { return };
        if urgent.to_guest.is_some_and(|byte| byte.before(self.snd_una)) {
            urgent.to_guest = None;
        }
        let found = stream.urgent_at().map(|place| self.snd_una + place);
        // Sent already, it went as an ordinary one.
        let found = found.filter(|byte| !byte.before(self.snd_max));
        if found.is_some() && found != urgent.to_guest {
            urgent.to_guest = found;
            // A closed window does not keep the pointer from the guest (RFC 9293 3.8.5).
            self.ack_due |= is_closed;
        }
    }

    /// The urgent byte that segments for the guest point at.
    pub(super) fn urgent_to_guest(&self) -> Option<Seq> {
        self.urgent.as_ref()?.to_guest
    }
}

/// The urgent pointer of a segment with number `seq`; `None` if the byte is before it, or so far
/// behind it that a later segment points at it.
pub(super) fn pointer(byte: Seq, seq: Seq) -> Option<u16> {
    if byte.before(seq) {
        return None;
    }
    u16::try_from(byte.since(seq) + 1).ok()
}
