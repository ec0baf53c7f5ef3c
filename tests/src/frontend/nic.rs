//! A guest's network driver on one pair of rings.

use super::{Buffer, Ram, Ring, RingLayout};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Length of `struct virtio_net_hdr_v1` in bytes.
const HEADER_LEN: u32 = 12;

/// `struct virtio_net_hdr_v1` (virtio 5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// VIRTIO_NET_HDR_F_*
    pub flags: u8,
    /// VIRTIO_NET_HDR_GSO_*
    pub gso_type: u8,
    /// Length of the headers in bytes.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Offset at which the checksummed bytes start.
    pub csum_start: u16,
    /// Offset of the checksum field, counted from there.
    pub csum_offset: u16,
    /// Number of buffers of the frame.
    pub num_buffers: u16,
}

impl Header {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; 12]) -> Self {
        let word = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }
}

/// Layout of frames in transmit chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitLayout {
    /// Header and frame in one buffer, as Linux does if possible.
    Together,
    /// The header in a buffer of its own.
    HeaderApart,
    /// The frame is split into buffers of this many bytes. The header is in front of the first piece.
    Scattered(u32),
    /// Like `Scattered`, but in an indirect table (INDIRECT_DESC).
    Indirect(u32),
}

/// Properties of a driver.
#[derive(Clone, Copy, Debug)]
pub struct NicConfig {
    /// Number of descriptors of each ring.
    pub ring_size: u16,
    /// Length of each receive buffer in bytes, including the header.
    pub receive_buffer: u32,
    /// Length of each transmit buffer in bytes, including the header.
    pub transmit_buffer: u32,
    /// Layout of frames in transmit chains.
    pub layout: TransmitLayout,
    /// True if MRG_RXBUF was negotiated.
    pub mergeable: bool,
    /// True if EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Header that the device has written.
    pub header: Header,
    /// The frame itself, beginning with the Ethernet header.
    pub frame: Vec<u8>,
}

/// A pair of rings and a driver that keeps the receive ring full.
pub struct Nic {
    /// Ring of frames to the guest.
    pub receive: Ring,
    /// Ring of frames from the guest.
    pub transmit: Ring,
    ram: Arc<Ram>,
    config: NicConfig,
    /// Buffer of each receive head that is in flight.
    receive_at: Vec<Option<u64>>,
    /// Receive buffers that are not posted.
    spare: Vec<u64>,
    /// Buffer of each transmit head that is in flight.
    transmit_at: Vec<Option<u64>>,
    /// Transmit buffers that are not in use.
    free: Vec<u64>,
}

impl std::fmt::Debug for Nic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nic")
            .field("receive", &self.receive)
            .field("transmit", &self.transmit)
            .finish_non_exhaustive()
    }
}

impl Nic {
    /// Creates rings and buffers in `ram`. Nothing is posted yet.
    pub fn new(ram: &Arc<Ram>, config: NicConfig) -> io::Result<Self> {
        let ring = || {
            Ring::new(
                Arc::clone(ram),
                RingLayout::allocate(ram, config.ring_size),
                config.event_idx,
            )
        };
        let buffers = |len: u32| -> Vec<u64> {
            let len = u64::from(len);
            (0..config.ring_size).map(|_| ram.allocate(len, 64)).collect()
        };
        Ok(Self {
            receive: ring()?,
            transmit: ring()?,
            ram: Arc::clone(ram),
            config,
            receive_at: vec![None; config.ring_size.into()],
            spare: buffers(config.receive_buffer),
            transmit_at: vec![None; config.ring_size.into()],
            // Each buffer is followed by an indirect table of up to 64 descriptors.
            free: buffers(config.transmit_buffer + 1024),
        })
    }

    /// Posts up to `count` receive buffers, as far as there is room.
    pub fn post(&mut self, count: usize) -> io::Result<usize> {
        let mut posted = 0;
        while posted < count {
            let Some(at) = self.spare.pop() else { break };
            let buffer = Buffer {
                at,
                len: self.config.receive_buffer,
                writable: true,
            };
            let Some(head) = self.receive.add(&[buffer]) else {
                self.spare.push(at);
                break;
            };
            self.receive_at[usize::from(head)] = Some(at);
            posted += 1;
        }
        self.receive.publish_and_kick()?;
        Ok(posted)
    }

    /// Puts a frame into the transmit ring without a kick. False if there is no room. `header` describes the offloads
    /// of the frame.
    pub fn queue(&mut self, header: Header, frame: &[u8]) -> bool {
        self.reap();
        let Some(at) = self.free.pop() else { return false };
        self.ram.write(at, &header.to_bytes());
        self.ram.write(at + u64::from(HEADER_LEN), frame);
        let len = u32::try_from(frame.len()).expect("a frame");
        let chain = transmit_chain(at, len, self.config.layout);
        let table = (at + u64::from(self.config.transmit_buffer)).next_multiple_of(16);
        let head = match self.config.layout {
            TransmitLayout::Indirect(_) => self.transmit.add_indirect(table, &chain),
            _ => self.transmit.add(&chain),
        };
        match head {
            Some(head) => self.transmit_at[usize::from(head)] = Some(at),
            None => {
                self.free.push(at);
                return false;
            }
        };
        true
    }

    /// Takes back the buffers whose frames the device has sent. Returns their number.
    pub fn reap(&mut self) -> usize {
        let mut done = 0;
        while let Some((head, _)) = self.transmit.used() {
            self.free.extend(self.transmit_at[usize::from(head)].take());
            done += 1;
        }
        done
    }

    /// Sends one frame without offloads. Waits for room.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.send_with(Header::default(), frame)
    }

    /// Sends one frame with its header. Waits for room.
    pub fn send_with(&mut self, header: Header, frame: &[u8]) -> io::Result<()> {
        while !self.queue(header, frame) {
            if !self.transmit.wait_used(Duration::from_secs(5)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.transmit.publish_and_kick()
    }

    /// Takes the next frame, and returns its buffers to the device.
    pub fn poll(&mut self) -> io::Result<Option<Received>> {
        let Some((head, len)) = self.receive.used() else {
            return Ok(None);
        };
        let mut header = [0; 12];
        let mut frame = Vec::new();
        self.take_buffer(head, len, Some(&mut header), &mut frame)?;
        let header = Header::from_bytes(header);
        let more = if self.config.mergeable { header.num_buffers } else { 1 };
        for _ in 1..more {
            // The buffers of one frame become visible together.
            let next = self.receive.used();
            let (head, len) = next.ok_or_else(|| io::Error::other("a merged frame lacks buffers"))?;
            self.take_buffer(head, len, None, &mut frame)?;
        }
        self.post(usize::MAX)?;
        Ok(Some(Received { header, frame }))
    }

    fn take_buffer(
        &mut self,
        head: u16,
        len: u32,
        header: Option<&mut [u8; 12]>,
        frame: &mut Vec<u8>,
    ) -> io::Result<()> {
        let at = self.receive_at[usize::from(head)].take();
        let at = at.ok_or_else(|| io::Error::other(format!("buffer {head} was used but never posted")))?;
        let skip = if header.is_some() { HEADER_LEN } else { 0 };
        if len < skip || len > self.config.receive_buffer {
            return Err(io::Error::other(format!(
                "{len} bytes were written to a receive buffer"
            )));
        }
        if let Some(header) = header {
            self.ram.read(at, header);
        }
        let start = frame.len();
        frame.resize(start + usize::try_from(len - skip).map_err(io::Error::other)?, 0);
        self.ram.read(at + u64::from(skip), &mut frame[start..]);
        self.spare.push(at);
        Ok(())
    }

    /// Waits for the next frame. `None` after `timeout`.
    pub fn recv(&mut self, timeout: Duration) -> io::Result<Option<Received>> {
        match self.poll()? {
            Some(received) => Ok(Some(received)),
            None if self.receive.wait_used(timeout) => self.poll(),
            None => Ok(None),
        }
    }
}

fn transmit_chain(at: u64, frame: u32, layout: TransmitLayout) -> Vec<Buffer> {
    let buffer = |at, len| Buffer {
        at,
        len,
        writable: false,
    };
    let whole = HEADER_LEN + frame;
    match layout {
        TransmitLayout::Together => vec![buffer(at, whole)],
        TransmitLayout::HeaderApart => vec![buffer(at, HEADER_LEN), buffer(at + u64::from(HEADER_LEN), frame)],
        TransmitLayout::Scattered(piece) | TransmitLayout::Indirect(piece) => (0..whole)
            .step_by(usize::try_from(piece).unwrap_or(1))
            .map(|offset| buffer(at + u64::from(offset), piece.min(whole - offset)))
            .collect(),
    }
}
