//! The header in front of every frame on a ring (`virtio_net_hdr`, 5.1.6), and its translation to
//! offload metadata.

use super::features::Features;
use crate::counters::DropReason;
use crate::frame::{Checksum, GuestCaps, Offload, Segmentation};
use crate::packet::EthernetHeader;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
};

/// Length of the header with `num_buffers` (VERSION_1 or MRG_RXBUF), in bytes.
pub const HEADER_LEN: usize = 12;
// Bridge mode copies headers between rings and TAP queues without conversion.
const _: () = assert!(HEADER_LEN == crate::sys::tap::HEADER_LEN);
/// Length of the header of a legacy driver without MRG_RXBUF, in bytes.
pub const LEGACY_HEADER_LEN: usize = 10;

/// VIRTIO_NET_HDR_F_NEEDS_CSUM
const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_F_DATA_VALID
const DATA_VALID: u8 = 2;
/// VIRTIO_NET_HDR_GSO_NONE
const GSO_NONE: u8 = 0;
/// VIRTIO_NET_HDR_GSO_TCPV4
const GSO_TCPV4: u8 = 1;
/// VIRTIO_NET_HDR_GSO_TCPV6
const GSO_TCPV6: u8 = 4;
/// VIRTIO_NET_HDR_GSO_UDP_L4
const GSO_UDP_L4: u8 = 5;
/// VIRTIO_NET_HDR_GSO_ECN, a bit that is combined with the type
const GSO_ECN: u8 = 0x80;

/// Offset of the checksum field in a TCP header.
const TCP_CHECKSUM: u16 = 16;
/// Offset of the checksum field in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// Length of the header in front of each frame, in both directions, in bytes.
pub const fn header_len(features: Features) -> usize {
    if features.has(VIRTIO_F_VERSION_1) || features.has(VIRTIO_NET_F_MRG_RXBUF) {
        HEADER_LEN
    } else {
        LEGACY_HEADER_LEN
    }
}

/// Checks the offload that the guest requests for a frame whose first bytes are `head`. The frame's protocol is checked
/// elsewhere ([`Offload::suits`]).
///
/// # Errors
/// [`DropReason::BadOffload`]: the request uses a feature that was not negotiated, or points outside the head.
pub fn decode(header: &[u8; LEGACY_HEADER_LEN], head: &[u8], features: Features) -> Result<Offload, DropReason> {
    let [flags, gso, ..] = *header;
    if flags & NEEDS_CSUM == 0 && gso == GSO_NONE {
        return Ok(Offload::NONE);
    }
    decode_offload(header, head, features).ok_or(DropReason::BadOffload)
}

fn decode_offload(header: &[u8; LEGACY_HEADER_LEN], head: &[u8], features: Features) -> Option<Offload> {
    let [flags, gso, _, _, size0, size1, start0, start1, offset0, offset1] = *header;
    let size = u16::from_le_bytes([size0, size1]);
    let start = u16::from_le_bytes([start0, start1]);
    let offset = u16::from_le_bytes([offset0, offset1]);
    // Segmentation without a partial checksum is not allowed (5.1.6.2.1).
    if flags & NEEDS_CSUM == 0 || !features.has(VIRTIO_NET_F_CSUM) {
        return None;
    }
    let field = usize::from(start) + usize::from(offset);
    if usize::from(start) < EthernetHeader::LEN || field + 2 > head.len() {
        return None;
    }
    Some(Offload {
        checksum: Checksum::Partial { start, offset },
        segmentation: segmentation(gso, size, offset, features)?,
    })
}

fn segmentation(gso: u8, size: u16, offset: u16, features: Features) -> Option<Segmentation> {
    let ecn = gso & GSO_ECN != 0;
    let (segmentation, feature, field) = match gso & !GSO_ECN {
        GSO_NONE if !ecn => return Some(Segmentation::None),
        GSO_TCPV4 => {
            let tcp = Segmentation::Tcp4 { mss: size, ecn };
            (tcp, VIRTIO_NET_F_HOST_TSO4, TCP_CHECKSUM)
        }
        GSO_TCPV6 => {
            let tcp = Segmentation::Tcp6 { mss: size, ecn };
            (tcp, VIRTIO_NET_F_HOST_TSO6, TCP_CHECKSUM)
        }
        GSO_UDP_L4 if !ecn => (Segmentation::Udp { size }, VIRTIO_NET_F_HOST_USO, UDP_CHECKSUM),
        _ => return None,
    };
    let allowed = features.has(feature) && (!ecn || features.has(VIRTIO_NET_F_HOST_ECN));
    (allowed && size != 0 && offset == field).then_some(segmentation)
}

/// The offloads that the kernel left undone on a frame, from the header in front of the frame. The kernel is trusted,
/// so nothing is checked against the frame. `None` for an offload that was not enabled.
pub fn decode_trusted(header: &[u8; LEGACY_HEADER_LEN]) -> Option<Offload> {
    let [flags, gso, _, _, size0, size1, start0, start1, offset0, offset1] = *header;
    let checksum = if flags & NEEDS_CSUM != 0 {
        Checksum::Partial {
            start: u16::from_le_bytes([start0, start1]),
            offset: u16::from_le_bytes([offset0, offset1]),
        }
    } else if flags & DATA_VALID != 0 {
        Checksum::Valid
    } else {
        Checksum::Complete
    };
    let (size, ecn) = (u16::from_le_bytes([size0, size1]), gso & GSO_ECN != 0);
    let segmentation = match gso & !GSO_ECN {
        GSO_NONE => Segmentation::None,
        GSO_TCPV4 => Segmentation::Tcp4 { mss: size, ecn },
        GSO_TCPV6 => Segmentation::Tcp6 { mss: size, ecn },
        GSO_UDP_L4 => Segmentation::Udp { size },
        _ => return None,
    };
    Some(Offload { checksum, segmentation })
}

/// Builds the header of a frame for the guest from the frame's metadata and first bytes.
pub fn encode(offload: Offload, head: &[u8], num_buffers: u16, caps: GuestCaps) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (gso, size) = match offload.segmentation {
        Segmentation::None => (GSO_NONE, 0),
        Segmentation::Tcp4 { mss, ecn } => (GSO_TCPV4 | if ecn { GSO_ECN } else { 0 }, mss),
        Segmentation::Tcp6 { mss, ecn } => (GSO_TCPV6 | if ecn { GSO_ECN } else { 0 }, mss),
        Segmentation::Udp { size } => (GSO_UDP_L4, size),
    };
    header[1] = gso;
    header[4..6].copy_from_slice(&size.to_le_bytes());
    match offload.checksum {
        Checksum::Complete => {}
        Checksum::Valid => header[0] = if caps.checksum { DATA_VALID } else { 0 },
        Checksum::Partial { start, offset } => {
            header[0] = NEEDS_CSUM;
            if gso != GSO_NONE {
                header[2..4].copy_from_slice(&headers_len(start, gso, head).to_le_bytes());
            }
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
    }
    header[10..12].copy_from_slice(&num_buffers.to_le_bytes());
    header
}

/// The value of `hdr_len`: the length of all headers of a frame to be segmented.
fn headers_len(start: u16, gso: u8, head: &[u8]) -> u16 {
    const UDP_HEADER: u16 = 8;
    const TCP_DATA_OFFSET: usize = 12;
    if gso == GSO_UDP_L4 {
        return start.saturating_add(UDP_HEADER);
    }
    let words = head.get(usize::from(start) + TCP_DATA_OFFSET).map_or(0, |b| b >> 4);
    start.saturating_add(u16::from(words) * 4)
}

#[cfg(test)]
#[path = "net_header_tests.rs"]
mod tests;
