//! The option that hawser processes send to each other.
//!
//! ```text
//!  0                   1                   2                   3
//! +-------------------------------+---------------+-----+---------+
//! |      Option Class = 0xff68    |  Type = 0x81  |0 0 0| Len = 2 |
//! +-------+-----------+-+-+-------+---------------+-----+---------+
//! | Ver=0 |  0 0  |S|P|              MSS              |     0     |
//! +-------+-------+-+-+-------------------------------+-----------+
//! |                             Epoch                             |
//! +---------------------------------------------------------------+
//! ```
//!
//! S: the datagrams of this batch are segments of one frame; all but the last carry MSS bytes of payload. P: the
//! checksum field of the inner TCP or UDP header holds the sum over the pseudo-header only, as virtio's `NEEDS_CSUM`
//! has it, and the outer UDP checksum protects the bytes. Epoch: the epoch of the sender's binding. All datagrams of a
//! batch carry the same option.
//!
//! The class is in the experimental range 0xff00 to 0xffff (RFC 8926 section 7); 0x68 is an "h". The type is critical:
//! a peer that does not know the option drops the packet instead of delivering a frame with a partial checksum.

use super::{CRITICAL, GeneveOption, OPTION_HEADER_LEN, be16};
use std::num::NonZeroU16;

/// Properties of a batch of datagrams that the option describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameOption {
    /// Present if the batch is one frame in segments.
    pub segmented: Option<Segmented>,
    /// True if the inner transport checksum is partial.
    pub is_checksum_partial: bool,
    /// Epoch of the sender's binding.
    pub epoch: u32,
}

/// Describes a frame that is sent in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmented {
    /// Bytes of TCP or UDP payload in each segment except the last.
    pub mss: NonZeroU16,
}

const SEGMENTED: u8 = 0b10;
const PARTIAL_CHECKSUM: u8 = 0b01;

impl FrameOption {
    /// Option class from the experimental range.
    pub const CLASS: u16 = 0xff68;
    /// Type within the class, with the critical bit.
    pub const KIND: u8 = CRITICAL | 1;
    /// Length of the option in a header, in bytes.
    pub const LEN: usize = OPTION_HEADER_LEN + Self::DATA_LEN;
    const DATA_LEN: usize = 8;

    /// Reads the option. `None` if it is another option, or a variant of this one that this version does not know. Such
    /// a variant counts as an unknown critical option.
    #[inline]
    pub fn from_option(option: &GeneveOption<'_>) -> Option<Self> {
        if (option.class, option.kind) != (Self::CLASS, Self::KIND) {
            return None;
        }
        let data: &[u8; Self::DATA_LEN] = option.data.try_into().ok()?;
        let [first, _, _, reserved, epoch @ ..] = *data;
        // An unknown version or flag has a meaning that this code would ignore.
        if first & !(SEGMENTED | PARTIAL_CHECKSUM) != 0 || reserved != 0 {
            return None;
        }
        let segmented = match (first & SEGMENTED != 0, NonZeroU16::new(be16(data, 1))) {
            (true, Some(mss)) => Some(Segmented { mss }),
            (false, None) => None,
            _ => return None,
        };
        Some(Self {
            segmented,
            is_checksum_partial: first & PARTIAL_CHECKSUM != 0,
            epoch: u32::from_be_bytes(epoch),
        })
    }

    /// Writes the data of the option.
    #[inline]
    pub fn to_data(self) -> [u8; Self::DATA_LEN] {
        let mut first = 0;
        if self.segmented.is_some() {
            first |= SEGMENTED;
        }
        if self.is_checksum_partial {
            first |= PARTIAL_CHECKSUM;
        }
        let mss = self.segmented.map_or(0, |segmented| segmented.mss.get());
        let ([mss_high, mss_low], [a, b, c, d]) = (mss.to_be_bytes(), self.epoch.to_be_bytes());
        [first, mss_high, mss_low, 0, a, b, c, d]
    }
}
