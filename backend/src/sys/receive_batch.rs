//! Receives several datagrams in one system call (recvmmsg(2)). Each is read into guest memory first, then into a spill
//! buffer in process memory, so that a datagram larger than the guest's buffers is not truncated.

use super::datagram::{Control, control_int, for_each_control, local_address, local_port, socket_address};
use super::traffic_class::received_class;
use crate::frame::{GuestSink, GuestSliceMut, copy_from_room};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

/// Maximum datagrams per call.
pub const MAX_BATCH: usize = 32;

/// Size of a spill buffer in bytes. No datagram is larger.
const SPILL: usize = 65_536;

/// Room for control messages in bytes: UDP_GRO (20, aligned 24), one packet info (28 or 36, aligned 40), one original
/// destination (32 or 44, aligned 48) and TOS or traffic class (17 or 20, aligned 24), with some to spare.
const CONTROL: usize = 160;

/// Room for a message's source address in bytes (`sockaddr_in6`, rounded up).
const NAME: usize = 32;
#[allow(clippy::cast_possible_truncation, reason = "32")]
const NAME_LEN: libc::socklen_t = NAME as libc::socklen_t;

/// Metadata of one received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Length of the payload in bytes.
    pub len: usize,
    /// Payload bytes that fitted into guest memory. The rest is in the spill buffer.
    pub room: usize,
    /// Length of each datagram, if the message carries several (UDP_GRO).
    pub segment: Option<u16>,
    /// Source address and port.
    pub source: Option<SocketAddr>,
    /// Local address to which the datagram was sent, if reports of it are enabled.
    pub local: Option<IpAddr>,
    /// Local port to which the datagram was sent, if reports of it are enabled.
    pub local_port: Option<u16>,
    /// DSCP and ECN; 0 unless reports of them are enabled.
    pub traffic_class: u8,
}

/// Receive buffers, which are reused without allocating.
pub struct ReceiveBatch {
    capacity: usize,
    spill: Vec<u8>,
    // These are on the heap, because a batch is moved several times while its owner is created.
    received: Box<[Received]>,
    names: Box<[Control<NAME>]>,
    controls: Box<[Control<CONTROL>]>,
    iovs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

debug_fields!(ReceiveBatch { capacity });

// SAFETY: the addresses in `iovs` and `headers` are not read between uses: `receive` rewrites
// everything that it passes to the kernel.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// Creates buffers for up to `count` datagrams per call, at most [`MAX_BATCH`]. A page of a spill buffer takes
    /// memory only once it is written.
    pub fn with_capacity(count: usize) -> Self {
        let count = count.clamp(1, MAX_BATCH);
        Self {
            capacity: count,
            spill: vec![0; SPILL * count],
            received: vec![Received::default(); count].into(),
            names: vec![Control([0; NAME]); count].into(),
            controls: vec![Control([0; CONTROL]); count].into(),
            iovs: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Receives up to `count` datagrams into frames `0..count` of the sink's current reservation. Returns how many
    /// arrived, 0 if none is waiting.
    ///
    /// # Errors
    /// The error of recvmmsg(2), which may be a pending socket error.
    pub fn receive_to_guest(
        &mut self,
        socket: &impl AsRawFd,
        sink: &mut dyn GuestSink,
        count: usize,
    ) -> io::Result<usize> {
        let count = count.min(self.capacity);
        let mut slices = [0; MAX_BATCH];
        for (i, n) in slices[..count].iter_mut().enumerate() {
            *n = sink.payload(i).len();
        }
        let mut room = sink.payload_all();
        self.iovs.clear();
        for (i, &n) in slices[..count].iter().enumerate() {
            let (frame, rest) = room.split_at_mut(n.min(room.len()));
            room = rest;
            self.add_message(i, frame);
        }
        self.receive(socket, &slices[..count])
    }

    /// Receives up to `count` datagrams into the spill buffers only.
    ///
    /// # Errors
    /// As [`receive_to_guest`](Self::receive_to_guest).
    pub fn receive_to_spill(&mut self, socket: &impl AsRawFd, count: usize) -> io::Result<usize> {
        let count = count.min(self.capacity);
        self.iovs.clear();
        for i in 0..count {
            self.add_message(i, &mut []);
        }
        self.receive(socket, &[0; MAX_BATCH][..count])
    }

    /// The datagram with number `index` of the last call.
    pub const fn message(&self, index: usize) -> &Received {
        &self.received[index]
    }

    /// The bytes of datagram `index` that are in its spill buffer. They follow those in guest memory.
    pub fn spilled(&self, index: usize) -> &[u8] {
        let message = &self.received[index];
        &self.spill[index * SPILL + message.room..index * SPILL + message.len]
    }

    /// The same bytes as a mutable slice.
    pub fn spilled_mut(&mut self, index: usize) -> &mut [u8] {
        let message = &self.received[index];
        &mut self.spill[index * SPILL + message.room..index * SPILL + message.len]
    }

    /// Datagram `index` in one piece in process memory. Its head is copied back from `room`, the guest memory that
    /// received it.
    pub fn collect(&mut self, index: usize, room: &[GuestSliceMut<'_>]) -> &[u8] {
        let message = &mut self.received[index];
        let whole = &mut self.spill[index * SPILL..(index + 1) * SPILL];
        copy_from_room(room, 0, &mut whole[..message.room]);
        message.room = 0;
        &whole[..message.len]
    }

    fn add_message(&mut self, index: usize, frame: &mut [GuestSliceMut<'_>]) {
        let mut bytes = 0;
        for slice in frame.iter() {
            bytes += slice.len();
            self.iovs.push(libc::iovec {
                iov_base: slice.as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        // The spilled bytes start at an offset equal to the room's length, so that the datagram can be completed in
        // place.
        let bytes = bytes.min(SPILL);
        self.received[index].room = bytes;
        let tail = &mut self.spill[index * SPILL + bytes..(index + 1) * SPILL];
        self.iovs.push(libc::iovec {
            iov_base: tail.as_mut_ptr().cast(),
            iov_len: tail.len(),
        });
    }

    /// Receives datagrams. `slices` is the number of iovecs of guest memory per message.
    fn receive(&mut self, socket: &impl AsRawFd, slices: &[usize]) -> io::Result<usize> {
        self.headers.clear();
        let mut iovs = self.iovs.as_mut_slice();
        for (i, &n) in slices.iter().enumerate() {
            let (own, rest) = iovs.split_at_mut(n + 1);
            iovs = rest;
            // SAFETY: an all-zero mmsghdr is a valid, empty one.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let message = &mut header.msg_hdr;
            message.msg_name = self.names[i].0.as_mut_ptr().cast();
            message.msg_namelen = NAME_LEN;
            message.msg_iov = own.as_mut_ptr();
            message.msg_iovlen = own.len() as _;
            message.msg_control = self.controls[i].0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            self.headers.push(header);
        }
        let count = u32::try_from(self.headers.len()).unwrap_or(0);
        let headers = self.headers.as_mut_ptr();
        // SAFETY: the iovecs come from guest memory that the caller still borrows (`receive_to_guest` holds the sink)
        // and from `spill`; names and controls belong to `self`.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers,
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(n) = usize::try_from(n) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for i in 0..n {
            self.take_result(i);
        }
        Ok(n)
    }

    fn take_result(&mut self, index: usize) {
        let header = &self.headers[index];
        let name_len = (header.msg_hdr.msg_namelen as usize).min(NAME);
        let message = &mut self.received[index];
        message.len = (header.msg_len as usize).min(SPILL);
        message.room = message.room.min(message.len);
        message.source = socket_address(&self.names[index].0[..name_len]);
        message.segment = None;
        message.local = None;
        message.local_port = None;
        message.traffic_class = 0;
        // SAFETY: the header is as recvmmsg left it, and `self` owns its control buffer.
        unsafe {
            for_each_control(&header.msg_hdr, |level, kind, data| {
                if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
                    message.segment = control_int(data).and_then(|n| u16::try_from(n).ok());
                } else if let Some(address) = local_address(level, kind, data) {
                    message.local = Some(address);
                } else if let Some(port) = local_port(level, kind, data) {
                    message.local_port = Some(port);
                } else if let Some(class) = received_class(level, kind, data) {
                    message.traffic_class = class;
                }
            });
        }
        // A single datagram is reported with its own length as segment size.
        message.segment = message.segment.filter(|s| usize::from(*s) < message.len && *s > 0);
    }
}
