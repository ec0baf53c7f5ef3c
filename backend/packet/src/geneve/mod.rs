//! Geneve (RFC 8926): the payload of a UDP datagram between two tunnel endpoints.
//!
//! [`GenevePacket::parse`] checks the base header and all options. [`GenevePacket::frame`] then returns where the frame
//! for a tenant begins. [`GeneveHeader`] is a header ready to be sent. It consists of the same bytes for every segment
//! of a batch, because the kernel and NICs merge segments only while their headers are equal. [`FrameOption`] is
//! hawser's own option, [`ProbeMessage`] its control message, and [`mtu`] computes sizes.
//!
//! No-panic contract: `parse` and everything reached from its result return whatever the bytes are, and a refused
//! packet has a named reason ([`GeneveError`]). All returned offsets and lengths lie within the bytes passed in and
//! within the stated length. The writer refuses data that does not fit.

mod frame_option;
mod header;
pub mod mtu;
mod probe;
#[cfg(test)]
mod tests;

pub use frame_option::{FrameOption, Segmented};
pub use header::{GeneveHeader, OptionError};
pub use probe::{ProbeAnswer, ProbeMessage, ProbeRequest};

use super::{EthernetHeader, be16};
use serde::{Deserialize, Serialize};
use std::fmt;

/// UDP port of Geneve (RFC 8926 section 3.3).
pub const PORT: u16 = 6081;
/// Protocol type of an Ethernet frame (RFC 8926 section 3.4).
pub const ETHERNET: u16 = 0x6558;
/// Length of the base header in bytes.
pub const BASE_LEN: usize = 8;
/// Maximum length of the options in bytes. The field has six bits and counts words of four bytes.
pub const OPTIONS_MAX: usize = 0x3f * WORD;
/// Maximum length of a whole header in bytes.
pub const HEADER_MAX: usize = BASE_LEN + OPTIONS_MAX;

/// Unit of lengths in the header, in bytes.
const WORD: usize = 4;
/// O bit, in the second byte: a control packet.
const CONTROL: u8 = 0x80;
/// C bit, in the second byte: at least one option is critical.
const HAS_CRITICAL: u8 = 0x40;
/// The bit of an option's type that makes it critical (RFC 8926 section 3.5).
const CRITICAL: u8 = 0x80;

/// A virtual network identifier: 24 bits (RFC 8926 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The highest identifier.
    pub const MAX: Self = Self(0xff_ffff);

    /// The identifier with this number, if it fits in 24 bits.
    #[inline]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The identifier as a number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number is not a virtual network identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VNI: give a number from 0 to {max}", max = Vni::MAX)]
pub struct BadVni(u32);

impl TryFrom<u32> for Vni {
    type Error = BadVni;

    fn try_from(number: u32) -> Result<Self, BadVni> {
        Self::new(number).ok_or(BadVni(number))
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.get()
    }
}

/// The reason why a datagram is not a Geneve packet for a tenant of this endpoint. Each variant is a drop reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeneveError {
    /// The datagram ends inside the base header.
    #[error("the datagram of {0} bytes ends inside the Geneve header")]
    Truncated(usize),
    /// The version is not 0; RFC 8926 section 3.4 requires dropping such packets.
    #[error("Geneve version {0}")]
    Version(u8),
    /// Opt Len reaches beyond the datagram.
    #[error("Opt Len of {options} bytes, in a datagram with {left} after the base header")]
    OptionsPastEnd {
        /// Length of the options as stated, in bytes.
        options: usize,
        /// Number of bytes after the base header.
        left: usize,
    },
    /// The caller passed fewer bytes than the header of the longer datagram has.
    #[error("the header of {0} bytes is longer than the copied head of the datagram")]
    HeadTooShort(usize),
    /// An option reaches beyond Opt Len (RFC 8926 section 3.5.1).
    #[error("an option ends beyond Opt Len")]
    OptionLength,
    /// An option has the critical bit and is unknown to this endpoint.
    #[error("unknown critical option, class {class:#06x}, type {kind:#04x}")]
    UnknownCritical {
        /// Option class.
        class: u16,
        /// Type within the class, with its critical bit.
        kind: u8,
    },
    /// [`FrameOption`] appears twice.
    #[error("hawser's frame option occurs twice")]
    Repeated,
    /// The O bit: the payload is a control message and goes to no tenant.
    #[error("a control packet")]
    Control,
    /// The payload is not an Ethernet frame.
    #[error("protocol type {0:#06x} instead of Ethernet's 0x6558")]
    Protocol(u16),
    /// The payload is shorter than an Ethernet header.
    #[error("an inner frame of {0} bytes")]
    InnerTooShort(usize),
}

/// An option of a packet (RFC 8926 section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneveOption<'a> {
    /// Option class, the namespace of `kind`.
    pub class: u16,
    /// Type within the class. Its highest bit is the critical one.
    pub kind: u8,
    /// Data of the option: up to 124 bytes, a multiple of four.
    pub data: &'a [u8],
}

/// Length of an option before its data, in bytes.
pub const OPTION_HEADER_LEN: usize = 4;
/// Maximum length of an option's data in bytes. The field has five bits and counts words of four bytes.
pub const OPTION_DATA_MAX: usize = 0x1f * WORD;

impl<'a> GeneveOption<'a> {
    /// True if an endpoint that does not know the option must drop the packet.
    #[inline]
    pub const fn is_critical(&self) -> bool {
        self.kind & CRITICAL != 0
    }

    /// The option at the start of `bytes`, and the bytes after it. `None` if the option ends beyond them. The three
    /// reserved bits are ignored.
    #[inline]
    fn split_from(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_first_chunk::<OPTION_HEADER_LEN>()?;
        let (data, rest) = rest.split_at_checked(usize::from(head[3] & 0x1f) * WORD)?;
        let option = Self {
            class: be16(head, 0),
            kind: head[2],
            data,
        };
        Some((option, rest))
    }
}

/// Iterator over the options of a packet, all of which have been checked.
#[derive(Clone, Debug)]
pub struct GeneveOptions<'a>(&'a [u8]);

impl<'a> Iterator for GeneveOptions<'a> {
    type Item = GeneveOption<'a>;

    #[inline]
    fn next(&mut self) -> Option<GeneveOption<'a>> {
        let (option, rest) = GeneveOption::split_from(self.0)?;
        self.0 = rest;
        Some(option)
    }
}

/// A view over a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenevePacket<'a> {
    /// Identifier of the virtual network.
    pub vni: Vni,
    /// O bit: the packet is a control packet, which never goes to a tenant.
    pub is_control: bool,
    /// C bit: according to the sender, at least one option is critical.
    pub has_critical: bool,
    /// Protocol type of the payload.
    pub protocol: u16,
    /// hawser's own option, if it is present. Accept it only from a peer that is known to support it.
    pub frame_option: Option<FrameOption>,
    options: &'a [u8],
    payload_len: usize,
}

impl<'a> GenevePacket<'a> {
    /// Parses a datagram of `len` bytes that begins with `head`; the first [`HEADER_MAX`] bytes are always enough.
    /// Reserved fields are ignored, and unknown options that are not critical are skipped. An unknown critical option
    /// is an error even without the C bit.
    ///
    /// # Errors
    /// [`GeneveError`], up to [`GeneveError::Repeated`].
    #[inline]
    pub fn parse(head: &'a [u8], len: usize) -> Result<Self, GeneveError> {
        let (base, rest) = head
            .split_first_chunk::<BASE_LEN>()
            .filter(|_| len >= BASE_LEN)
            .ok_or(GeneveError::Truncated(len))?;
        let version = base[0] >> 6;
        if version != 0 {
            return Err(GeneveError::Version(version));
        }
        let options_len = usize::from(base[0] & 0x3f) * WORD;
        let left = len - BASE_LEN;
        let payload_len = left.checked_sub(options_len).ok_or(GeneveError::OptionsPastEnd {
            options: options_len,
            left,
        })?;
        let options = rest
            .get(..options_len)
            .ok_or(GeneveError::HeadTooShort(BASE_LEN + options_len))?;
        let frame_option = known_option(options)?;
        Ok(Self {
            vni: Vni(u32::from_be_bytes([0, base[4], base[5], base[6]])),
            is_control: base[1] & CONTROL != 0,
            has_critical: base[1] & HAS_CRITICAL != 0,
            protocol: be16(base, 2),
            frame_option,
            options,
            payload_len,
        })
    }

    /// The options, in order.
    #[inline]
    pub const fn options(&self) -> GeneveOptions<'a> {
        GeneveOptions(self.options)
    }

    /// Length of the header before the payload, in bytes.
    #[inline]
    pub const fn header_len(&self) -> usize {
        BASE_LEN + self.options.len()
    }

    /// Length of the payload in bytes: a whole frame or a control message.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Offset of the tenant's Ethernet frame, which takes up the rest of the datagram.
    ///
    /// # Errors
    /// [`GeneveError::Control`], [`GeneveError::Protocol`] or [`GeneveError::InnerTooShort`].
    #[inline]
    pub const fn frame(&self) -> Result<usize, GeneveError> {
        if self.is_control {
            return Err(GeneveError::Control);
        }
        if self.protocol != ETHERNET {
            return Err(GeneveError::Protocol(self.protocol));
        }
        if self.payload_len < EthernetHeader::LEN {
            return Err(GeneveError::InnerTooShort(self.payload_len));
        }
        Ok(self.header_len())
    }
}

/// Checks all options and returns hawser's own, if it is present.
#[inline]
fn known_option(mut options: &[u8]) -> Result<Option<FrameOption>, GeneveError> {
    let mut known = None;
    while !options.is_empty() {
        let (option, rest) = GeneveOption::split_from(options).ok_or(GeneveError::OptionLength)?;
        options = rest;
        match FrameOption::from_option(&option) {
            Some(_) if known.is_some() => return Err(GeneveError::Repeated),
            Some(frame) => known = Some(frame),
            None if option.is_critical() => {
                let GeneveOption { class, kind, .. } = option;
                return Err(GeneveError::UnknownCritical { class, kind });
            }
            None => {}
        }
    }
    Ok(known)
}
