//! VLAN tags (IEEE 802.1Q-2022 clause 9).

use super::be16;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// EtherType of an 802.1Q customer tag.
pub const TPID_8021Q: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const TPID_8021AD: u16 = 0x88a8;
/// EtherType of stacked tags that was in use before 802.1ad.
pub const TPID_9100: u16 = 0x9100;

/// Bits of the tag control information that contain the VLAN identifier. The other bits are priority and drop
/// eligibility.
pub const VID_MASK: u16 = 0x0fff;

/// True for EtherTypes that are followed by tag control information and another EtherType.
#[inline]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TPID_8021Q | TPID_8021AD | TPID_9100)
}

/// The number of a VLAN, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// VLAN 1, the default VLAN of untagged frames.
    pub const DEFAULT: Self = Self(1);
    /// The highest valid number. 4095 is reserved.
    pub const MAX: Self = Self(4094);

    /// The VLAN numbered `id`, if that is a valid VLAN number.
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        if id >= 1 && id <= Self::MAX.0 {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The VLAN as a number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a VLAN number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a VLAN: give a number from 1 to {max}", max = VlanId::MAX)]
pub struct BadVlanId(String);

impl FromStr for VlanId {
    type Err = BadVlanId;

    fn from_str(text: &str) -> Result<Self, BadVlanId> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| BadVlanId(text.to_owned()))
    }
}

impl TryFrom<u16> for VlanId {
    type Error = BadVlanId;

    fn try_from(id: u16) -> Result<Self, BadVlanId> {
        Self::new(id).ok_or_else(|| BadVlanId(id.to_string()))
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.get()
    }
}

/// The fields between the addresses of a tagged frame and its payload's EtherType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// EtherType of the tag, for which [`is_tag`] is true.
    pub tpid: u16,
    /// Tag control information: priority (3 bits), drop eligibility (1 bit) and VLAN (12 bits).
    pub tci: u16,
    /// EtherType after the tag, which may be that of another tag.
    pub inner: u16,
}

impl VlanTag {
    /// Length on the wire in bytes.
    pub const LEN: usize = 4;

    /// The tag at offset `at` of `frame`, where the caller found its TPID. `None` if the frame ends inside the tag.
    #[inline]
    pub fn parse_at(frame: &[u8], at: usize) -> Option<Self> {
        (frame.len() >= at + Self::LEN + 2).then(|| Self {
            tpid: be16(frame, at),
            tci: be16(frame, at + 2),
            inner: be16(frame, at + 4),
        })
    }

    /// Number of the VLAN; 0 for a tag that carries only a priority.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.tci & VID_MASK
    }
}
