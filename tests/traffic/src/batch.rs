//! Sends many datagrams of one size in one system call, so that a flood does not measure the tool.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Number of datagrams in one call.
const BATCH: usize = 64;

/// Room for the datagrams of one call.
pub(crate) struct Batch {
    /// Memory that `headers` refers to through `slices`.
    _bytes: Vec<u8>,
    _slices: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    /// Datagrams of `size` bytes each.
    pub(crate) fn new(size: usize) -> Self {
        let mut bytes = vec![0x5a; BATCH * size];
        let mut slices: Vec<_> = bytes
            .chunks_exact_mut(size.max(1))
            .map(|piece| libc::iovec {
                iov_base: piece.as_mut_ptr().cast(),
                iov_len: piece.len(),
            })
            .collect();
        let headers = slices
            .iter_mut()
            .map(|slice| {
                // SAFETY: all zeroes is a valid, empty mmsghdr.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = slice;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self {
            _bytes: bytes,
            _slices: slices,
            headers,
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.headers.len()).unwrap_or(u32::MAX)
    }

    /// Sends the datagrams on a connected socket. Returns how many were sent.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> io::Result<u64> {
        // SAFETY: the headers point to slices and bytes that live as long as self.
        let n = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), self.count(), 0) };
        u64::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Waits for the first datagram, takes all that have arrived, and returns their number.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<u64> {
        // SAFETY: the same holds, and the bytes belong to self and may be written to. No time limit is passed.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.count(),
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        u64::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        a.connect(b.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(700);
        assert_eq!(batch.send(&a).unwrap(), 64);
        let mut got = 0;
        while got < 64 {
            got += batch.receive(&b).unwrap();
        }
        assert_eq!(got, 64);
    }
}
