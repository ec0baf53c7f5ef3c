//! VLAN support of a port, in process, so that it works on segments without VLAN support.
//!
//! On the segment, frames of a VLAN carry a tag, and frames of the default VLAN are untagged. The guest's side is an
//! access port, a trunk, or both (a trunk with a native VLAN), as in the bridge CNI. For each frame the rules return an
//! edit of its tag ([`TagEdit`]) or the reason to drop it; they hold no buffer and change no bytes.
//!
//! | frame of the guest | on the segment |
//! |---|---|
//! | untagged | tagged with the port's VLAN; unchanged if only the default VLAN is there; else dropped |
//! | priority tag (VLAN 0) | the same, its priority kept |
//! | a VLAN of the port | unchanged |
//! | VLAN 1 where the default VLAN is kept | untagged |
//! | another VLAN, an 802.1ad tag | dropped |
//!
//! | frame of the segment | to the guest |
//! |---|---|
//! | the port's untagged VLAN | untagged |
//! | a VLAN of the trunk | unchanged |
//! | untagged, or a priority tag | unchanged where the default VLAN is kept, else dropped |
//! | another VLAN, an 802.1ad tag | dropped |
//!
//! Only the first tag is inspected, with one exception: a tag that would be removed (or ignored by others, like a
//! priority tag) must not hide a second tag, which would let the guest send into any VLAN.

use crate::config::{VlanConfig, VlanSet};
use crate::counters::DropReason;
use crate::frame::{Checksum, Offload};
use crate::packet::Head;
use crate::packet::vlan::{TPID_8021Q, VID_MASK, VlanId, VlanTag, is_tag};

/// Offset of a frame's EtherType, or of its first tag.
const TYPE_AT: usize = 12;
/// Length of an Ethernet header with one tag, in bytes.
pub const TAGGED_HEADER: usize = TYPE_AT + VlanTag::LEN + 2;

/// An edit of a frame's first tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagEdit {
    /// Leaves the frame unchanged.
    Keep,
    /// Inserts a tag with this control information before the EtherType.
    Push(u16),
    /// Removes the tag.
    Pop,
    /// Replaces the control information of the tag.
    Replace(u16),
}

/// An Ethernet header after a [`TagEdit`], and the number of bytes of the frame that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditedHeader {
    bytes: [u8; TAGGED_HEADER],
    len: usize,
    /// Number of bytes at the start of the frame that the header replaces.
    pub replaces: usize,
}

impl EditedHeader {
    /// The bytes to send in place of the frame's first [`replaces`](Self::replaces) bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl TagEdit {
    /// The edited header of a frame that begins with `head`. `None` if the frame stays unchanged. `head` has passed the
    /// rules that returned this edit, so it is long enough.
    pub fn header(self, head: &[u8]) -> Option<EditedHeader> {
        let mut bytes = [0; TAGGED_HEADER];
        bytes[..TYPE_AT].copy_from_slice(head.get(..TYPE_AT)?);
        let tci = match self {
            Self::Keep => return None,
            Self::Pop => {
                bytes[TYPE_AT..TYPE_AT + 2].copy_from_slice(head.get(TAGGED_HEADER - 2..TAGGED_HEADER)?);
                return Some(EditedHeader {
                    bytes,
                    len: TYPE_AT + 2,
                    replaces: TAGGED_HEADER,
                });
            }
            Self::Push(tci) | Self::Replace(tci) => tci,
        };
        let replaces = match self {
            Self::Replace(_) => TAGGED_HEADER,
            _ => TYPE_AT + 2,
        };
        bytes[TYPE_AT..TYPE_AT + 2].copy_from_slice(&TPID_8021Q.to_be_bytes());
        bytes[TYPE_AT + 2..TYPE_AT + 4].copy_from_slice(&tci.to_be_bytes());
        bytes[TYPE_AT + 4..].copy_from_slice(head.get(replaces - 2..replaces)?);
        Some(EditedHeader {
            bytes,
            len: TAGGED_HEADER,
            replaces,
        })
    }

    /// The offload of the frame after the edit. Checksum offsets count from the start of the Ethernet header.
    #[must_use]
    pub fn offload(self, offload: Offload) -> Offload {
        const TAG: u16 = 4;
        let Checksum::Partial { start, offset } = offload.checksum else {
            return offload;
        };
        let start = match self {
            Self::Keep | Self::Replace(_) => start,
            Self::Push(_) => start.saturating_add(TAG),
            Self::Pop => start.saturating_sub(TAG),
        };
        Offload {
            checksum: Checksum::Partial { start, offset },
            ..offload
        }
    }
}

/// The VLAN rules of a port, compiled for the packet path.
#[derive(Clone, Debug)]
pub enum VlanRules {
    /// Tagged frames from the guest are dropped.
    Refused,
    /// Tags are not inspected.
    Transparent,
    /// Frames of these VLANs pass.
    Member(Box<Membership>),
}

/// The VLANs of which a port is a member.
#[derive(Clone, Debug)]
pub struct Membership {
    /// VLAN of the guest's untagged frames.
    untagged: Option<u16>,
    /// VLANs whose tags the guest sees.
    tagged: VlanSet,
    /// True if the port is also a member of the default VLAN.
    keep_default: bool,
}

/// The way in which a frame states its VLAN.
#[derive(Clone, Copy)]
enum Seen {
    Untagged,
    /// By a tag that has a priority but no VLAN.
    Priority(Tag),
    Tagged(Tag),
}

/// The first tag of a frame.
#[derive(Clone, Copy)]
struct Tag {
    /// Control information of the tag.
    tci: u16,
    /// True if another tag follows.
    is_stacked: bool,
}

impl Tag {
    const fn vid(self) -> u16 {
        self.tci & VID_MASK
    }
}

impl Seen {
    fn of(head: &Head) -> Result<Self, DropReason> {
        match head.outer() {
            // The frame ends before the type field.
            0 if head.fault().is_some() => Err(DropReason::Truncated),
            TPID_8021Q if head.tags() == 0 => Err(DropReason::Truncated),
            TPID_8021Q => {
                let tag = Tag {
                    tci: head.tci(),
                    is_stacked: head.tags() > 1 || is_tag(head.ethertype().into()),
                };
                Ok(match tag.vid() {
                    0 => Self::Priority(tag),
                    _ => Self::Tagged(tag),
                })
            }
            tag if is_tag(tag) => Err(DropReason::VlanProviderTag),
            _ => Ok(Self::Untagged),
        }
    }
}

impl VlanRules {
    /// Compiles a configuration.
    pub fn new(config: &VlanConfig) -> Self {
        let (untagged, tagged, keep_default) = match config {
            VlanConfig::Refused => return Self::Refused,
            VlanConfig::Transparent => return Self::Transparent,
            VlanConfig::Access { id, keep_default } => (Some(*id), VlanSet::default(), *keep_default),
            VlanConfig::Trunk {
                tagged,
                native,
                keep_default,
            } => (*native, tagged.clone(), *keep_default),
        };
        Self::Member(Box::new(Membership {
            untagged: untagged.map(VlanId::get),
            tagged,
            keep_default,
        }))
    }

    /// The edit for a frame from the guest.
    ///
    /// # Errors
    /// The reason to drop the frame.
    #[inline]
    pub fn outgoing(&self, head: &Head) -> Result<TagEdit, DropReason> {
        match self {
            Self::Transparent => Ok(TagEdit::Keep),
            Self::Refused if is_tag(head.outer()) => Err(DropReason::UnexpectedVlan),
            Self::Refused => Ok(TagEdit::Keep),
            Self::Member(member) => member.outgoing(Seen::of(head)?),
        }
    }

    /// The edit for a frame from the segment that begins with `head`.
    ///
    /// # Errors
    /// The reason not to deliver it, which is common on a segment shared by several VLANs.
    #[inline]
    pub fn incoming(&self, head: &[u8]) -> Result<TagEdit, DropReason> {
        match self {
            Self::Transparent | Self::Refused => Ok(TagEdit::Keep),
            Self::Member(member) => member.incoming(Seen::of(&Head::of_link(head))?),
        }
    }

    /// True if no frame is ever changed, so that a mode can skip the rules.
    pub const fn keeps_all(&self) -> bool {
        !matches!(self, Self::Member(_))
    }
}

impl Membership {
    fn outgoing(&self, seen: Seen) -> Result<TagEdit, DropReason> {
        match (seen, self.untagged) {
            (Seen::Untagged, Some(vid)) => Ok(TagEdit::Push(vid)),
            (Seen::Priority(tag), Some(vid)) => Ok(TagEdit::Replace(tag.tci | vid)),
            (Seen::Untagged, None) if self.keep_default => Ok(TagEdit::Keep),
            (Seen::Priority(tag), None) if self.keep_default && !tag.is_stacked => Ok(TagEdit::Keep),
            (Seen::Untagged | Seen::Priority(_), None) => Err(DropReason::VlanNotMember),
            (Seen::Tagged(tag), _) if self.has(tag.vid()) => Ok(TagEdit::Keep),
            (Seen::Tagged(tag), _) if self.is_default(tag.vid()) && !tag.is_stacked => Ok(TagEdit::Pop),
            (Seen::Tagged(_), _) => Err(DropReason::VlanNotMember),
        }
    }

    fn incoming(&self, seen: Seen) -> Result<TagEdit, DropReason> {
        match seen {
            Seen::Untagged | Seen::Priority(_) if self.keep_default => Ok(TagEdit::Keep),
            Seen::Untagged | Seen::Priority(_) => Err(DropReason::VlanOther),
            Seen::Tagged(tag) if self.untagged == Some(tag.vid()) => Ok(TagEdit::Pop),
            Seen::Tagged(tag) if self.tagged.contains(tag.vid()) => Ok(TagEdit::Keep),
            Seen::Tagged(tag) if self.is_default(tag.vid()) => Ok(TagEdit::Pop),
            Seen::Tagged(_) => Err(DropReason::VlanOther),
        }
    }

    fn has(&self, vid: u16) -> bool {
        self.untagged == Some(vid) || self.tagged.contains(vid)
    }

    fn is_default(&self, vid: u16) -> bool {
        self.keep_default && vid == VlanId::DEFAULT.get()
    }
}

#[cfg(test)]
#[path = "vlan_tests.rs"]
mod tests;
