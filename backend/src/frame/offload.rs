//! Offload metadata of a frame, as a type instead of `virtio_net_hdr` bits.

use crate::packet::{EtherType, Head};

/// State of the L4 checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The bytes contain a full checksum that has not been verified yet.
    #[default]
    Complete,
    /// The checksum field contains only the sum over the pseudo-header (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    Partial {
        /// Offset, from the start of the Ethernet header, at which summing starts.
        start: u16,
        /// Offset of the checksum field, counted from `start`.
        offset: u16,
    },
    /// The checksum is verified or known to be good (VIRTIO_NET_HDR_F_DATA_VALID).
    Valid,
}

/// Whether a frame carries several segments, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// The frame is a single packet.
    #[default]
    None,
    /// TCP over IPv4, to be cut after every `mss` bytes of payload.
    Tcp4 {
        /// Payload bytes per segment.
        mss: u16,
        /// VIRTIO_NET_HDR_GSO_ECN: only the first segment carries CWR.
        ecn: bool,
    },
    /// TCP over IPv6, to be cut after every `mss` bytes of payload.
    Tcp6 {
        /// Payload bytes per segment.
        mss: u16,
        /// VIRTIO_NET_HDR_GSO_ECN: only the first segment carries CWR.
        ecn: bool,
    },
    /// UDP datagrams of `size` payload bytes each. The last one may be shorter (VIRTIO_NET_HDR_GSO_UDP_L4).
    Udp {
        /// Payload bytes per datagram.
        size: u16,
    },
}

/// Work on a frame that its sender has left to a later stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the L4 checksum.
    pub checksum: Checksum,
    /// Segmentation that is still to be done.
    pub segmentation: Segmentation,
}

impl Offload {
    /// True unless the segmentation is for a different protocol than the frame's.
    #[inline]
    pub fn suits(&self, head: &Head) -> bool {
        let wanted = match self.segmentation {
            Segmentation::None | Segmentation::Udp { .. } => return true,
            Segmentation::Tcp4 { .. } => EtherType::Ipv4,
            Segmentation::Tcp6 { .. } => EtherType::Ipv6,
        };
        head.tags() <= 1 && head.ethertype() == wanted
    }

    /// A complete frame whose checksum is known to be good.
    pub const VALID: Self = Self {
        checksum: Checksum::Valid,
        segmentation: Segmentation::None,
    };
    /// A complete frame with its checksum in the bytes.
    pub const NONE: Self = Self {
        checksum: Checksum::Complete,
        segmentation: Segmentation::None,
    };
}
