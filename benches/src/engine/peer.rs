//! The far end of the only connection. It discards everything, or sends as much as it can.

use super::{FAR, Way};
use hawser_testkit::{Result, failure};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Bytes of one write or read.
const CHUNK: usize = 256 * 1024;

/// A listening socket and the thread that serves its first connection.
pub struct FarEnd {
    /// Address at which the socket listens.
    pub at: SocketAddr,
    /// Number of bytes discarded so far.
    pub swallowed: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarEnd").field("at", &self.at).finish_non_exhaustive()
    }
}

impl FarEnd {
    /// Listens, on any port.
    ///
    /// # Errors
    /// The address does not exist.
    pub fn new(way: Way) -> io::Result<Self> {
        let listener = TcpListener::bind((FAR, 0))?;
        let at = listener.local_addr()?;
        let swallowed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&swallowed);
        let thread = thread::spawn(move || {
            // The end of the connection stops the thread.
            let Ok((stream, _)) = listener.accept() else { return };
            match way {
                Way::Out => swallow(&stream, &count),
                Way::In => pour(&stream),
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        Ok(Self { at, swallowed, thread })
    }

    /// Waits for the end of the thread.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn join(self) -> Result<()> {
        self.thread.join().map_err(|_| failure("the far end panicked"))
    }
}

/// Removes bytes from the queue without copying them, because the far end is not measured.
fn swallow(stream: &TcpStream, count: &AtomicU64) {
    loop {
        // SAFETY: with MSG_TRUNC a TCP socket writes nothing, so a null buffer is allowed (tcp(7)).
        let n = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), CHUNK, libc::MSG_TRUNC) };
        match u64::try_from(n) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                count.fetch_add(n, Ordering::Relaxed);
            }
        }
    }
}

fn pour(mut stream: &TcpStream) {
    let bytes = vec![0x5a; CHUNK];
    while stream.write_all(&bytes).is_ok() {}
}
