//! Bytes of the guest that the host socket did not accept.
//!
//! The offered window is what the kernel should accept, but the kernel also counts its own overhead per packet, which
//! cannot be known in advance. So the queue is sometimes full before the last few kilobytes of a window arrive. These
//! bytes are kept here and sent first once there is room. Otherwise the guest would have to send them, and everything
//! after them, again. All connections of a worker share one limit, which bounds the memory that a guest can use.

use super::stream::HostStream;
use crate::frame::{GuestSlice, copy_from_guest};
use crate::nat::saved::{LoadError, base64, ensure, within};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum bytes that all connections of one worker may keep.
const POOL: usize = 16 << 20;

/// The limit shared by all connections of a worker.
#[derive(Clone, Debug)]
pub(super) struct SpillPool {
    free: Arc<AtomicUsize>,
}

impl Default for SpillPool {
    fn default() -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(POOL)),
        }
    }
}

impl SpillPool {
    /// A shared limit of `bytes`.
    #[cfg(test)]
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    fn take(&self, n: usize) -> bool {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(n));
        taken.is_ok()
    }

    fn give_back(&self, n: usize) {
        self.free.fetch_add(n, Ordering::Relaxed);
    }
}

/// The kept bytes of one connection. Usually there are none, so an empty value takes only two words.
#[derive(Debug)]
pub(super) struct Spill {
    kept: Option<Box<Kept>>,
    pool: SpillPool,
}

/// Bytes of which the first `sent` have been sent.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    sent: usize,
    /// Position of an urgent byte among the bytes.
    urgent: Option<usize>,
}

impl Kept {
    /// Sends as many bytes as one call can send.
    fn send_some(&mut self, stream: &mut impl HostStream) -> io::Result<()> {
        let until = match self.urgent {
            Some(place) if place == self.sent => {
                stream.send_urgent(self.bytes[place])?;
                self.urgent = None;
                self.sent += 1;
                return Ok(());
            }
            Some(place) if place > self.sent => place,
            _ => self.bytes.len(),
        };
        self.sent += stream.send(&[GuestSlice::from_bytes(&self.bytes[self.sent..until])])?;
        Ok(())
    }
}

/// The kept bytes as a plain value.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSpill {
    #[serde(with = "base64")]
    bytes: Vec<u8>,
    /// Position of an urgent byte among the bytes.
    urgent: Option<usize>,
}

impl Spill {
    /// Converts the kept bytes to a plain value; `None` if there are none.
    pub(super) fn save(&self) -> Option<SavedSpill> {
        let Kept { bytes, sent, urgent } = self.kept.as_deref()?;
        Some(SavedSpill {
            bytes: bytes[*sent..].to_vec(),
            urgent: urgent.and_then(|place| place.checked_sub(*sent)),
        })
    }

    /// Restores the bytes that another process kept.
    pub(super) fn load(saved: Option<&SavedSpill>, pool: SpillPool) -> Result<Self, LoadError> {
        let mut spill = Self::new(pool);
        let Some(SavedSpill { bytes, urgent }) = saved else {
            return Ok(spill);
        };
        within("bytes kept", bytes.len(), 1..=POOL)?;
        ensure(
            urgent.is_none_or(|place| place < bytes.len()),
            "the urgent byte is not among the kept bytes",
        )?;
        ensure(
            spill.keep(&[GuestSlice::from_bytes(bytes)], 0, bytes.len()),
            "more bytes are kept than a worker may hold",
        )?;
        if let Some(kept) = &mut spill.kept {
            kept.urgent = *urgent;
        }
        Ok(spill)
    }

    /// A spill without any bytes.
    pub(super) const fn new(pool: SpillPool) -> Self {
        Self { kept: None, pool }
    }

    /// True if nothing is kept.
    pub(super) const fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    /// Keeps `n` bytes of `slices`, starting at `offset`. False if the limit forbids it.
    pub(super) fn keep(&mut self, slices: &[GuestSlice<'_>], offset: usize, n: usize) -> bool {
        if !self.pool.take(n) {
            return false;
        }
        let bytes = &mut self.kept.get_or_insert_default().bytes;
        let start = bytes.len();
        bytes.resize(start + n, 0);
        let copied = copy_from_guest(slices, offset, &mut bytes[start..]);
        debug_assert_eq!(copied, n);
        true
    }

    /// Keeps the first `n` bytes of `slices`, of which the byte at `place` is urgent.
    pub(super) fn keep_urgent(&mut self, slices: &[GuestSlice<'_>], n: usize, place: usize) -> bool {
        let is_kept = self.keep(slices, 0, n);
        if let Some(kept) = self.kept.as_mut().filter(|_| is_kept) {
            kept.urgent = Some(kept.bytes.len() - n + place);
        }
        is_kept
    }

    /// Sends the kept bytes to the host socket, as far as it accepts them. Returns how many bytes it accepted.
    ///
    /// # Errors
    /// The socket failed.
    pub(super) fn flush(&mut self, stream: &mut impl HostStream) -> io::Result<usize> {
        let Some(kept) = &mut self.kept else { return Ok(0) };
        let before = kept.sent;
        while kept.sent < kept.bytes.len() {
            match kept.send_some(stream) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(kept.sent - before),
                Err(e) => return Err(e),
            }
        }
        let taken = kept.sent - before;
        self.clear();
        Ok(taken)
    }

    fn clear(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.pool.give_back(kept.bytes.len());
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.clear();
    }
}
