//! Guest memory: regions of a memfd, mapped as in a VMM.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Mutex;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

/// A region of guest memory, as the front end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Start of the region, as a guest-physical address.
    pub guest: u64,
    /// Length of the region in bytes.
    pub len: u64,
    /// Address of the region in this process, which vhost-user uses for rings.
    pub host: u64,
    /// Offset of the region in the memfd.
    pub offset: u64,
}

/// All memory of a guest.
pub struct Ram {
    file: File,
    regions: Vec<Region>,
    memory: GuestMemoryMmap,
    /// Next free guest-physical address of the first region.
    free: Mutex<u64>,
}

impl std::fmt::Debug for Ram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ram").finish_non_exhaustive()
    }
}

impl Ram {
    /// Creates memory at these guest-physical ranges (address, length in bytes; multiples of 4096). The allocator uses
    /// the first range.
    pub fn new(ranges: &[(u64, u64)]) -> io::Result<Self> {
        // SAFETY: the name is a C string; nothing else is passed.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just created this descriptor for us.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(ranges.iter().map(|(_, len)| len).sum())?;
        let mut offset = 0;
        let mut mapped = Vec::new();
        for &(guest, len) in ranges {
            let place = FileOffset::new(file.try_clone()?, offset);
            let size = usize::try_from(len).map_err(io::Error::other)?;
            let region = MmapRegion::from_file(place, size).map_err(io::Error::other)?;
            mapped.extend(GuestRegionMmap::new(region, GuestAddress(guest)));
            offset += len;
        }
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(io::Error::other)?;
        let regions = memory
            .iter()
            .map(|r| Region {
                guest: r.start_addr().0,
                len: r.len(),
                host: r.as_ptr() as u64,
                offset: r.file_offset().map_or(0, FileOffset::start),
            })
            .collect();
        Ok(Self {
            file,
            regions,
            memory,
            free: Mutex::new(ranges.first().map_or(0, |(guest, _)| *guest)),
        })
    }

    /// The memfd.
    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// The regions, ordered by guest-physical address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Allocates `len` zeroed bytes in the first region, and returns their guest-physical address.
    ///
    /// # Panics
    /// If the region is full.
    pub fn allocate(&self, len: u64, align: u64) -> u64 {
        let mut free = self.free.lock().expect("no test thread panicked here");
        let at = free.next_multiple_of(align);
        *free = at + len;
        let region = self.regions[0];
        assert!(*free <= region.guest + region.len, "guest memory is used up");
        at
    }

    /// Converts the guest-physical address `at` to an address in this process.
    ///
    /// # Panics
    /// If it is not mapped.
    pub fn host(&self, at: u64) -> *mut u8 {
        let host = self.memory.get_host_address(GuestAddress(at));
        host.unwrap_or_else(|_| panic!("guest address {at:#x} is not mapped"))
    }

    /// Converts the guest-physical address `at` to a vhost-user address, which is the address in this process. For
    /// addresses outside memory, the result is outside all regions.
    pub fn user_address(&self, at: u64) -> u64 {
        let region = self.regions.iter().find(|r| at >= r.guest && at - r.guest < r.len);
        region.map_or(at, |r| r.host + (at - r.guest))
    }

    /// Writes bytes. They may cross from one region into the next.
    ///
    /// # Panics
    /// If they are not all mapped.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("mapped guest memory");
    }

    /// Reads bytes.
    ///
    /// # Panics
    /// If they are not all mapped.
    pub fn read(&self, at: u64, bytes: &mut [u8]) {
        self.memory
            .read_slice(bytes, GuestAddress(at))
            .expect("mapped guest memory");
    }
}
