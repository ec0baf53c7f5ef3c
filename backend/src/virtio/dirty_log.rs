//! The log of pages we wrote, for live migration (vhost-user "Migration").
//!
//! The front end shares one bitmap for all guest memory, a bit per 4 KiB page of
//! guest-physical address. `vhost-user-backend` hands it to each memory region
//! ([`BitmapReplace`]); a region without a log costs a relaxed load per write. Regions
//! made by a later memory table take the log over from the ones before
//! ([`DirtyBitmap::inherit`]), which the crate alone would forget. Whether pages are
//! to be marked at all (the feature LOG_ALL) is the ring's business.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use vhost_user_backend::bitmap::{AtomicBitmapMmap, BitmapReplace, MemRegionBitmap, MmapLogReg};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{Address, GuestMemoryRegion};

/// Bytes one bit of the log stands for (VHOST_LOG_PAGE).
const PAGE: u64 = 4096;
/// Pages one byte of the log stands for.
const PAGES_PER_BYTE: u64 = 8;

/// The log of one memory region; clones share it.
#[derive(Clone, Debug, Default)]
pub struct DirtyBitmap {
    shared: Arc<Shared>,
    /// Where this slice starts in its region.
    offset: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// True once there is a log: what a write without one looks at.
    active: AtomicBool,
    log: RwLock<Option<RegionLog>>,
}

/// The part of the front end's log that belongs to one region.
#[derive(Clone, Debug)]
pub struct RegionLog {
    bytes: LogBytes,
    /// Guest-physical address of the region.
    start: u64,
    /// Length of the region in bytes.
    len: u64,
}

/// The bitmap of all guest memory.
#[derive(Clone, Debug)]
enum LogBytes {
    /// The front end's.
    Shared(Arc<MmapLogReg>),
    /// A test's: the crate lets nobody else map a log.
    #[cfg(any(test, feature = "testing"))]
    Own(Arc<[AtomicU8]>),
}

impl LogBytes {
    /// Says whether the bitmap covers `region`.
    fn check<R: GuestMemoryRegion>(&self, region: &R) -> io::Result<()> {
        match self {
            // The crate keeps the length to itself, but its own bitmap checks it.
            Self::Shared(bytes) => AtomicBitmapMmap::new(region, Arc::clone(bytes)).map(drop),
            #[cfg(any(test, feature = "testing"))]
            Self::Own(bytes) => {
                let end = region.start_addr().raw_value() + region.len();
                let needed = end.div_ceil(PAGE * PAGES_PER_BYTE);
                let enough = needed <= bytes.len() as u64;
                enough.then_some(()).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }

    fn at(&self, index: usize) -> &AtomicU8 {
        match self {
            Self::Shared(bytes) => &bytes[index],
            #[cfg(any(test, feature = "testing"))]
            Self::Own(bytes) => &bytes[index],
        }
    }
}

impl DirtyBitmap {
    /// Takes over the log of a region of an earlier memory table, unless this region
    /// has one; `region` is the region this bitmap belongs to. A log too short for
    /// the region is left: the front end sends a longer one before it relies on it.
    pub fn inherit(&self, earlier: &Self, region: &impl GuestMemoryRegion) {
        if self.shared.active.load(Ordering::Relaxed) {
            return;
        }
        let log = earlier
            .shared
            .log
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(log) = log.and_then(|log| RegionLog::of_region(region, log.bytes).ok()) {
            self.replace(log);
        }
    }

    /// Marks `len` bytes from `offset` of the region on.
    pub fn mark(&self, offset: u64, len: u64) {
        self.with_log(|log| log.mark(self.offset.saturating_add(offset), len));
    }

    /// True if writes are logged.
    pub fn is_active(&self) -> bool {
        self.shared.active.load(Ordering::Relaxed)
    }

    fn with_log<R>(&self, f: impl FnOnce(&RegionLog) -> R) -> Option<R> {
        if !self.is_active() {
            return None;
        }
        let log = self.shared.log.read().unwrap_or_else(PoisonError::into_inner);
        log.as_ref().map(f)
    }
}

impl RegionLog {
    fn of_region<R: GuestMemoryRegion>(region: &R, bytes: LogBytes) -> io::Result<Self> {
        bytes.check(region)?;
        Ok(Self {
            bytes,
            start: region.start_addr().raw_value(),
            len: region.len(),
        })
    }

    /// The log of `region` in a test's own bitmap.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_own_bytes<R: GuestMemoryRegion>(region: &R, bytes: Arc<[AtomicU8]>) -> io::Result<Self> {
        Self::of_region(region, LogBytes::Own(bytes))
    }

    /// Page number, in guest-physical memory, of the byte at `offset` of the region.
    const fn page(&self, offset: u64) -> u64 {
        (self.start + offset) / PAGE
    }

    fn mark(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        for page in self.page(offset)..=self.page(end - 1) {
            let (byte, bit) = byte_and_bit(page);
            // Release: the front end that sees the bit and then copies the page must
            // find what was written before.
            self.bytes.at(byte).fetch_or(bit, Ordering::Release);
        }
    }

    fn is_marked(&self, offset: u64) -> bool {
        if offset >= self.len {
            return false;
        }
        let (byte, bit) = byte_and_bit(self.page(offset));
        self.bytes.at(byte).load(Ordering::Relaxed) & bit != 0
    }
}

fn byte_and_bit(page: u64) -> (usize, u8) {
    let byte = usize::try_from(page / PAGES_PER_BYTE).unwrap_or(usize::MAX);
    (byte, 1 << (page % PAGES_PER_BYTE))
}

impl MemRegionBitmap for RegionLog {
    fn new<R: GuestMemoryRegion>(region: &R, logmem: Arc<MmapLogReg>) -> io::Result<Self> {
        Self::of_region(region, LogBytes::Shared(logmem))
    }
}

impl Bitmap for DirtyBitmap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.mark(offset as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let at = self.offset.saturating_add(offset as u64);
        self.with_log(|log| log.is_marked(at)).unwrap_or(false)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            offset: self.offset.saturating_add(offset as u64),
        }
    }
}

impl BitmapReplace for DirtyBitmap {
    type InnerBitmap = RegionLog;

    fn replace(&self, bitmap: RegionLog) {
        *self.shared.log.write().unwrap_or_else(PoisonError::into_inner) = Some(bitmap);
        self.shared.active.store(true, Ordering::Release);
    }
}

impl BitmapSlice for DirtyBitmap {}

impl WithBitmapSlice<'_> for DirtyBitmap {
    type S = Self;
}

impl NewBitmap for DirtyBitmap {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::virtio::memory::GuestMap;
    use crate::virtio::testing::{DirtyLog, TestMemory};
    use std::sync::Arc;
    use vm_memory::GuestMemoryMmap;

    #[test]
    fn without_a_log_nothing_is_marked() {
        let memory = TestMemory::new(0x10_000);
        memory.map.mark_written_at(0, 0x10_000);
        assert_eq!(DirtyLog::attach(&memory).take(), [0u64; 0]);
    }

    #[test]
    fn pages_are_marked_by_their_place_in_guest_memory() {
        let memory = TestMemory::with_regions(&[(0, 0x10_000), (0x4000_0000, 0x10_000)]);
        let log = DirtyLog::attach(&memory);
        memory.map.mark_written_at(0x1fff, 1);
        memory.map.mark_written_at(0x2fff, 2);
        memory.map.mark_written_at(0x4000_8000, 0x1001);
        assert_eq!(log.take(), [1, 2, 3, 0x4_0008, 0x4_0009]);
        let host = memory.map.range(0x4000_3000, 1).unwrap();
        memory.map.mark_written(host, 1);
        assert_eq!(log.take(), [0x4_0003]);
        memory.map.mark_written_at(0x4000_f000, u64::MAX);
        assert_eq!(log.take(), [0x4_000f], "no further than the region");
    }

    #[test]
    fn a_new_memory_table_goes_on_with_the_log() {
        let before = TestMemory::with_regions(&[(0, 0x10_000), (0x10_0000, 0x10_000)]);
        let log = DirtyLog::attach(&before);
        let after = TestMemory::with_regions(&[(0, 0x20_000)]);
        let map = GuestMap::new(Arc::clone(&after.memory), Some(&before.map));
        map.mark_written_at(0x18_000, 1);
        assert_eq!(log.take(), [0x18]);
    }

    #[test]
    fn the_log_outlives_a_moment_without_memory() {
        let before = TestMemory::new(0x10_000);
        let log = DirtyLog::attach(&before);
        // The only region is replaced: it is removed first.
        let without = GuestMap::new(Arc::new(GuestMemoryMmap::new()), Some(&before.map));
        let after = TestMemory::new(0x10_000);
        let map = GuestMap::new(Arc::clone(&after.memory), Some(&without));
        map.mark_written_at(0x5000, 1);
        assert_eq!(log.take(), [5]);
    }

    #[test]
    fn a_region_beyond_the_log_is_not_logged() {
        let before = TestMemory::new(0x10_000);
        let log = DirtyLog::attach(&before);
        let after = TestMemory::with_regions(&[(0, 0x10_000), (0x10_0000, 0x10_000)]);
        let map = GuestMap::new(Arc::clone(&after.memory), Some(&before.map));
        map.mark_written_at(0x10_0000, 0x1000);
        map.mark_written_at(0x5000, 1);
        assert_eq!(log.take(), [5]);
    }
}
