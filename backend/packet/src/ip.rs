//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use super::{Malformed, be16, be32, checksum};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Known protocol numbers (IANA).
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// IGMP
    pub const IGMP: u8 = 2;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
    /// IPv6 hop-by-hop options
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header
    pub(super) const ROUTING: u8 = 43;
    /// IPv6 fragment header
    pub(super) const FRAGMENT: u8 = 44;
    /// IPv6 destination options
    pub(super) const DESTINATION: u8 = 60;

    /// True for IPv6 extension headers, each of which is followed by another header.
    #[inline]
    pub(super) const fn is_extension(protocol: u8) -> bool {
        matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
    }
}

/// The position of a fragment in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Identification field, of which IPv4 uses only 16 bits.
    pub ident: u32,
    /// Offset of this fragment's first byte in the datagram, in bytes.
    pub offset: u16,
    /// True if more fragments follow.
    pub more: bool,
}

/// An IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol of the payload ([`protocol`]).
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// True if the don't-fragment bit is set.
    pub dont_fragment: bool,
    /// Position in the datagram, if this is a fragment.
    pub fragment: Option<FragmentInfo>,
    /// Length of the header in bytes, including options (20 to 60).
    pub header_len: usize,
    /// Length of the payload in bytes.
    pub payload_len: usize,
}

impl Ipv4Header {
    /// Length of a header without options in bytes. Only this kind is emitted.
    pub const LEN: usize = 20;

    /// Parses the header at the start of `bytes`. The frame has `available` bytes from there onwards, which may include
    /// Ethernet padding.
    ///
    /// # Errors
    /// Any [`Malformed`].
    #[inline]
    pub fn parse(bytes: &[u8], available: usize) -> Result<Self, Malformed> {
        let h: &[u8; Self::LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        if h[0] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(h[0] & 0xf) * 4;
        let total_len = usize::from(be16(h, 2));
        if header_len < Self::LEN || total_len < header_len || total_len > available {
            return Err(Malformed::Length);
        }
        if header_len > bytes.len() {
            return Err(Malformed::HeadersTooLong);
        }
        let flags = be16(h, 6);
        let offset = (flags & 0x1fff) * 8;
        let more = flags & 0x2000 != 0;
        let fragment = (more || offset != 0).then(|| FragmentInfo {
            ident: u32::from(be16(h, 4)),
            offset,
            more,
        });
        Ok(Self {
            src: Ipv4Addr::from(be32(h, 12)),
            dst: Ipv4Addr::from(be32(h, 16)),
            protocol: h[9],
            ttl: h[8],
            tos: h[1],
            dont_fragment: flags & 0x4000 != 0,
            fragment,
            header_len,
            payload_len: total_len - header_len,
        })
    }

    /// Writes a header without options to the start of `out`, including the checksum. A larger `payload_len` is cut to
    /// 65535.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let total = u16::try_from(Self::LEN + self.payload_len).unwrap_or(u16::MAX);
        let fragment = self.fragment.unwrap_or(FragmentInfo {
            ident: 0,
            offset: 0,
            more: false,
        });
        let ident = u16::try_from(fragment.ident & 0xffff).unwrap_or(0);
        let flags = (u16::from(self.dont_fragment) << 14) | (u16::from(fragment.more) << 13) | (fragment.offset / 8);
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[4..6].copy_from_slice(&ident.to_be_bytes());
        out[6..8].copy_from_slice(&flags.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum::of(&out[..Self::LEN]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An IPv6 header. Extension headers are parsed, and skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Protocol of the payload after all extension headers ([`protocol`]).
    pub protocol: u8,
    /// Hop limit of the packet.
    pub hop_limit: u8,
    /// Traffic class (DSCP and ECN).
    pub traffic_class: u8,
    /// Position in the datagram, if there is a fragment header.
    pub fragment: Option<FragmentInfo>,
    /// Length of the headers in bytes, including extension headers.
    pub header_len: usize,
    /// Length of the payload after the headers, in bytes.
    pub payload_len: usize,
}

impl Ipv6Header {
    /// Length in bytes of a header without extension headers, the only kind that `emit` writes (48 with a fragment
    /// header).
    pub const LEN: usize = 40;
    /// Length of a fragment header in bytes.
    pub const FRAGMENT_LEN: usize = 8;

    /// Parses the header at the start of `bytes`. The frame has `available` bytes from there onwards.
    ///
    /// # Errors
    /// Any [`Malformed`].
    #[inline]
    pub fn parse(bytes: &[u8], available: usize) -> Result<Self, Malformed> {
        let h: &[u8; Self::LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        if h[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let total_len = Self::LEN + usize::from(be16(h, 4));
        if total_len > available {
            return Err(Malformed::Length);
        }
        let mut header = Self {
            src: Ipv6Addr::from(*h[8..].first_chunk::<16>().ok_or(Malformed::Truncated)?),
            dst: Ipv6Addr::from(*h[24..].first_chunk::<16>().ok_or(Malformed::Truncated)?),
            protocol: h[6],
            hop_limit: h[7],
            traffic_class: (h[0] << 4) | (h[1] >> 4),
            fragment: None,
            header_len: Self::LEN,
            payload_len: 0,
        };
        if protocol::is_extension(header.protocol) {
            header.walk_extensions(bytes, total_len)?;
        }
        if header.header_len > bytes.len() {
            return Err(Malformed::HeadersTooLong);
        }
        header.payload_len = total_len - header.header_len;
        Ok(header)
    }

    #[cold]
    fn walk_extensions(&mut self, bytes: &[u8], total_len: usize) -> Result<(), Malformed> {
        loop {
            let at = self.header_len;
            if !protocol::is_extension(self.protocol) {
                return Ok(());
            }
            let is_fragment = self.protocol == protocol::FRAGMENT;
            if at + 8 > total_len {
                return Err(Malformed::Length);
            }
            let h: &[u8; 8] = bytes
                .get(at..)
                .and_then(<[u8]>::first_chunk)
                .ok_or(Malformed::HeadersTooLong)?;
            self.protocol = h[0];
            if is_fragment {
                let field = be16(h, 2);
                self.fragment = Some(FragmentInfo {
                    ident: be32(h, 4),
                    offset: field & !7,
                    more: field & 1 != 0,
                });
                self.header_len = at + Self::FRAGMENT_LEN;
                if field & !7 != 0 {
                    return Ok(());
                }
            } else {
                self.header_len = at + 8 + usize::from(h[1]) * 8;
            }
            if self.header_len > total_len {
                return Err(Malformed::Length);
            }
        }
    }

    /// Writes the header to the start of `out`: 40 bytes, or 48 if this is a fragment. A larger `payload_len` is cut to
    /// 65535.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let extra = if self.fragment.is_some() { Self::FRAGMENT_LEN } else { 0 };
        let length = u16::try_from(self.payload_len + extra).unwrap_or(u16::MAX);
        out[0] = 0x60 | (self.traffic_class >> 4);
        out[1] = self.traffic_class << 4;
        out[2..4].fill(0);
        out[4..6].copy_from_slice(&length.to_be_bytes());
        out[6] = self.protocol;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..40].copy_from_slice(&self.dst.octets());
        if let Some(fragment) = self.fragment {
            out[6] = protocol::FRAGMENT;
            out[40] = self.protocol;
            out[41] = 0;
            let field = fragment.offset | u16::from(fragment.more);
            out[42..44].copy_from_slice(&field.to_be_bytes());
            out[44..48].copy_from_slice(&fragment.ident.to_be_bytes());
        }
    }
}
