//! Datagrams for tests.

use crate::frame::testing::OwnedFrame;
use crate::frame::{Checksum, GuestFrame, Offload};
use crate::packet::checksum::Sum;
use crate::packet::protocol;

/// A UDP datagram over IPv4 or IPv6, as a guest sends it.
#[derive(Clone, Debug)]
pub(super) struct Udp {
    pub(super) v6: bool,
    pub(super) source_port: u16,
    pub(super) ident: u16,
    pub(super) dont_fragment: bool,
    pub(super) hops: u8,
    pub(super) payload: Vec<u8>,
    /// The checksum is left to us.
    pub(super) partial: bool,
}

impl Udp {
    pub(super) fn new(payload: &[u8]) -> Self {
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

    /// Where its UDP header begins.
    pub(super) fn udp_at(&self) -> usize {
        if self.v6 { 54 } else { 34 }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
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

    pub(super) fn frame(&self) -> OwnedFrame {
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
pub(super) fn with_burst<R>(frames: &[OwnedFrame], f: impl FnOnce(&[GuestFrame<'_>]) -> R) -> R {
    let slices: Vec<_> = frames.iter().map(OwnedFrame::slices).collect();
    let burst: Vec<_> = frames
        .iter()
        .zip(&slices)
        .map(|(frame, slices)| frame.view(slices))
        .collect();
    f(&burst)
}
