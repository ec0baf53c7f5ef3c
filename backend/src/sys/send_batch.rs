//! Sends several datagrams from one socket in one system call (sendmmsg(2)) without copying their payload. One message
//! may carry several datagrams of equal size (UDP_SEGMENT, Linux 4.18). An older kernel refuses such a message with
//! EINVAL, and the caller sends its datagrams one by one.

use super::datagram::Control;
use crate::frame::{Gather, GatherList};
use socket2::SockAddr;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// Length of a control message with a u16, and the offset of its data.
const SEGMENT_LEN: usize = 24;
const SEGMENT_DATA: usize = 16;

/// Buffers for batches, which are reused without allocating.
#[derive(Default)]
pub struct SendBatch {
    gather: GatherList,
    messages: Vec<Message>,
    headers: Vec<libc::mmsghdr>,
    controls: Vec<Control<SEGMENT_LEN>>,
}

debug_fields!(SendBatch {});

// SAFETY: the addresses in `headers` are not read between uses: `transmit` rewrites everything that
// it passes to the kernel.
unsafe impl Send for SendBatch {}

struct Message {
    slices: std::ops::Range<usize>,
    segment: Option<u16>,
}

impl SendBatch {
    /// Starts an empty batch whose payload lives for `'g`.
    pub fn start<'g>(&mut self) -> Outgoing<'_, 'g> {
        self.messages.clear();
        Outgoing {
            gather: self.gather.start(),
            address: None,
            messages: &mut self.messages,
            headers: &mut self.headers,
            controls: &mut self.controls,
        }
    }
}

/// A batch that is being built.
pub struct Outgoing<'l, 'g> {
    gather: Gather<'l, 'g>,
    address: Option<SockAddr>,
    messages: &'l mut Vec<Message>,
    headers: &'l mut Vec<libc::mmsghdr>,
    controls: &'l mut Vec<Control<SEGMENT_LEN>>,
}

debug_fields!(Outgoing<'_, '_> { gather });

impl<'l, 'g> Outgoing<'l, 'g> {
    /// Adds one message. `fill` gathers its payload. With `segment` it carries datagrams of that many bytes each. The
    /// last one may be shorter.
    pub fn push(&mut self, segment: Option<u16>, fill: impl FnOnce(&mut Gather<'l, 'g>)) {
        let first = self.gather.slices().len();
        fill(&mut self.gather);
        self.messages.push(Message {
            slices: first..self.gather.slices().len(),
            segment,
        });
    }

    /// Sets the destination of all messages, for a socket that is not connected.
    pub fn address(&mut self, address: SocketAddr) {
        self.address = Some(address.into());
    }

    /// Sends message `from` and those after it, without waiting. Returns how many the kernel accepted, at least one.
    ///
    /// # Errors
    /// The error of sendmmsg(2) for message `from`.
    pub fn transmit(&mut self, socket: &impl AsRawFd, from: usize) -> io::Result<usize> {
        self.fill_headers(from);
        let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each header points at slices readable for 'g and at a control buffer of `self`;
        // both outlive the call.
        let n = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count, flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn fill_headers(&mut self, from: usize) {
        self.headers.clear();
        self.controls.clear();
        let messages = &self.messages[from..];
        let segmented = messages.iter().filter_map(|m| m.segment);
        self.controls.extend(segmented.map(segment_control));
        let mut controls = self.controls.iter_mut();
        for message in messages {
            // SAFETY: an all-zero mmsghdr is a valid, empty one.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let slices = &self.gather.slices()[message.slices.clone()];
            header.msg_hdr.msg_iov = slices.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_iovlen = slices.len() as _;
            if let Some(address) = &self.address {
                header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = address.len();
            }
            if let Some(control) = message.segment.and_then(|_| controls.next()) {
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = SEGMENT_LEN as _;
            }
            self.headers.push(header);
        }
    }
}

fn segment_control(size: u16) -> Control<SEGMENT_LEN> {
    let mut control = Control([0; SEGMENT_LEN]);
    // Fields of struct cmsghdr: length, level, type.
    let length = SEGMENT_DATA + size_of::<u16>();
    control.0[..8].copy_from_slice(&length.to_ne_bytes());
    control.0[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control.0[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control.0[SEGMENT_DATA..length].copy_from_slice(&size.to_ne_bytes());
    control
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("struct cmsghdr is written by hand for 64-bit Linux");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::GuestSlice;
    use std::net::UdpSocket;

    fn pair() -> (UdpSocket, UdpSocket) {
        let a = UdpSocket::bind("127.0.0.1:0").unwrap();
        let b = UdpSocket::bind("127.0.0.1:0").unwrap();
        a.connect(b.local_addr().unwrap()).unwrap();
        b.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        (a, b)
    }

    #[test]
    fn one_call_sends_plain_empty_and_segmented_messages() {
        let (a, b) = pair();
        let bytes: Vec<u8> = (0..250).collect();
        let mut batch = SendBatch::default();
        let mut out = batch.start();
        out.push(None, |g| {
            g.push(GuestSlice::from_bytes(&bytes[..3]));
            g.push(GuestSlice::from_bytes(&bytes[3..5]));
        });
        out.push(None, |_| {});
        out.push(Some(100), |g| g.push(GuestSlice::from_bytes(&bytes)));
        assert_eq!(out.transmit(&a, 0).unwrap(), 3);
        let mut got = Vec::new();
        for _ in 0..5 {
            let mut buffer = [0; 300];
            let n = b.recv(&mut buffer).unwrap();
            got.push(buffer[..n].to_vec());
        }
        let want: [&[u8]; 5] = [&bytes[..5], &[], &bytes[..100], &bytes[100..200], &bytes[200..]];
        assert_eq!(got, want);
    }
}
