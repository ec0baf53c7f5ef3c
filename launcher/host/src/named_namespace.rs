//! Network namespaces that outlive their processes, as `ip netns add` makes them: a file on which the namespace is
//! mounted keeps it.

use crate::netlink::Netlink;
use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;

/// Number of the file system of namespaces (`NSFS_MAGIC` of linux/magic.h).
const NSFS: u64 = 0x6e73_6673;
/// Index of the loopback interface, which is the first one of every namespace.
const LOOPBACK: u32 = 1;

/// True if a namespace is mounted on the file.
#[must_use]
pub fn is_kept_in(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == NSFS))
}

/// Creates a network namespace that the file `path` keeps, with its loopback interface up. Does nothing if the file
/// keeps one already.
///
/// # Errors
/// The error of a system call: EPERM without `CAP_SYS_ADMIN`.
pub fn make(path: &Path) -> io::Result<()> {
    if is_kept_in(path) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // The file may be left by a process that was killed before it mounted the namespace.
    OpenOptions::new().create(true).append(true).open(path)?;
    let made = thread::scope(|scope| scope.spawn(|| make_on_this_thread(path)).join());
    made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace panicked")))
}

/// Moves the calling thread into a new namespace and mounts it.
#[allow(unsafe_code, reason = "rustix has no safe function for it")]
fn make_on_this_thread(path: &Path) -> io::Result<()> {
    // SAFETY: the flag concerns the network only. The thread shares its descriptors as before.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Netlink::open()?.set_up(LOOPBACK, true)?;
    Ok(mount_bind("/proc/thread-self/ns/net", path)?)
}

/// Removes the file. The namespace ends with the last process in it.
///
/// # Errors
/// The error of a system call. A file that does not exist is none.
pub fn remove(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        // It is not a mount point, or does not exist.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
