//! A snapshot of guest memory: the mapping of guest-physical addresses.
//!
//! A ring caches the region of its last translation, so most translations need only one comparison. The snapshot keeps
//! the mapping alive ([`Arc`]). A new memory table creates a new snapshot, and the worker reports when it has released
//! the old one.

use super::DirtyBitmap;
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// An immutable memory table of the guest.
#[derive(Debug)]
pub struct GuestMap {
    /// Regions of the table, sorted by guest-physical address. They never overlap.
    regions: Vec<Region>,
    /// Log of an earlier table, kept for a later table to inherit, because this table may have no region.
    earlier_log: Option<DirtyBitmap>,
    memory: Arc<GuestMemoryMmap<DirtyBitmap>>,
}

#[derive(Debug)]
struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
    log: DirtyBitmap,
}

// SAFETY: the pointers are addresses in a shared mapping that `memory` keeps alive. Nothing in it belongs to a thread.
unsafe impl Send for GuestMap {}
// SAFETY: as above; all access through them is by raw pointer or atomic.
unsafe impl Sync for GuestMap {}

/// The region of one map in which the last address was found. It is empty at first.
#[derive(Clone, Copy, Debug)]
pub struct RegionCache {
    start: u64,
    len: u64,
    host: *mut u8,
}

impl Default for RegionCache {
    fn default() -> Self {
        Self {
            start: 0,
            len: 0,
            host: std::ptr::null_mut(),
        }
    }
}

impl RegionCache {
    /// Does the same as [`GuestMap::find`], but in this region only.
    #[inline]
    fn at(&self, address: u64) -> Option<(*mut u8, u64)> {
        let offset = address.wrapping_sub(self.start);
        if offset >= self.len {
            return None;
        }
        // The region is mapped, so its length fits this machine's address space.
        #[allow(clippy::cast_possible_truncation, reason = "below the length of a mapping")]
        let host = self.host.wrapping_add(offset as usize);
        Some((host, self.len - offset))
    }
}

impl GuestMap {
    /// Creates a snapshot of `memory`. If writes to the `earlier` snapshot are logged, the log continues for the new
    /// regions.
    pub fn new(memory: Arc<GuestMemoryMmap<DirtyBitmap>>, earlier: Option<&Self>) -> Self {
        let earlier_log = earlier.and_then(Self::active_log).cloned();
        let mut regions: Vec<Region> = memory
            .iter()
            .map(|region| {
                let log = GuestMemoryRegion::bitmap(region);
                if let Some(earlier) = &earlier_log {
                    log.inherit(earlier, region);
                }
                Region {
                    start: region.start_addr().raw_value(),
                    len: region.len(),
                    host: region.as_ptr(),
                    log,
                }
            })
            .collect();
        regions.sort_by_key(|r| r.start);
        Self {
            regions,
            earlier_log,
            memory,
        }
    }

    /// A log that later tables can inherit, if there is one.
    fn active_log(&self) -> Option<&DirtyBitmap> {
        let own = self.regions.iter().map(|r| &r.log).find(|log| log.is_active());
        own.or(self.earlier_log.as_ref())
    }

    /// The memory on which the snapshot is based.
    pub const fn memory(&self) -> &Arc<GuestMemoryMmap<DirtyBitmap>> {
        &self.memory
    }

    /// Host address of the guest-physical `address`, and the number of bytes from there to the end of its region (at
    /// least one). `None` if the address is not mapped. `cache` must belong to this map.
    #[inline]
    pub fn find(&self, cache: &mut RegionCache, address: u64) -> Option<(*mut u8, u64)> {
        cache.at(address).or_else(|| self.find_elsewhere(cache, address))
    }

    #[cold]
    fn find_elsewhere(&self, cache: &mut RegionCache, address: u64) -> Option<(*mut u8, u64)> {
        // This is the last region that starts at or before the address.
        let index = self.regions.partition_point(|r| r.start <= address).checked_sub(1)?;
        let region = &self.regions[index];
        let found = RegionCache {
            start: region.start,
            len: region.len,
            host: region.host,
        };
        let at = found.at(address)?;
        *cache = found;
        Some(at)
    }

    /// Host address of `len` bytes, if they lie in one region.
    pub fn range(&self, address: u64, len: u64) -> Option<*mut u8> {
        let (host, room) = self.find(&mut RegionCache::default(), address)?;
        (len <= room).then_some(host)
    }

    /// Marks written bytes in the dirty log, by guest-physical address. They must lie in one region.
    pub fn mark_written_at(&self, address: u64, len: u64) {
        let index = self.regions.partition_point(|r| r.start <= address);
        if let Some(region) = index.checked_sub(1).map(|i| &self.regions[i]) {
            region.log.mark(address - region.start, len);
        }
    }

    /// Marks written bytes in the dirty log, by host address.
    pub fn mark_written(&self, host: *const u8, len: usize) {
        let host = host.addr();
        let region = self.regions.iter().find(|r| {
            let start = r.host.addr();
            host >= start && ((host - start) as u64) < r.len
        });
        if let Some(region) = region {
            region.log.mark((host - region.host.addr()) as u64, len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::TestMemory;

    #[test]
    fn addresses_are_found_in_their_region_and_nowhere_else() {
        let memory = TestMemory::with_regions(&[(0x1000, 0x2000), (0x3000, 0x1000), (0x1_0000_0000, 0x1000)]);
        let map = &memory.map;
        let mut cache = RegionCache::default();
        let mut room = |address| map.find(&mut cache, address).map(|(_, room)| room);
        assert_eq!(room(0x0fff), None);
        assert_eq!(room(0x1000), Some(0x2000));
        assert_eq!(room(0x2fff), Some(1));
        assert_eq!(room(0x3000), Some(0x1000));
        assert_eq!(room(0x1001), Some(0x1fff), "back again");
        assert_eq!(room(0x4000), None);
        assert_eq!(room(0x1_0000_0fff), Some(1));
        assert_eq!(room(0x1_0000_1000), None);
        assert_eq!(room(u64::MAX), None);
    }

    #[test]
    fn a_range_lies_in_one_region() {
        let memory = TestMemory::with_regions(&[(0x1000, 0x2000), (0x3000, 0x1000)]);
        assert!(memory.map.range(0x1000, 0x2000).is_some());
        assert!(memory.map.range(0x1000, 0x2001).is_none());
        assert!(memory.map.range(0x3fff, u64::MAX).is_none());
    }

    #[test]
    fn an_empty_table_maps_nothing() {
        let map = GuestMap::new(Arc::new(GuestMemoryMmap::new()), None);
        assert_eq!(map.find(&mut RegionCache::default(), 0), None);
        map.mark_written_at(0, 1);
    }

    #[test]
    fn bytes_written_by_host_address_are_the_guests() {
        let memory = TestMemory::with_regions(&[(0x1000, 0x1000), (0x8000, 0x1000)]);
        let host = memory.map.range(0x8010, 4).unwrap();
        // SAFETY: four bytes were translated, and the test holds the memory.
        unsafe { host.copy_from(b"seen".as_ptr(), 4) };
        assert_eq!(memory.read(0x8010, 4), b"seen");
    }
}
