//! Datagrams for tests.

use crate::frame::testing::OwnedFrame;
use crate::frame::{Checksum, GuestFrame, Offload, Segmentation};
use crate::packet::checksum::Sum;
use crate::packet::protocol;

/// A UDP datagram over IPv4 or IPv6, as a guest sends it.
#[derive(Clone, Debug)]
pub(crate) struct Udp {
    pub(crate) v6: bool,
    pub(crate) source_port: u16,
    pub(crate) ident: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) hops: u8,
    pub(crate) payload: Vec<u8>,
    /// True if the checksum is partial.
    pub(crate) partial: bool,
}

impl Udp {
    pub(crate) fn new(payload: &[u8]) -> Self {
        Self {
            v6: false,
            source_port: 4000,
            ident: 0,
            dont_fragment: true,
            hops: 64,
            payload: payload.to_vec(),
            partial: true,
        }
    }

    /// Offset of the UDP header.
    pub(crate) fn udp_at(&self) -> usize {
        if self.v6 { 54 } else { 34 }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(8 + self.payload.len()).unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
        let addresses = if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol::UDP, self.hops]);
            frame.extend((0..32).map(|i| i + 0x20));
            22..54
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend(self.ident.to_be_bytes());
            frame.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.hops,
                protocol::UDP,
                0,
                0,
            ]);
            frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
            let sum = Sum::default().bytes(&frame[14..]).finish();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            26..34
        };
        let pseudo = Sum::default()
            .bytes(&frame[addresses])
            .word(protocol::UDP.into())
            .word(length);
        let mut datagram = Vec::new();
        datagram.extend(self.source_port.to_be_bytes());
        datagram.extend(9u16.to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        let sum = if self.partial {
            pseudo.fold()
        } else {
            pseudo.bytes(&datagram).finish()
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        frame.extend(datagram);
        frame
    }

    pub(crate) fn frame(&self) -> OwnedFrame {
        let start = u16::try_from(self.udp_at()).unwrap();
        let checksum = if self.partial {
            Checksum::Partial { start, offset: 6 }
        } else {
            Checksum::Complete
        };
        OwnedFrame::new(self.bytes()).with_offload(Offload {
            checksum,
            ..Offload::default()
        })
    }
}

/// Calls `f` with a burst of `frames`.
pub(crate) fn with_burst<R>(frames: &[OwnedFrame], f: impl FnOnce(&[GuestFrame<'_>]) -> R) -> R {
    let slices: Vec<_> = frames.iter().map(OwnedFrame::slices).collect();
    let burst: Vec<_> = frames
        .iter()
        .zip(&slices)
        .map(|(frame, slices)| frame.view(slices))
        .collect();
    f(&burst)
}

/// A TCP frame as a guest with segmentation offload sends it, with a partial checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) v6: bool,
    pub(crate) ident: u16,
    pub(crate) seq: u32,
    /// Flags in addition to ACK and PSH.
    pub(crate) flags: u8,
    pub(crate) payload: usize,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            v6: false,
            ident: 0xfffe,
            seq: 0xffff_fff0,
            flags: 0,
            payload: 0,
        }
    }
}

impl Tcp {
    /// Length of the TCP header, whose only option is timestamps.
    const HEADER: usize = 32;

    /// Offset of the TCP header.
    pub(crate) const fn l4(self) -> usize {
        if self.v6 { 54 } else { 34 }
    }

    /// The offload for a payload that is split every `mss` bytes.
    pub(crate) fn offload(self, mss: u16) -> Offload {
        let ecn = self.flags & 0x80 != 0;
        Offload {
            checksum: Checksum::Partial {
                start: u16::try_from(self.l4()).unwrap(),
                offset: 16,
            },
            segmentation: if self.v6 {
                Segmentation::Tcp6 { mss, ecn }
            } else {
                Segmentation::Tcp4 { mss, ecn }
            },
        }
    }

    /// The bytes of the frame, with the sum over the pseudo-header in the checksum field.
    pub(crate) fn frame(self) -> Vec<u8> {
        let l4 = self.l4();
        let mut bytes = Udp {
            v6: self.v6,
            ident: self.ident,
            ..Udp::new(&vec![0; Self::HEADER - 8 + self.payload])
        }
        .bytes();
        bytes[if self.v6 { 20 } else { 23 }] = protocol::TCP;
        bytes[l4..l4 + 4].copy_from_slice(&[0x10, 0, 0x20, 0]);
        bytes[l4 + 4..l4 + 8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[l4 + 8..l4 + 20].copy_from_slice(&[0, 0, 0, 1, 0x80, 0x18 | self.flags, 1, 0, 0, 0, 0, 0]);
        bytes[l4 + 20..l4 + 32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        for (i, byte) in bytes[l4 + Self::HEADER..].iter_mut().enumerate() {
            *byte = u8::try_from(i % 251).unwrap();
        }
        Self::write_sums(&mut bytes, l4);
        bytes
    }

    /// The bytes of the frame, with a full checksum.
    pub(crate) fn whole(self) -> Vec<u8> {
        let mut bytes = self.frame();
        Self::seal(&mut bytes);
        bytes
    }

    /// Recomputes the checksums of a whole frame.
    pub(crate) fn seal(bytes: &mut [u8]) {
        let l4 = if bytes[14] >> 4 == 4 { 34 } else { 54 };
        Self::write_sums(bytes, l4);
        let sum = Sum::default().bytes(&bytes[l4..]).finish();
        bytes[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    }

    fn write_sums(bytes: &mut [u8], l4: usize) {
        let addresses = if l4 == 34 {
            bytes[24..26].fill(0);
            let sum = Sum::default().bytes(&bytes[14..34]).finish();
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            26..34
        } else {
            22..54
        };
        let length = u16::try_from(bytes.len() - l4).unwrap();
        let pseudo = Sum::default().bytes(&bytes[addresses]).word(protocol::TCP.into());
        bytes[l4 + 16..l4 + 18].copy_from_slice(&pseudo.word(length).fold().to_be_bytes());
    }
}
