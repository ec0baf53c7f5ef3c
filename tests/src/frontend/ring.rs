//! The driver's side of a split ring (virtio 2.7).
//!
//! It is well behaved by default. The `set_*` methods can write every field, as a hostile guest would.

use super::Ram;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DESC_LEN: u64 = 16;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;
/// VRING_USED_F_NO_NOTIFY
const USED_NO_NOTIFY: u16 = 1;
/// VRING_AVAIL_F_NO_INTERRUPT
const AVAIL_NO_INTERRUPT: u16 = 1;

/// A range of guest memory in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Start of the range, as a guest-physical address.
    pub at: u64,
    /// Length of the range in bytes.
    pub len: u32,
    /// True if the device may write to it.
    pub writable: bool,
}

/// Addresses of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
}

impl RingLayout {
    /// Allocates a new ring of `size` descriptors in `ram`.
    pub fn allocate(ram: &Ram, size: u16) -> Self {
        let n = u64::from(size);
        Self {
            size,
            descriptors: ram.allocate(DESC_LEN * n, 4096),
            available: ram.allocate(6 + 2 * n, 4096),
            used: ram.allocate(6 + 8 * n, 4096),
        }
    }
}

/// The front end's part of a ring: its addresses and events. The driver, which may be on another thread, has the
/// [`Ring`].
#[derive(Debug)]
pub struct RingHandle {
    /// Addresses of the ring.
    pub layout: RingLayout,
    /// Eventfd that announces new chains.
    pub kick: EventFd,
    /// Eventfd that announces used chains.
    pub call: EventFd,
}

/// A ring and its driver.
pub struct Ring {
    ram: Arc<Ram>,
    layout: RingLayout,
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    event_idx: bool,
    free: VecDeque<u16>,
    /// Number of descriptors of each head that is in flight; 0 for all others.
    chain: Vec<u16>,
    next: Vec<u16>,
    avail_idx: u16,
    kicked_idx: u16,
    used_idx: u16,
    /// Eventfd that announces new chains.
    pub kick: EventFd,
    /// Eventfd that announces used chains.
    pub call: EventFd,
    /// Eventfd that reports a broken ring.
    pub error: EventFd,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("avail_idx", &self.avail_idx)
            .field("used_idx", &self.used_idx)
            .finish_non_exhaustive()
    }
}

// SAFETY: the addresses are in a mapping that `ram` keeps. They belong to no thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Creates an empty ring. `event_idx` is true if VIRTIO_RING_F_EVENT_IDX was negotiated.
    pub fn new(ram: Arc<Ram>, layout: RingLayout, event_idx: bool) -> io::Result<Self> {
        Ok(Self {
            descriptors: ram.host(layout.descriptors),
            available: ram.host(layout.available),
            used: ram.host(layout.used),
            event_idx,
            free: (0..layout.size).collect(),
            chain: vec![0; layout.size.into()],
            next: vec![0; layout.size.into()],
            avail_idx: 0,
            kicked_idx: 0,
            used_idx: 0,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            error: EventFd::new(EFD_NONBLOCK)?,
            ram,
            layout,
        })
    }

    /// Addresses of the ring.
    pub const fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The front end's view of the ring.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn handle(&self) -> io::Result<RingHandle> {
        Ok(RingHandle {
            layout: self.layout,
            kick: self.kick.try_clone()?,
            call: self.call.try_clone()?,
        })
    }

    /// Number of free descriptors.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// The available index that the driver writes next.
    pub const fn avail_idx(&self) -> u16 {
        self.avail_idx
    }

    /// Adds a chain, which becomes visible at [`publish`](Self::publish). Returns its head, or `None` if there is no
    /// room.
    pub fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return None;
        }
        let head = *self.free.front()?;
        let mut previous = None;
        for (i, buffer) in buffers.iter().enumerate() {
            let index = self.free.pop_front()?;
            let more = if i + 1 < buffers.len() { F_NEXT } else { 0 };
            let next = if more != 0 { *self.free.front()? } else { 0 };
            self.set_descriptor(index, *buffer, more, next);
            if let Some(previous) = previous {
                self.next[usize::from(previous)] = index;
            }
            previous = Some(index);
        }
        self.chain[usize::from(head)] = u16::try_from(buffers.len()).ok()?;
        self.offer(head);
        Some(head)
    }

    /// Adds a chain in an indirect table at guest-physical `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> Option<u16> {
        for (i, buffer) in buffers.iter().enumerate() {
            let more = i + 1 < buffers.len();
            let next = u16::try_from(i + 1).ok()?;
            let at = table + DESC_LEN * u64::try_from(i).ok()?;
            let bytes = descriptor(*buffer, if more { F_NEXT } else { 0 }, if more { next } else { 0 });
            self.ram.write(at, &bytes);
        }
        let head = self.free.pop_front()?;
        let len = u32::try_from(buffers.len()).ok()? * 16;
        let whole = Buffer {
            at: table,
            len,
            writable: false,
        };
        self.set_descriptor(head, whole, F_INDIRECT, 0);
        self.chain[usize::from(head)] = 1;
        self.offer(head);
        Some(head)
    }

    /// Adds any `head` to the available ring.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail_idx % self.layout.size;
        self.set_available(slot, head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    /// Makes all added chains visible. True if the device wants a kick.
    pub fn publish(&mut self) -> bool {
        self.u16_at(self.available, 2).store(self.avail_idx, Ordering::Release);
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked_idx, self.avail_idx);
        self.kicked_idx = new;
        if old == new {
            return false;
        }
        if self.event_idx {
            let at = 4 + 8 * usize::from(self.layout.size);
            let event = self.u16_at(self.used, at).load(Ordering::Acquire);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.u16_at(self.used, 0).load(Ordering::Acquire) & USED_NO_NOTIFY == 0
        }
    }

    /// Calls [`publish`](Self::publish), and kicks the device if it wants that.
    pub fn publish_and_kick(&mut self) -> io::Result<()> {
        if self.publish() { self.kick.write(1) } else { Ok(()) }
    }

    /// Takes the next used chain: its head, and the number of bytes written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.device_idx() == self.used_idx {
            return None;
        }
        let at = 4 + 8 * usize::from(self.used_idx % self.layout.size);
        // SAFETY: the address is inside the used ring of `size` entries. Elements are aligned to 4 bytes.
        let (id, len) = unsafe {
            let element = self.used.add(at).cast::<u32>();
            (element.read_volatile(), element.add(1).read_volatile())
        };
        self.used_idx = self.used_idx.wrapping_add(1);
        let head = u16::try_from(id).ok().filter(|&head| head < self.layout.size)?;
        self.release(head);
        Some((head, len))
    }

    fn release(&mut self, head: u16) {
        let mut index = head;
        for _ in 0..std::mem::take(&mut self.chain[usize::from(head)]) {
            self.free.push_back(index);
            index = self.next[usize::from(index)];
        }
    }

    /// The device's used index.
    pub fn device_idx(&self) -> u16 {
        self.u16_at(self.used, 2).load(Ordering::Acquire)
    }

    /// Enables or disables an interrupt for the next used chain.
    pub fn want_call(&mut self, wanted: bool) {
        if self.event_idx {
            let behind = if wanted { 0 } else { self.layout.size / 2 };
            let at = 4 + 2 * usize::from(self.layout.size);
            let event = self.used_idx.wrapping_sub(behind);
            self.u16_at(self.available, at).store(event, Ordering::Release);
        } else {
            let flags = if wanted { 0 } else { AVAIL_NO_INTERRUPT };
            self.u16_at(self.available, 0).store(flags, Ordering::Release);
        }
        fence(Ordering::SeqCst);
    }

    /// Waits for an interrupt for used chains, as a driver does. False after `timeout`.
    pub fn wait_used(&mut self, timeout: Duration) -> bool {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            self.want_call(true);
            if self.device_idx() != self.used_idx {
                return true;
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || !wait_event(&self.call, left) {
                return self.device_idx() != self.used_idx;
            }
        }
    }

    /// Waits for `count` used chains with a single interrupt (EVENT_IDX). False after `timeout`.
    pub fn wait_used_by(&mut self, count: u16, timeout: Duration) -> bool {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let at = 4 + 2 * usize::from(self.layout.size);
            let event = self.used_idx.wrapping_add(count.saturating_sub(1));
            self.u16_at(self.available, at).store(event, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.device_idx().wrapping_sub(self.used_idx) >= count {
                return true;
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || !wait_event(&self.call, left) {
                return self.device_idx().wrapping_sub(self.used_idx) >= count;
            }
        }
    }

    /// Waits for the device to report a broken ring. False after `timeout`.
    pub fn wait_error(&self, timeout: Duration) -> bool {
        wait_event(&self.error, timeout)
    }

    /// Continues with a ring whose front end was replaced. Chains in flight stay.
    pub fn reconnected(&mut self) {
        self.kicked_idx = self.avail_idx.wrapping_sub(1);
    }

    /// Writes a descriptor.
    pub fn set_descriptor(&self, index: u16, buffer: Buffer, flags: u16, next: u16) {
        let bytes = descriptor(buffer, flags, next);
        // SAFETY: the table has `size` descriptors, and `index` is below that in every use. The assertion stops a
        // hostile test that names another descriptor.
        unsafe {
            assert!(index < self.layout.size, "descriptor outside the table");
            let place = self.descriptors.add(16 * usize::from(index));
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }

    /// Writes one entry of the available ring.
    pub fn set_available(&self, slot: u16, head: u16) {
        let at = 4 + 2 * usize::from(slot % self.layout.size);
        self.u16_at(self.available, at).store(head, Ordering::Release);
    }

    /// Writes the available index.
    pub fn set_avail_idx(&self, idx: u16) {
        self.u16_at(self.available, 2).store(idx, Ordering::Release);
    }

    /// Writes the used index, which belongs to the device.
    pub fn set_used_idx(&self, idx: u16) {
        self.u16_at(self.used, 2).store(idx, Ordering::Release);
    }

    fn u16_at(&self, base: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: every caller stays inside its ring, whose parts are page-aligned and mapped as long as `ram`. Offsets
        // are even.
        unsafe { AtomicU16::from_ptr(base.add(offset).cast()) }
    }
}

fn descriptor(buffer: Buffer, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    let write = if buffer.writable { F_WRITE } else { 0 };
    bytes[..8].copy_from_slice(&buffer.at.to_le_bytes());
    bytes[8..12].copy_from_slice(&buffer.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&(flags | write).to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

fn wait_event(event: &EventFd, timeout: Duration) -> bool {
    let mut fd = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: one pollfd, alive for the call.
    let ready = unsafe { libc::poll(&raw mut fd, 1, millis) };
    ready > 0 && event.read().is_ok()
}
