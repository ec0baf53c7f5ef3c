//! Frames as a guest sends them: the virtio header, and a UDP datagram to the host.

use super::{GUEST, HEADERS, HOST, MAC, PAYLOAD, PORT};
use hawser_backend::packet::checksum::Sum;
use std::net::Ipv4Addr;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM
const NEEDS_CSUM: u8 = 1;
/// Length of the virtio header in bytes.
const VIRTIO: usize = 12;
const IP: usize = 14;
const UDP: usize = 34;
/// Length of a frame in bytes.
pub(super) const LEN: usize = VIRTIO + HEADERS + PAYLOAD;

/// The kind of frames.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frames {
    /// Frames of this many flows in turn, with the checksum left to the device.
    Flows(u16),
    /// Frames of one flow, without a checksum.
    WithoutChecksum,
}

impl Frames {
    /// The frame with number `n`.
    pub(super) fn frame(self, n: usize, host_mac: [u8; 6]) -> [u8; LEN] {
        let mut bytes = [0x5a; LEN];
        let (virtio, frame) = bytes.split_at_mut(VIRTIO);
        virtio.fill(0);
        frame[..6].copy_from_slice(&host_mac);
        frame[6..12].copy_from_slice(&MAC);
        frame[12..14].copy_from_slice(&[8, 0]);
        let length = u16::try_from(HEADERS - UDP + PAYLOAD).unwrap_or(u16::MAX);
        let ip = &mut frame[IP..UDP];
        ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        ip[2..4].copy_from_slice(&(length + 20).to_be_bytes());
        for (at, address) in [(12, GUEST), (16, HOST)] {
            let address: Ipv4Addr = address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
            ip[at..at + 4].copy_from_slice(&address.octets());
        }
        let sum = Sum::default().bytes(ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let pseudo = Sum::default().bytes(&ip[12..20]).word(17).word(length).fold();
        let udp = &mut frame[UDP..HEADERS];
        let flow = match self {
            Self::Flows(flows) => u16::try_from(n % usize::from(flows)).unwrap_or(0),
            Self::WithoutChecksum => 0,
        };
        udp[..2].copy_from_slice(&(40_000 + flow).to_be_bytes());
        udp[2..4].copy_from_slice(&PORT.to_be_bytes());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        udp[6..8].fill(0);
        if matches!(self, Self::Flows(_)) {
            udp[6..8].copy_from_slice(&pseudo.to_be_bytes());
            virtio[0] = NEEDS_CSUM;
            virtio[6] = u8::try_from(UDP).unwrap_or(u8::MAX);
            virtio[8] = 6;
        }
        bytes
    }
}
