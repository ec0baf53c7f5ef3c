//! The device side of a split virtqueue (virtio 1.3, 2.7).
//!
//! ```text
//!            avail.idx ──┐  the guest has posted up to here
//!   ├ taken ┤ next_avail ┤├ posted ┤
//!   ├ seen by the guest ┤ published ┤├ written ┤ next_used
//! ```
//!
//! A burst has three passes: [`Ring::pop`] takes chains and translates them, the caller acts on them,
//! [`Ring::push_used`] writes used elements; then [`Ring::publish`] moves the used index once, so that the guest sees
//! the burst as a whole, and [`Ring::wants_call`] returns whether the guest wants an interrupt.
//!
//! Everything in guest memory is read once (volatile or atomic) and checked on the copy. An
//! inconsistency is a [`RingError`], after which the owner stops the ring.
//!
//! Work is measured in descriptors: a chain costs at most [`MAX_VISITS`], and [`Ring::visited`]
//! returns the sum, so that a worker stops in time if a guest posts long chains of empty buffers.

mod chain;

pub use chain::{Chain, MAX_SEGMENTS, MAX_VISITS, Part, Segments};

use super::MAX_RING_SIZE;
use super::features::Features;
use super::memory::{GuestMap, RegionCache};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY,
};

/// Length of a descriptor in bytes.
const DESCRIPTOR_SIZE: u64 = 16;
/// Length of `flags` and `idx` in front of the entries of either ring, in bytes.
const RING_HEADER_SIZE: u64 = 4;
/// Length of an entry of the available ring in bytes.
const AVAIL_ENTRY_SIZE: u64 = 2;
/// Length of an element of the used ring in bytes.
const USED_ELEMENT_SIZE: u64 = 8;
/// Length of the event index after either ring, in bytes.
const EVENT_SIZE: u64 = 2;

/// Addresses of a ring, and the position from which to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors: a power of two from 1 to [`MAX_RING_SIZE`].
    pub size: u16,
    /// Guest-physical address of the descriptor table, a multiple of 16.
    pub descriptors: u64,
    /// Guest-physical address of the available ring, a multiple of 2.
    pub available: u64,
    /// Guest-physical address of the used ring, a multiple of 4.
    pub used: u64,
    /// Index of the first available entry that has not been taken.
    pub next_avail: u16,
}

/// The reason why a ring must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The size is zero or not a power of two.
    #[error("ring size {0} is not a power of two up to {MAX_RING_SIZE}")]
    Size(u16),
    /// A part of the ring is not aligned as 2.7 requires.
    #[error("the ring part at {0:#x} is not aligned")]
    Misaligned(u64),
    /// A part of the ring is outside guest memory.
    #[error("the ring part at {0:#x} is not in guest memory")]
    Unmapped(u64),
    /// The available index is further ahead than the ring has entries.
    #[error("the available index is {0} entries ahead in a ring of {1}")]
    AvailIndex(u16, u16),
    /// A descriptor index is beyond its table.
    #[error("descriptor {0} is not in its table")]
    DescriptorIndex(u16),
    /// A chain loops, or has more descriptors than any driver uses.
    #[error("a chain loops or is too long")]
    ChainTooLong,
    /// A buffer is outside guest memory.
    #[error("the buffer at {0:#x} is not in guest memory")]
    OutsideMemory(u64),
    /// A readable buffer follows a writable one (2.7.4.2).
    #[error("a readable buffer comes after a writable one")]
    WrongOrder,
    /// An indirect table is nested, has a successor or was not negotiated, or its length is not a multiple of a
    /// descriptor (2.7.5.3.1).
    #[error("an indirect descriptor is malformed or was not negotiated")]
    Indirect,
    /// An indirect table is longer than any chain may be.
    #[error("an indirect table of {0} descriptors is longer than any chain")]
    TableTooLong(u32),
}

/// A running split ring.
pub struct Ring {
    map: Arc<GuestMap>,
    cache: RegionCache,
    layout: RingLayout,
    mask: u16,
    /// Host addresses of the three parts. Each part lies completely in one region.
    descriptors: *const u8,
    available: *const u8,
    used: *mut u8,
    /// Index of the next available entry to take, not reduced modulo the ring's size.
    next_avail: u16,
    /// The available index as last read.
    avail_seen: u16,
    /// Index of the next used element to write.
    next_used: u16,
    /// Used index that the guest sees.
    published: u16,
    /// Used index at the last decision about an interrupt. `None` before the first decision.
    considered: Option<u16>,
    event_idx: bool,
    indirect: bool,
    logging: bool,
    /// True while kicks are suppressed.
    quiet: bool,
    /// Number of descriptors visited since the last reset.
    visited: usize,
}

debug_fields!(Ring { next_avail, next_used });

// SAFETY: the pointers lead into the mapping that `map` keeps alive. It belongs to no thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Translates a ring and continues at `layout.next_avail`. Kicks stay suppressed until
    /// [`enable_kicks`](Self::enable_kicks).
    ///
    /// # Errors
    /// [`RingError`] for an invalid address or size of the ring.
    pub fn new(map: Arc<GuestMap>, layout: RingLayout, features: Features) -> Result<Self, RingError> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_RING_SIZE {
            return Err(RingError::Size(size));
        }
        let n = u64::from(size);
        let part = |address: u64, align: u64, len: u64| {
            if !address.is_multiple_of(align) {
                return Err(RingError::Misaligned(address));
            }
            let host = map.range(address, len).ok_or(RingError::Unmapped(address))?;
            // Regions are mapped at page boundaries with the same offset, so this fails only for a front end that
            // shares memory from an odd offset.
            if !(host.addr() as u64).is_multiple_of(align) {
                return Err(RingError::Misaligned(address));
            }
            Ok(host)
        };
        let descriptors = part(layout.descriptors, 16, n * DESCRIPTOR_SIZE)?;
        let available = part(
            layout.available,
            2,
            RING_HEADER_SIZE + n * AVAIL_ENTRY_SIZE + EVENT_SIZE,
        )?;
        let used = part(layout.used, 4, RING_HEADER_SIZE + n * USED_ELEMENT_SIZE + EVENT_SIZE)?;
        let mut ring = Self {
            cache: RegionCache::default(),
            layout,
            mask: size - 1,
            descriptors,
            available,
            used,
            next_avail: layout.next_avail,
            avail_seen: layout.next_avail,
            next_used: 0,
            published: 0,
            considered: None,
            event_idx: false,
            indirect: false,
            logging: false,
            quiet: false,
            visited: 0,
            map,
        };
        // Elements that were returned before a stop or a migration are not returned again.
        let used_idx = ring.used_idx().load(Ordering::Relaxed).to_le();
        (ring.next_used, ring.published) = (used_idx, used_idx);
        ring.set_features(features);
        ring.disable_kicks();
        Ok(ring)
    }

    /// Applies newly acknowledged features (LOG_ALL changes while a ring runs).
    pub const fn set_features(&mut self, features: Features) {
        self.event_idx = features.has(VIRTIO_RING_F_EVENT_IDX);
        self.indirect = features.has(VIRTIO_RING_F_INDIRECT_DESC);
        self.logging = features.log_all();
    }

    /// Addresses of the ring and the current `next_avail`. A ring in a new memory table, or another back end, continues
    /// from these.
    pub const fn layout(&self) -> RingLayout {
        RingLayout {
            next_avail: self.next_avail,
            ..self.layout
        }
    }

    /// Number of descriptors in the ring.
    pub const fn size(&self) -> u16 {
        self.layout.size
    }

    /// Number of entries that the guest has posted and that have not been taken yet.
    ///
    /// # Errors
    /// [`RingError::AvailIndex`]
    #[inline]
    pub fn available(&mut self) -> Result<u16, RingError> {
        // Acquire: the entries and descriptors are read after the index that covers them.
        let idx = self.avail_field(1).load(Ordering::Acquire).to_le();
        let posted = idx.wrapping_sub(self.next_avail);
        if posted > self.layout.size {
            return Err(RingError::AvailIndex(posted, self.layout.size));
        }
        self.avail_seen = idx;
        Ok(posted)
    }

    /// Takes the next chain and adds its buffers to `segments`. `None` if the guest has posted none.
    ///
    /// # Errors
    /// Any [`RingError`] for a chain. The chain then stays in the ring.
    #[inline]
    pub fn pop(&mut self, segments: &mut Segments) -> Result<Option<Chain>, RingError> {
        if self.next_avail == self.avail_seen && self.available()? == 0 {
            return Ok(None);
        }
        let slot = 2 + usize::from(self.next_avail & self.mask);
        // SAFETY: the slot lies in the available ring, which was translated as a whole
        // and is aligned to 2.
        let head = u16::from_le(unsafe { self.available.cast::<u16>().add(slot).read_volatile() });
        let chain = self.walk(head, segments)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Number of descriptors visited since [`forget_visited`](Self::forget_visited). This is the cost of taking chains
    /// so far.
    #[inline]
    pub const fn visited(&self) -> usize {
        self.visited
    }

    /// Resets [`visited`](Self::visited).
    #[inline]
    pub const fn forget_visited(&mut self) {
        self.visited = 0;
    }

    /// Puts the `n` chains that were taken last back into the ring, as if they had never been taken.
    pub const fn unpop(&mut self, n: u16) {
        self.next_avail = self.next_avail.wrapping_sub(n);
    }

    /// Writes a used element: chain `head` is done, with `len` bytes written. The guest sees it after
    /// [`publish`](Self::publish).
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        let offset = RING_HEADER_SIZE + u64::from(self.next_used & self.mask) * USED_ELEMENT_SIZE;
        // SAFETY: the element lies in the used ring, which was translated as a whole. It is aligned only to 4, so it
        // takes two stores.
        unsafe {
            let element = self
                .used
                .add(usize::from(self.next_used & self.mask) * 8 + 4)
                .cast::<u32>();
            element.write_volatile(u32::from(head).to_le());
            element.add(1).write_volatile(len.to_le());
        }
        self.next_used = self.next_used.wrapping_add(1);
        self.mark_used_ring(offset, USED_ELEMENT_SIZE);
    }

    /// Makes the used elements written so far visible to the guest.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.next_used {
            return;
        }
        self.published = self.next_used;
        // Release: elements and buffers are in memory before the index that covers them.
        self.used_idx().store(self.published.to_le(), Ordering::Release);
        self.mark_used_ring(2, 2);
    }

    /// True if the guest wants an interrupt for the elements published since the last call of this function (2.7.7.2).
    /// It is true the first time, because the guest may have missed the interrupt for elements returned before the ring
    /// was started. With EVENT_IDX it would then wait for an entry in the past.
    #[inline]
    pub fn wants_call(&mut self) -> bool {
        if self.considered == Some(self.published) {
            return false;
        }
        let Some(old) = self.considered.replace(self.published) else {
            return true;
        };
        // Full barrier: the used index must be visible before the guest's event index is read. The
        // guest writes its event index, then reads the used index, so at least one side sees the
        // other's write.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event = self.avail_field(2 + usize::from(self.layout.size));
            needs_event(used_event.load(Ordering::Relaxed).to_le(), self.published, old)
        } else {
            let flags = self.avail_field(0).load(Ordering::Relaxed).to_le();
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Requests a kick for the next chain, then checks again. True if the guest has posted chains in the meantime
    /// (2.7.10).
    ///
    /// # Errors
    /// [`RingError::AvailIndex`]
    pub fn enable_kicks(&mut self) -> Result<bool, RingError> {
        self.quiet = false;
        if self.event_idx {
            self.write_avail_event(self.next_avail);
        } else {
            self.write_used_flags(0);
        }
        // Full barrier: the event index must be visible before the available index is read again.
        // The guest writes the available index, then reads the event index.
        fence(Ordering::SeqCst);
        Ok(self.available()? != 0)
    }

    /// True if the guest has posted a chain that has not been taken. It is also true for a malformed index, which is
    /// reported when the chain is taken.
    pub fn has_available(&mut self) -> bool {
        !matches!(self.available(), Ok(0))
    }

    /// Suppresses kicks. With EVENT_IDX nothing needs to be written: the last event index is in the
    /// past, so no kick comes until a new one is set.
    pub fn disable_kicks(&mut self) {
        if !self.quiet && !self.event_idx {
            #[allow(clippy::cast_possible_truncation, reason = "a flag of 16 bits")]
            self.write_used_flags(VRING_USED_F_NO_NOTIFY as u16);
        }
        self.quiet = true;
    }

    /// True while kicks are suppressed.
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// True while written pages must be logged.
    pub const fn is_logging(&self) -> bool {
        self.logging
    }

    /// Records in the dirty log that hawser, or the kernel on its behalf, has written bytes of a buffer.
    #[inline]
    pub fn mark_written(&self, host: *const u8, len: usize) {
        if self.logging {
            self.map.mark_written(host, len);
        }
    }

    #[inline]
    fn avail_field(&self, index: usize) -> &AtomicU16 {
        // SAFETY: `index` is flags (0), idx (1) or the event index behind the entries;
        // all lie in the available ring, which was translated as a whole, is aligned
        // to 2 and stays mapped as long as self.
        unsafe { AtomicU16::from_ptr(self.available.cast::<u16>().add(index).cast_mut()) }
    }

    #[inline]
    fn used_idx(&self) -> &AtomicU16 {
        // SAFETY: idx is the second field of the used ring, which was translated as a
        // whole, is aligned to 4 and stays mapped as long as self.
        unsafe { AtomicU16::from_ptr(self.used.cast::<u16>().add(1)) }
    }

    fn write_used_flags(&mut self, flags: u16) {
        // SAFETY: flags is the first field of the used ring.
        unsafe { self.used.cast::<u16>().write_volatile(flags.to_le()) };
        self.mark_used_ring(0, 2);
    }

    fn write_avail_event(&mut self, index: u16) {
        let offset = RING_HEADER_SIZE + u64::from(self.layout.size) * USED_ELEMENT_SIZE;
        // SAFETY: the event index follows the elements of the used ring, and its two bytes were translated with them.
        unsafe {
            let event = self.used.add(usize::from(self.layout.size) * 8 + 4).cast::<u16>();
            event.write_volatile(index.to_le());
        }
        self.mark_used_ring(offset, EVENT_SIZE);
    }

    #[inline]
    fn mark_used_ring(&self, offset: u64, len: u64) {
        if self.logging {
            self.map.mark_written_at(self.layout.used + offset, len);
        }
    }
}

/// True if moving an index from `old` to `new` passes the entry `event` (2.7.7.2,
/// vring_need_event).
#[inline]
const fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
