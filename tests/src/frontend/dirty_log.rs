//! The front end's log of pages that a back end writes.

use super::Ram;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
const PAGES_PER_BYTE: u64 = 8;

/// A log in a memfd, with one bit per page of guest-physical memory.
#[derive(Debug)]
pub struct DirtyLog {
    file: File,
    /// Number of bytes that the back end must map.
    pub len: u64,
}

impl DirtyLog {
    /// An empty log long enough for `ram`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(ram: &Ram) -> io::Result<Self> {
        let end = ram.regions().iter().map(|r| r.guest + r.len).max();
        let len = end.unwrap_or(0).div_ceil(PAGE * PAGES_PER_BYTE);
        // SAFETY: the name is a C string; nothing else is passed.
        let fd = unsafe { libc::memfd_create(c"dirty-log".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just created this descriptor for us.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len)?;
        Ok(Self { file, len })
    }

    /// The memfd.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Takes the page numbers that were logged since the last call.
    ///
    /// # Panics
    /// If the memfd cannot be read.
    pub fn take(&self) -> BTreeSet<u64> {
        let len = usize::try_from(self.len).expect("a log that fits in memory");
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, 0).expect("a readable memfd");
        self.file.write_all_at(&vec![0; len], 0).expect("a writable memfd");
        let set = (0..).zip(bytes).filter(|(_, byte)| *byte != 0);
        set.flat_map(|(i, byte)| {
            let bits = (0..PAGES_PER_BYTE).filter(move |bit| byte >> bit & 1 != 0);
            bits.map(move |bit| i * PAGES_PER_BYTE + bit)
        })
        .collect()
    }
}
