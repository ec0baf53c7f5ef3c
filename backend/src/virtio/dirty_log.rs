//! The log of pages that hawser has written, for live migration (vhost-user "Migration").
//!
//! The front end shares one bitmap for all guest memory, with a bit per 4 KiB page of guest-physical address. Each
//! memory region marks its own part ([`DirtyBitmap`]). A region without a log costs a relaxed load per write. Regions
//! of a later memory table inherit the log ([`DirtyBitmap::inherit`]). The ring decides whether pages are marked at all
//! (feature LOG_ALL).

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Address, FileOffset, GuestMemoryRegion, MmapRegion, VolatileMemory};

/// Number of bytes that one bit of the log stands for (VHOST_LOG_PAGE).
const PAGE: u64 = 4096;
/// Number of pages that one byte of the log stands for.
const PAGES_PER_BYTE: u64 = 8;

/// The log of one memory region. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct DirtyBitmap {
    shared: Arc<Shared>,
    /// Offset of the slice in its region.
    offset: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// True once there is a log. A write without a log reads only this flag.
    active: AtomicBool,
    log: RwLock<Option<RegionLog>>,
}

/// The part of the front end's log that belongs to one region.
#[derive(Clone, Debug)]
pub struct RegionLog {
    pages: Arc<SharedLog>,
    /// Guest-physical address of the region.
    start: u64,
    /// Length of the region in bytes.
    len: u64,
}

/// The bitmap for all guest memory, shared by the front end.
#[derive(Debug)]
pub struct SharedLog(MmapRegion);

impl SharedLog {
    /// Maps `len` bytes of `file`, starting at `offset`.
    ///
    /// # Errors
    /// The error of mmap(2).
    pub fn map(file: File, offset: u64, len: u64) -> Result<Self, MmapRegionError> {
        let len = usize::try_from(len).map_err(|_| MmapRegionError::InvalidOffsetLength)?;
        MmapRegion::from_file(FileOffset::new(file, offset), len).map(Self)
    }

    /// Creates a log of `len` bytes that is not shared with a front end.
    ///
    /// # Errors
    /// The error of mmap(2).
    #[cfg(any(test, feature = "testing"))]
    pub fn anonymous(len: usize) -> Result<Self, MmapRegionError> {
        MmapRegion::new(len).map(Self)
    }

    /// Length of the bitmap in bytes.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// The byte for eight pages. `None` beyond the end of the bitmap.
    pub fn byte(&self, index: usize) -> Option<&AtomicU8> {
        self.0.get_atomic_ref(index).ok()
    }
}

impl DirtyBitmap {
    /// Inherits the log of a region in an earlier memory table, unless this region already has one. `region` is the
    /// region of this bitmap. A log that is too short for the region is not inherited: the front end sends a longer one
    /// before it relies on it.
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
        if let Some(log) = log.and_then(|log| RegionLog::new(region, &log.pages)) {
            self.start(log);
        }
    }

    /// Starts marking writes in `log`.
    pub fn start(&self, log: RegionLog) {
        *self.shared.log.write().unwrap_or_else(PoisonError::into_inner) = Some(log);
        self.shared.active.store(true, Ordering::Release);
    }

    /// Marks `len` bytes of the region, starting at `offset`.
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
    /// The part of `pages` for `region`. `None` if the bitmap ends before the region does.
    pub fn new(region: &impl GuestMemoryRegion, pages: &Arc<SharedLog>) -> Option<Self> {
        let (start, len) = (region.start_addr().raw_value(), region.len());
        let needed = start.checked_add(len)?.div_ceil(PAGE * PAGES_PER_BYTE);
        (needed <= pages.size() as u64).then(|| Self {
            pages: Arc::clone(pages),
            start,
            len,
        })
    }

    /// Guest-physical page number of the byte at `offset` in the region.
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
            // Release: a front end that sees the bit and then copies the page must find the written
            // bytes.
            if let Some(pages) = self.pages.byte(byte) {
                pages.fetch_or(bit, Ordering::Release);
            }
        }
    }

    fn is_marked(&self, offset: u64) -> bool {
        if offset >= self.len {
            return false;
        }
        let (byte, bit) = byte_and_bit(self.page(offset));
        let pages = self.pages.byte(byte);
        pages.is_some_and(|pages| pages.load(Ordering::Relaxed) & bit != 0)
    }
}

fn byte_and_bit(page: u64) -> (usize, u8) {
    let byte = usize::try_from(page / PAGES_PER_BYTE).unwrap_or(usize::MAX);
    (byte, 1 << (page % PAGES_PER_BYTE))
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
    fn a_new_memory_table_continues_the_log() {
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
        // This replaces the only region, which is removed first.
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
