//! The host socket of a connection, as the state machine sees it.

use crate::frame::{GuestSlice, GuestSliceMut};
use crate::sys::stream::{self, PeekAt};
use std::io;
use std::net::Shutdown;
use std::time::Duration;

/// A connected host socket. No method blocks.
pub(super) trait HostStream {
    /// Sends bytes, and returns how many the kernel accepted.
    ///
    /// # Errors
    /// `WouldBlock` if it accepts none now. Any other error ends the connection.
    fn send(&mut self, data: &[GuestSlice<'_>]) -> io::Result<usize>;

    /// Sends one byte as urgent.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    fn send_urgent(&mut self, byte: u8) -> io::Result<()>;

    /// Number of bytes in the receive queue before the urgent byte, if there is one.
    fn urgent_at(&mut self) -> Option<u32>;

    /// Reads bytes at `at` without removing them from the queue. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if there are none now. Any other error ends the connection.
    fn peek(&mut self, at: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize>;

    /// Makes the next peek start `offset` bytes after the front of the queue.
    fn seek_peek(&mut self, offset: u32);

    /// Drops `n` bytes from the front of the queue. Returns how many there were.
    fn discard(&mut self, n: u32) -> u32;

    /// Sends FIN after the bytes sent so far, because the guest sends no more.
    fn shutdown_write(&mut self);

    /// Enlarges the receive queue, for bulk traffic to the guest.
    fn widen(&mut self);

    /// Time since the last segment from the peer.
    fn silence(&mut self) -> Duration;

    /// Makes the kernel probe the peer whenever the peer has been silent for this long. The kernel must not conclude
    /// that a silent peer is gone.
    fn probe_after(&mut self, silence: Duration);

    /// The room that the kernel has for bytes now.
    fn send_room(&mut self) -> SendRoom;
}

/// Room in a host socket's send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendRoom {
    /// Bytes that the kernel will accept.
    pub bytes: u32,
    /// Capacity of an empty queue in bytes.
    pub limit: u32,
}

impl SendRoom {
    /// True if less than a third of the queue is free. The kernel reports more room, and lets the queue grow, only on
    /// request (`Poller::rearm`).
    pub(super) const fn is_tight(&self) -> bool {
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
        // If this fails, the byte arrives in its position as an ordinary byte.
        stream::urgent_at(self).ok().flatten()
    }

    fn peek(&mut self, at: PeekAt, room: &mut [GuestSliceMut<'_>]) -> io::Result<usize> {
        stream::peek(self, at, room)
    }

    fn seek_peek(&mut self, offset: u32) {
        // A socket that supports the option accepts any offset.
        let _ = stream::set_peek_offset(self, offset as usize);
    }

    fn discard(&mut self, n: u32) -> u32 {
        // The next peek returns any error of the connection.
        let dropped = stream::discard(self, n as usize).unwrap_or_default();
        u32::try_from(dropped).unwrap_or(n)
    }

    fn shutdown_write(&mut self) {
        // This fails only if the connection has already ended, which an event reports.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn widen(&mut self) {
        // If this fails, the connection is slower, but still correct.
        let _ = stream::widen_receive_queue(self, WIDE_QUEUE);
    }

    fn silence(&mut self) -> Duration {
        // If the kernel does not report it, the peer counts as alive.
        stream::silence(self).unwrap_or_default()
    }

    fn probe_after(&mut self, silence: Duration) {
        // If this fails, the guest's probes are answered only when the peer sends traffic of its own.
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

/// Bytes of a bulk connection that may wait for the guest in the host socket. This is the capacity of a receive ring of
/// 256 buffers of one page each.
const WIDE_QUEUE: usize = 1 << 20;
/// Window offered to the guest if the kernel does not report room.
const FALLBACK_ROOM: u32 = 65_535;
