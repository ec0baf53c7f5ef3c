//! Socket options for which `socket2` has no method.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// Level and name of a socket option whose value is a C `int`.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntOption(pub libc::c_int, pub libc::c_int);

#[allow(clippy::cast_possible_truncation, reason = "four bytes")]
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

impl IntOption {
    pub(super) fn set(self, socket: &impl AsRawFd, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the option is a C int, read from `value` during the call.
        let r = unsafe { libc::setsockopt(socket.as_raw_fd(), self.0, self.1, (&raw const value).cast(), INT_LEN) };
        if r == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    pub(super) fn get(self, socket: &impl AsRawFd) -> io::Result<libc::c_int> {
        let mut value: libc::c_int = 0;
        let mut length = INT_LEN;
        // SAFETY: the kernel writes at most `length` bytes into `value`.
        let r = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                self.0,
                self.1,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        if r == 0 {
            Ok(value)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
