//! The host's sockets: one that sends as much as it can, and one that is never read.

use super::{GUEST, HOST, PAYLOAD, PORT};
use hawser_testkit::Result;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Number of datagrams per call.
const BATCH: u8 = 64;
/// UDP_SEGMENT (linux/udp.h)
const UDP_SEGMENT: libc::c_int = 103;

/// A socket whose buffer fills up and stays full.
pub(super) fn deaf() -> Result<UdpSocket> {
    Ok(UdpSocket::bind(format!("{HOST}:{PORT}"))?)
}

/// A thread that sends to the guest until it is dropped.
pub(super) struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts to send, either in batches of one call or one datagram at a time. Must be called in the namespace.
    pub(super) fn start(batches: bool) -> Result<Self> {
        let socket = UdpSocket::bind(format!("{HOST}:0"))?;
        socket.connect(format!("{GUEST}:{PORT}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name("sender".into()).spawn(move || {
            if batches {
                set_segment(&socket);
                let bytes = vec![0x5a; PAYLOAD * usize::from(BATCH)];
                while !seen.load(Ordering::Relaxed) {
                    // A full queue is the purpose of the load.
                    let _ = socket.send(&bytes);
                }
            } else {
                one_by_one(&socket, &seen);
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the kernel split the payload into datagrams of this size.
fn set_segment(socket: &UdpSocket) {
    let size = libc::c_int::try_from(PAYLOAD).unwrap_or(libc::c_int::MAX);
    let len = libc::socklen_t::try_from(size_of_val(&size)).unwrap_or(0);
    // SAFETY: the option is an int, read during the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            len,
        );
    }
}

fn one_by_one(socket: &UdpSocket, stop: &AtomicBool) {
    let bytes = [0x5a_u8; PAYLOAD];
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeroes is a valid, empty message.
    let mut messages: Vec<libc::mmsghdr> = (0..BATCH).map(|_| unsafe { std::mem::zeroed() }).collect();
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut iov;
        message.msg_hdr.msg_iovlen = 1;
    }
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: every message points to `iov`, which points to `bytes`. Both live in this function.
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH.into(), 0) };
    }
}
