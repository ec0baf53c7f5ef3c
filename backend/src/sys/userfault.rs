//! Guest memory whose pages come later (userfaultfd(2)): a thread that touches a missing page sleeps in the kernel until the
//! front end has fetched it.

use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;
use vm_memory::GuestRegionMmap;
use vm_memory::bitmap::Bitmap;

// Numbers of linux/userfaultfd.h.

/// Creates a descriptor from the device. It also serves faults within system calls, such as a receive into guest memory.
pub const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
/// Agrees on the interface.
pub const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// Makes threads wait for pages.
pub const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const MISSING_SHMEM: u64 = 1 << 5;
const MODE_MISSING: u64 = 1;

const DEVICE: &str = "/dev/userfaultfd";

/// The device. It is opened once, because the process may give up the right to it.
static OPENED: OnceLock<Option<OwnedFd>> = OnceLock::new();

fn device() -> Option<&'static OwnedFd> {
    let opened = OPENED.get_or_init(|| open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok());
    opened.as_ref()
}

/// True if pages of guest memory can come later. Call this for the first time while the process has its rights.
pub fn is_supported() -> bool {
    device().is_some()
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// A descriptor through which another process provides pages.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// Creates a descriptor for the memory of this process.
    ///
    /// # Errors
    /// The system does not support it, or this process may not.
    pub fn new() -> io::Result<Self> {
        let device = device().ok_or(io::ErrorKind::Unsupported)?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the request takes plain flags and touches no memory.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nothing else has it.
        let made = Self(unsafe { OwnedFd::from_raw_fd(made) });
        let mut api = Api {
            api: UFFD_API,
            features: MISSING_SHMEM,
            ioctls: 0,
        };
        // SAFETY: `api` has the layout that the request reads and writes, and outlives the call.
        match unsafe { libc::ioctl(made.0.as_raw_fd(), UFFDIO_API, &raw mut api) } {
            0 => Ok(made),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The descriptor for the process that provides pages.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Makes threads that touch a missing page of a region wait for it. Returns the region's address in this process.
    ///
    /// # Errors
    /// It is not memory of which pages can come later.
    pub fn register<B: Bitmap>(&self, region: &GuestRegionMmap<B>) -> io::Result<u64> {
        let (start, len) = (region.as_ptr(), region.size());
        // A huge page would bring its neighbours along, for which no thread has waited.
        // SAFETY: the mapping exists, and the advice changes no content.
        if unsafe { libc::madvise(start.cast(), len, libc::MADV_NOHUGEPAGE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut register = Register {
            start: address(start.addr())?,
            len: address(len)?,
            mode: MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: `register` has the layout that the request reads and writes, and outlives the call. The kernel changes how
        // faults are served, not what the memory contains.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) } {
            0 => address(start.addr()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn address(value: usize) -> io::Result<u64> {
    value.try_into().map_err(io::Error::other)
}
