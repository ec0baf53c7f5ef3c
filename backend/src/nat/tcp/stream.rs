//! The host side of a connection, as the state machine sees it.

use crate::frame::{GuestSlice, GuestSliceMut};
use crate::sys::stream::{self, PeekAt};
use std::io;
use std::net::Shutdown;
use std::time::Duration;

/// A connected host socket. Nothing here waits.
pub trait HostStream {
    /// Hands bytes to the kernel; returns how many it took.
    ///
    /// # Errors
    /// `WouldBlock`: none now. Anything else ends the connection.
    fn send(&mut self, data: &[GuestSlice<'_>]) -> io::Result<usize>;

    /// Hands one byte to the kernel as urgent.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn send_urgent(&mut self, byte: u8) -> io::Result<()>;

    /// Bytes of the queue before the urgent one, if there is one.
    fn urgent_at(&mut self) -> Option<u32>;

    /// Reads bytes at `at` without taking them from the queue; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`: none now. Anything else ends the connection.
    fn peek(&mut self, at: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize>;

    /// Moves the start of the next peek to `offset` bytes behind the front of the queue.
    fn seek_peek(&mut self, offset: u32);

    /// Drops `n` bytes from the front of the queue.
    fn discard(&mut self, n: u32);

    /// No more bytes from the guest: sends FIN after what was sent.
    fn shutdown_write(&mut self);

    /// The connection moves bulk to the guest: lets more wait in the queue.
    fn widen(&mut self);

    /// How long the peer has not been heard, whatever it said.
    fn silence(&mut self) -> Duration;

    /// Has the kernel probe a peer that has been silent for this long, now and from now on.
    /// Whether a peer that does not answer is gone is not for the kernel to say.
    fn probe_after(&mut self, silence: Duration);

    /// Bytes the kernel would take now, and whether its queue is nearly full.
    fn send_room(&mut self) -> SendRoom;
}

/// Room in a host socket's send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRoom {
    /// Bytes the kernel will take.
    pub bytes: u32,
    /// Bytes an empty queue would hold.
    pub limit: u32,
}

impl SendRoom {
    /// True if less than a third of the queue is free. The kernel reports more room, and lets the
    /// queue grow, only on request (`Poller::rearm`).
    pub const fn is_tight(&self) -> bool {
        self.bytes < self.limit / 3
    }
}

impl HostStream for socket2::Socket {
    fn send(&mut self, data: &[GuestSlice<'_>]) -> io::Result<usize> {
        stream::send(self, data)
    }

    fn send_urgent(&mut self, byte: u8) -> io::Result<()> {
        stream::send_urgent(self, byte)
    }

    fn urgent_at(&mut self) -> Option<u32> {
        // Not found it comes in its place, as one among others.
        stream::urgent_at(self).ok().flatten()
    }

    fn peek(&mut self, at: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        stream::peek(self, at, room)
    }

    fn seek_peek(&mut self, offset: u32) {
        // A socket that knows the option refuses no offset.
        let _ = stream::set_peek_offset(self, offset as usize);
    }

    fn discard(&mut self, n: u32) {
        // The bytes were peeked before, so they are there; an error of the connection
        // shows at the next peek.
        let _ = stream::discard(self, n as usize);
    }

    fn shutdown_write(&mut self) {
        // Fails only if the connection is gone already, which an event reports.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn widen(&mut self) {
        // Without it the connection is slower, not wrong.
        let _ = stream::widen_receive_queue(self, WIDE_QUEUE);
    }

    fn silence(&mut self) -> Duration {
        // Without the kernel's report the peer counts as alive.
        stream::silence(self).unwrap_or_default()
    }

    fn probe_after(&mut self, silence: Duration) {
        // Without it only the peer's own traffic answers the guest's probes.
        let _ = stream::probe_after(self, silence);
    }

    fn send_room(&mut self) -> SendRoom {
        match stream::send_memory(self) {
            Ok(memory) => SendRoom {
                bytes: memory.limit.saturating_sub(memory.queued),
                limit: memory.limit,
            },
            Err(_) => SendRoom {
                bytes: FALLBACK_ROOM,
                limit: FALLBACK_ROOM,
            },
        }
    }
}

/// Bytes of a bulk connection that may wait for the guest in the host socket: what fits
/// a receive ring of 256 buffers of a page each.
const WIDE_QUEUE: usize = 1 << 20;
/// What is offered to the guest where the kernel does not tell.
const FALLBACK_ROOM: u32 = 65_535;
