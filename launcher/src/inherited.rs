//! Descriptors that the process inherited at its start.

use crate::failure::Failure;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that was open when the process started, named by `option`. Call this once for each number,
/// before the process opens any descriptor.
///
/// # Errors
/// The descriptor is not open.
pub(crate) fn inherited(option: &str, number: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: reading the flags of a descriptor touches no memory. An unused number returns EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(Failure::runtime(format_args!(
            "{option}={number}: no such descriptor is open: start hawser with it under that number"
        )));
    }
    // SAFETY: the descriptor is open (just seen), not one of the standard three (the option's parser), and nothing in
    // this process has opened a descriptor before. So it was inherited, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
