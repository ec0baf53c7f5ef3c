//! Guest memory as the front end shares it: regions of files, each with its address in the guest and its address in the
//! front end.
//!
//! Ring addresses arrive as front-end addresses and are translated here. The rings and the device share [`Memory`]. A
//! change replaces its whole content.

use super::session::Refused;
use crate::sys::userfault::Userfault;
use crate::virtio::DirtyBitmap;
use crate::virtio::dirty_log::{RegionLog, SharedLog};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use vhost::vhost_user::message::{VhostUserLog, VhostUserMemoryRegion};
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

/// Major number of /dev/zero and its like.
const MEMORY_DEVICES: u32 = 1;

/// Guest memory and the log of the pages written to it.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap<DirtyBitmap>>;

/// The memory table of one front end.
#[derive(Debug)]
pub struct MemoryTable {
    memory: Memory,
    mappings: Vec<Mapping>,
}

/// Addresses of one region.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    front_end: u64,
    guest: u64,
    len: u64,
}

impl Default for MemoryTable {
    /// A table without regions.
    fn default() -> Self {
        Self {
            memory: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
            mappings: Vec::new(),
        }
    }
}

impl MemoryTable {
    /// A handle to the memory, which always yields the current regions.
    pub fn shared(&self) -> Memory {
        self.memory.clone()
    }

    /// SET_MEM_TABLE: replaces all regions with `regions`.
    ///
    /// # Errors
    /// [`Refused`]; the table is unchanged.
    pub fn replace(&mut self, regions: Vec<(VhostUserMemoryRegion, File)>) -> Result<(), Refused> {
        let mappings = regions.iter().map(|(region, _)| Mapping::of(region)).collect();
        let regions = regions.into_iter().map(|(region, file)| map(&region, file));
        let memory = GuestMemoryMmap::from_regions(regions.collect::<Result<_, _>>()?);
        self.set(memory.map_err(unusable)?);
        self.mappings = mappings;
        Ok(())
    }

    /// ADD_MEM_REG
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn add(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<(), Refused> {
        let mapped = Arc::new(map(region, file)?);
        let memory = self.memory.memory().insert_region(mapped);
        self.set(memory.map_err(unusable)?);
        self.mappings.push(Mapping::of(region));
        Ok(())
    }

    /// REM_MEM_REG
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), Refused> {
        let guest = region.guest_phys_addr;
        let rest = self
            .memory
            .memory()
            .remove_region(GuestAddress(guest), region.memory_size);
        let (memory, _removed) = rest.map_err(unusable)?;
        self.set(memory);
        self.mappings.retain(|mapping| mapping.guest != guest);
        Ok(())
    }

    /// SET_LOG_BASE: pages written from now on are marked in this log.
    ///
    /// # Errors
    /// [`Refused`]: the log does not lie within its file, or does not cover the memory.
    pub fn set_log(&self, log: VhostUserLog, file: File) -> Result<(), Refused> {
        let (size, offset) = (log.mmap_size, log.mmap_offset);
        if let Some(file) = ends_beyond(&file, size, offset) {
            return Err(Refused::ShortLog { size, offset, file });
        }
        let log = SharedLog::map(file, offset, size).map_err(|e| Refused::Log(e.to_string()))?;
        let log = Arc::new(log);
        let memory = self.memory.memory();
        let logs: Vec<_> = memory.iter().map(|region| RegionLog::new(region, &log)).collect();
        let logs: Option<Vec<_>> = logs.into_iter().collect();
        let logs = logs.ok_or(Refused::LogTooShort { size })?;
        for (region, log) in memory.iter().zip(logs) {
            GuestMemoryRegion::bitmap(region).start(log);
        }
        Ok(())
    }

    /// Makes threads wait for missing pages of the region at `guest`. Returns its address in this process.
    ///
    /// # Errors
    /// [`Refused::Memory`]
    pub fn await_pages(&self, guest: u64, userfault: &Userfault) -> Result<u64, Refused> {
        let memory = self.memory.memory();
        let region = memory.find_region(GuestAddress(guest));
        let region = region.ok_or_else(|| unusable("there is no such region"))?;
        userfault.register(region).map_err(unusable)
    }

    /// True if writes are logged, so the guest may be migrating.
    pub fn is_logged(&self) -> bool {
        let memory = self.memory.memory();
        memory
            .iter()
            .any(|region| GuestMemoryRegion::bitmap(region).is_active())
    }

    /// The regions for another process, with their descriptors.
    ///
    /// # Errors
    /// The error of dup(2).
    pub fn to_handover(&self) -> io::Result<(Vec<RegionRecord>, Vec<OwnedFd>)> {
        let memory = self.memory.memory();
        let mut regions = Vec::new();
        let mut files = Vec::new();
        for mapping in &self.mappings {
            let region = memory.find_region(GuestAddress(mapping.guest));
            let Some(at) = region.and_then(|region| region.file_offset()) else {
                continue;
            };
            regions.push(RegionRecord {
                front_end: mapping.front_end,
                guest: mapping.guest,
                len: mapping.len,
                offset: at.start(),
            });
            files.push(at.file().try_clone()?.into());
        }
        Ok((regions, files))
    }

    /// The guest-physical address of an address of the front end.
    ///
    /// # Errors
    /// [`Refused::Unmapped`]
    pub fn guest_address(&self, front_end: u64) -> Result<u64, Refused> {
        let found = self
            .mappings
            .iter()
            .find_map(|mapping| mapping.guest_address(front_end));
        found.ok_or(Refused::Unmapped(front_end))
    }

    fn set(&self, memory: GuestMemoryMmap<DirtyBitmap>) {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(memory);
    }
}

/// A region of guest memory, without its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRecord {
    front_end: u64,
    guest: u64,
    len: u64,
    /// Offset of the region's start in the file.
    offset: u64,
}

impl From<RegionRecord> for VhostUserMemoryRegion {
    fn from(record: RegionRecord) -> Self {
        Self::new(record.guest, record.len, record.front_end, record.offset)
    }
}

impl Mapping {
    const fn of(region: &VhostUserMemoryRegion) -> Self {
        Self {
            front_end: region.user_addr,
            guest: region.guest_phys_addr,
            len: region.memory_size,
        }
    }

    fn guest_address(&self, front_end: u64) -> Option<u64> {
        let offset = front_end.checked_sub(self.front_end)?;
        (offset < self.len).then(|| self.guest + offset)
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap<DirtyBitmap>, Refused> {
    let (guest, len) = (region.guest_phys_addr, region.memory_size);
    let (front_end, offset) = (region.user_addr, region.mmap_offset);
    if let Some(file) = ends_beyond(&file, len, offset) {
        return Err(Refused::ShortMemory { len, offset, file });
    }
    if let Some(at) = [guest, front_end].into_iter().find(|at| at.checked_add(len).is_none()) {
        return Err(Refused::BadRegion { at, len });
    }
    let mapped = region.mmap_region(file).map_err(unusable)?;
    GuestRegionMmap::new(mapped, GuestAddress(guest)).ok_or(Refused::BadRegion { at: guest, len })
}

fn unusable(why: impl std::fmt::Display) -> Refused {
    Refused::Memory(why.to_string())
}

/// The length of the file, if the file ends before the last of the `len` bytes from `offset`: accessing those would end
/// the process (SIGBUS). `None` if it contains them all, or if it is a device whose length is unknown, such as DAX.
fn ends_beyond(file: impl AsFd, len: u64, offset: u64) -> Option<u64> {
    let stat = rustix::fs::fstat(file).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // Each mapping of /dev/zero has pages of its own, so it shares nothing, and it ends at its length.
    let is_memory = kind.is_char_device() && rustix::fs::major(stat.st_rdev) == MEMORY_DEVICES;
    let file = match kind.is_file() {
        true => u64::try_from(stat.st_size).unwrap_or(0),
        false if is_memory => 0,
        false => return None,
    };
    let lies_in = len.checked_add(offset).is_some_and(|end| end <= file);
    (!lies_in).then_some(file)
}
