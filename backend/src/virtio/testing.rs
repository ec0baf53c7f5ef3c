//! A driver without a guest, for tests of the device side. Its rings are in ordinary memory.

use super::dirty_log::{DirtyBitmap, RegionLog, SharedLog};
use super::memory::GuestMap;
use super::ring::RingLayout;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// VRING_DESC_F_NEXT
pub const NEXT: u16 = 1;
/// VRING_DESC_F_WRITE
pub const WRITE: u16 = 2;
/// VRING_DESC_F_INDIRECT
pub const INDIRECT: u16 = 4;

/// The memory of a fake guest, with an allocator.
pub struct TestMemory {
    /// Memory shared by guest and device.
    pub memory: Arc<GuestMemoryMmap<DirtyBitmap>>,
    /// The device's snapshot of the memory.
    pub map: Arc<GuestMap>,
    next: u64,
}

debug_fields!(TestMemory { next });

#[cfg(not(miri))]
fn mapped(regions: &[(u64, usize)]) -> GuestMemoryMmap<DirtyBitmap> {
    let ranges: Vec<_> = regions.iter().map(|&(at, len)| (GuestAddress(at), len)).collect();
    GuestMemoryMmap::from_ranges(&ranges).expect("memory for a test")
}

/// Miri has no mmap(2), and the memory that vm-memory allocates there is not aligned as a ring needs it.
#[cfg(miri)]
fn mapped(regions: &[(u64, usize)]) -> GuestMemoryMmap<DirtyBitmap> {
    use vm_memory::GuestRegionMmap;
    use vm_memory::bitmap::NewBitmap as _;
    use vm_memory::mmap::MmapRegionBuilder;

    #[derive(Clone)]
    #[repr(align(4096))]
    struct Page {
        _bytes: [u8; 4096],
    }

    let region = |&(at, len): &(u64, usize)| {
        // The pages are never freed, because a snapshot may live longer than this memory.
        let pages = vec![Page { _bytes: [0; 4096] }; len.div_ceil(4096)].leak();
        let builder = MmapRegionBuilder::new_with_bitmap(len, DirtyBitmap::with_len(len));
        // SAFETY: the pages have at least `len` bytes, and they are never freed.
        let builder = unsafe { builder.with_raw_mmap_pointer(pages.as_mut_ptr().cast()) };
        let builder = builder.with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
        GuestRegionMmap::new(builder.build().expect("a region"), GuestAddress(at)).expect("a region")
    };
    GuestMemoryMmap::from_regions(regions.iter().map(region).collect()).expect("memory for a test")
}

impl TestMemory {
    /// Creates one region of `len` bytes at address 0.
    pub fn new(len: usize) -> Self {
        Self::with_regions(&[(0, len)])
    }

    /// Creates regions, each given by address and length.
    pub fn with_regions(regions: &[(u64, usize)]) -> Self {
        let memory = Arc::new(mapped(regions));
        Self {
            map: Arc::new(GuestMap::new(Arc::clone(&memory), None)),
            memory,
            next: regions[0].0 + 0x1000,
        }
    }

    /// Allocates `len` bytes.
    pub fn take(&mut self, len: u64, align: u64) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + len;
        at
    }

    /// Returns a copy of guest memory.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("mapped");
        bytes
    }

    /// Writes guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("mapped");
    }

    fn write_u16(&self, address: u64, value: u16) {
        self.write(address, &value.to_le_bytes());
    }

    fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().expect("two bytes"))
    }
}

/// A dirty log like the one that a front end shares.
pub struct DirtyLog(Arc<SharedLog>);

debug_fields!(DirtyLog {});

impl DirtyLog {
    /// Starts logging writes to `memory`.
    pub fn attach(memory: &TestMemory) -> Self {
        let end = memory.memory.last_addr().raw_value() + 1;
        let len = usize::try_from(end.div_ceil(0x1000 * 8)).expect("a small memory");
        let pages = Arc::new(SharedLog::anonymous(len).expect("memory for a test"));
        for region in memory.memory.iter() {
            let log = RegionLog::new(region, &pages).expect("long enough");
            GuestMemoryRegion::bitmap(region).start(log);
        }
        Self(pages)
    }

    /// Page numbers marked since the last call.
    pub fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for (at, byte) in (0u64..).zip((0..self.0.size()).filter_map(|at| self.0.byte(at))) {
            let bits = byte.swap(0, Ordering::Relaxed);
            pages.extend((0..8).filter(|bit| bits & (1 << bit) != 0).map(|bit| at * 8 + bit));
        }
        pages
    }
}

/// A buffer that a driver posts as part of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// True if the device may write to it.
    pub writable: bool,
}

/// The driver's side of one ring.
pub struct DriverRing {
    /// Addresses of the ring, and its first position.
    pub layout: RingLayout,
    next_descriptor: u16,
    avail_idx: u16,
    used_seen: u16,
}

debug_fields!(DriverRing { avail_idx, used_seen });

impl DriverRing {
    /// Allocates a ring in `memory`.
    pub fn new(memory: &mut TestMemory, size: u16) -> Self {
        let n = u64::from(size);
        let layout = RingLayout {
            size,
            descriptors: memory.take(16 * n, 16),
            available: memory.take(6 + 2 * n, 2),
            used: memory.take(6 + 8 * n, 4),
            next_avail: 0,
        };
        Self {
            layout,
            next_descriptor: 0,
            avail_idx: 0,
            used_seen: 0,
        }
    }

    /// Starts both indices at `index`, as if the ring had run for a long time.
    pub fn start_at(&mut self, memory: &TestMemory, index: u16) {
        self.layout.next_avail = index;
        (self.avail_idx, self.used_seen) = (index, index);
        memory.write_u16(self.layout.available + 2, index);
        memory.write_u16(self.layout.used + 2, index);
    }

    /// Writes one descriptor of a table.
    pub fn write_descriptor(memory: &TestMemory, table: u64, index: u16, buffer: Buffer, flags: u16, next: u16) {
        let flags = flags | if buffer.writable { WRITE } else { 0 };
        let mut bytes = Vec::with_capacity(16);
        bytes.extend(buffer.address.to_le_bytes());
        bytes.extend(buffer.len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        memory.write(table + 16 * u64::from(index), &bytes);
    }

    /// Posts a chain of `buffers`, and returns its head.
    pub fn post(&mut self, memory: &TestMemory, buffers: &[Buffer]) -> u16 {
        let mask = self.layout.size - 1;
        let head = self.next_descriptor & mask;
        for (i, buffer) in buffers.iter().enumerate() {
            let at = self.next_descriptor & mask;
            let next = self.next_descriptor.wrapping_add(1) & mask;
            let flags = if i + 1 < buffers.len() { NEXT } else { 0 };
            Self::write_descriptor(memory, self.layout.descriptors, at, *buffer, flags, next);
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
        }
        self.post_head(memory, head);
        head
    }

    /// Posts a chain whose buffers are in an indirect table, and returns its head.
    pub fn post_indirect(&mut self, memory: &mut TestMemory, buffers: &[Buffer]) -> u16 {
        let table = memory.take(16 * buffers.len() as u64, 16);
        self.post_table(memory, table, buffers)
    }

    /// Posts the indirect table at address `table`.
    pub fn post_table(&mut self, memory: &TestMemory, table: u64, buffers: &[Buffer]) -> u16 {
        for (index, buffer) in (0u16..).zip(buffers) {
            let is_last = usize::from(index) + 1 == buffers.len();
            let flags = if is_last { 0 } else { NEXT };
            Self::write_descriptor(memory, table, index, *buffer, flags, index + 1);
        }
        let head = self.next_descriptor & (self.layout.size - 1);
        let whole = Buffer {
            address: table,
            len: u32::try_from(16 * buffers.len()).expect("a short table"),
            writable: false,
        };
        Self::write_descriptor(memory, self.layout.descriptors, head, whole, INDIRECT, 0);
        self.next_descriptor = self.next_descriptor.wrapping_add(1);
        self.post_head(memory, head);
        head
    }

    /// Adds `head` to the available ring and advances the index.
    pub fn post_head(&mut self, memory: &TestMemory, head: u16) {
        let slot = u64::from(self.avail_idx & (self.layout.size - 1));
        memory.write_u16(self.layout.available + 4 + 2 * slot, head);
        self.set_avail_idx(memory, self.avail_idx.wrapping_add(1));
    }

    /// Sets the available index, regardless of whether the entries exist.
    pub fn set_avail_idx(&mut self, memory: &TestMemory, index: u16) {
        self.avail_idx = index;
        memory.write_u16(self.layout.available + 2, index);
    }

    /// Sets the flags of the available ring (VRING_AVAIL_F_NO_INTERRUPT).
    pub fn set_avail_flags(&self, memory: &TestMemory, flags: u16) {
        memory.write_u16(self.layout.available, flags);
    }

    /// Requests an interrupt for used entry `index` (EVENT_IDX).
    pub fn set_used_event(&self, memory: &TestMemory, index: u16) {
        memory.write_u16(self.layout.available + 4 + 2 * u64::from(self.layout.size), index);
    }

    /// The available entry for which the device wants a kick (EVENT_IDX).
    pub fn avail_event(&self, memory: &TestMemory) -> u16 {
        memory.read_u16(self.layout.used + 4 + 8 * u64::from(self.layout.size))
    }

    /// The flags of the used ring (VRING_USED_F_NO_NOTIFY).
    pub fn used_flags(&self, memory: &TestMemory) -> u16 {
        memory.read_u16(self.layout.used)
    }

    /// The used index of the ring.
    pub fn used_idx(&self, memory: &TestMemory) -> u16 {
        memory.read_u16(self.layout.used + 2)
    }

    /// Used elements published since the last call: (head, bytes written).
    pub fn take_used(&mut self, memory: &TestMemory) -> Vec<(u16, u32)> {
        let end = self.used_idx(memory);
        let mut elements = Vec::new();
        while self.used_seen != end {
            let slot = u64::from(self.used_seen & (self.layout.size - 1));
            let bytes = memory.read(self.layout.used + 4 + 8 * slot, 8);
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            elements.push((u16::try_from(word(0)).expect("a head"), word(4)));
            self.used_seen = self.used_seen.wrapping_add(1);
        }
        elements
    }
}
