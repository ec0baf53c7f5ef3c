//! A relay that hides offered features of the back end.
//!
//! It forwards all messages between front end and back end with their descriptors, and removes features from the answer
//! to GET_FEATURES. This is for guests that cannot be configured to refuse them.

use super::wire::code;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Length of a message's header: request, flags, and size of the body.
const HEADER: usize = 12;
/// Maximum length of an answer's body.
const LONGEST: usize = 4096;
/// Maximum number of descriptors in one message (VHOST_USER_MAX_FDS is 8).
const DESCRIPTORS: usize = 32;

/// The relay between one front end and a back end.
#[derive(Debug)]
pub struct Withholding {
    listener: UnixListener,
    behind: PathBuf,
    withheld: u64,
}

impl Withholding {
    /// Listens at `at` for a front end, and hides the features in the mask `withheld` of the back
    /// end that listens at `behind`.
    ///
    /// # Errors
    /// A socket cannot be created.
    pub fn bind(at: &Path, behind: &Path, withheld: u64) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::bind(at)?,
            behind: behind.to_owned(),
            withheld,
        })
    }

    /// Serves one front end, until either side disconnects.
    ///
    /// # Errors
    /// The back end is not reachable.
    pub fn serve(self) -> io::Result<()> {
        let (front, _) = self.listener.accept()?;
        let back = UnixStream::connect(&self.behind)?;
        let (orders_from, orders_to) = (front.try_clone()?, back.try_clone()?);
        let orders = thread::spawn(move || {
            // The end of either side also ends the other side.
            let _ = forward(&orders_from, &orders_to);
            let _ = orders_to.shutdown(Shutdown::Both);
        });
        let _ = answers(&back, &front, self.withheld);
        let _ = front.shutdown(Shutdown::Both);
        orders.join().map_err(|_| io::Error::other("the relay panicked"))
    }
}

/// Forwards bytes of the front end unchanged.
fn forward(from: &UnixStream, to: &UnixStream) -> io::Result<()> {
    let (mut bytes, mut raw) = ([0; LONGEST], [0; DESCRIPTORS]);
    loop {
        let mut slices = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: the slice belongs to this function and may be written to.
        let (len, count) = unsafe { from.recv_with_fds(&mut slices, &mut raw) }.map_err(errno)?;
        // SAFETY: the kernel has just given us these descriptors.
        let files: Vec<_> = raw[..count]
            .iter()
            .map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) })
            .collect();
        if len == 0 {
            return Ok(());
        }
        let raw: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = to.send_with_fds(&[&bytes[..len]], &raw).map_err(errno)?;
        (&mut &*to).write_all(&bytes[sent..len])?;
    }
}

/// Forwards the messages of the back end, which sends no relevant descriptors.
fn answers(mut from: &UnixStream, mut to: &UnixStream, withheld: u64) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let mut body = vec![0; usize::try_from(word(8)).map_err(io::Error::other)?.min(LONGEST)];
        from.read_exact(&mut body)?;
        if let (code::GET_FEATURES, Ok(offered)) = (word(0), <[u8; 8]>::try_from(body.as_slice())) {
            body = (u64::from_ne_bytes(offered) & !withheld).to_ne_bytes().to_vec();
        }
        to.write_all(&[&header, &body[..]].concat())?;
    }
}

fn errno(error: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
