//! The head of a frame, parsed once.

use super::vlan::{VlanTag, is_tag};
use super::{EtherType, EthernetHeader, FragmentInfo, Ipv4Header, Ipv6Header, MacAddr, Malformed, be16, be32};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum tags that the parser skips.
const MAX_TAGS: u8 = 2;
const IPV4_FLAGS: usize = 6;
const IPV4_TTL: usize = 8;
const IPV4_SOURCE: usize = 12;
const IPV6_HOP_LIMIT: usize = 7;
const IPV6_SOURCE: usize = 8;
/// The "do not fragment" bit, in the byte of an IPv4 header that contains the flags.
const DONT_FRAGMENT: u8 = 0x40;

/// The headers of a frame up to the start of the transport header.
///
/// A plain value that is made once from the copied bytes and passed along with them. All decisions about the frame are
/// based on it. It stores offsets; the methods that take `bytes` read addresses and other fields at these offsets, from
/// the bytes that were parsed.
///
/// It also describes a frame inside a tunnel, given the bytes from the inner Ethernet header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The type field of the Ethernet header: the EtherType, or that of the first tag.
    outer: u16,
    /// EtherType after the tags.
    ethertype: u16,
    /// Control information of the first tag; 0 without a tag.
    tci: u16,
    /// Offset of the transport header; 0 if it is unknown.
    transport: u16,
    /// Length of the packet from the transport header onwards.
    transport_len: u16,
    tags: u8,
    protocol: u8,
    fragment: Fragment,
    fault: Option<Malformed>,
}

const _: () = assert!(size_of::<Head>() <= 16, "it is passed on with every frame");

/// The part of a datagram that a packet contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    None,
    /// The first fragment, which contains the transport header. An IPv6 packet with a fragment header may also be the
    /// only fragment (RFC 6946).
    First,
    /// A later fragment.
    Later,
}

/// Position of the transport header of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportAt {
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Offset of the transport header in the frame.
    pub offset: usize,
    /// Length of the packet from the transport header onwards.
    pub len: usize,
}

impl Head {
    /// Parses the first bytes of a frame that is `frame_len` bytes long. [`fault`](Self::fault) returns the error, if
    /// there is one.
    #[inline]
    pub fn parse(bytes: &[u8], frame_len: usize) -> Self {
        Self::of_plain_ipv4(bytes, frame_len).unwrap_or_else(|| Self::of_any(bytes, frame_len))
    }

    /// Parses an IPv4 packet without tags, options or fragments in few instructions. Most frames are of this form.
    #[allow(clippy::cast_possible_truncation, reason = "a constant, and a length of 16 bits")]
    #[inline]
    fn of_plain_ipv4(bytes: &[u8], frame_len: usize) -> Option<Self> {
        const IP: usize = EthernetHeader::LEN;
        const VERSION_AND_LEN: u8 = 0x45;
        /// Mask of the "more fragments" flag and the fragment offset.
        const FRAGMENT: u16 = 0x3fff;
        let head: &[u8; IP + Ipv4Header::LEN] = bytes.first_chunk()?;
        let ethertype = be16(head, IP - 2);
        let payload = usize::from(be16(head, IP + 2)).checked_sub(Ipv4Header::LEN)?;
        let is_plain = ethertype == 0x0800
            && head[IP] == VERSION_AND_LEN
            && be16(head, IP + IPV4_FLAGS) & FRAGMENT == 0
            && IP + Ipv4Header::LEN + payload <= frame_len;
        is_plain.then_some(Self {
            outer: ethertype,
            ethertype,
            tci: 0,
            transport: (IP + Ipv4Header::LEN) as u16,
            transport_len: payload as u16,
            tags: 0,
            protocol: head[IP + 9],
            fragment: Fragment::None,
            fault: None,
        })
    }

    fn of_any(bytes: &[u8], frame_len: usize) -> Self {
        let mut head = Self::of_link(bytes);
        let at = head.packet();
        let packet = bytes.get(at..).unwrap_or_default();
        let available = frame_len.saturating_sub(at);
        match head.ethertype() {
            EtherType::Ipv4 => match Ipv4Header::parse(packet, available) {
                Ok(ip) => head.take_ipv4(at, &ip),
                Err(fault) => head.take_odd_ipv4(at, packet, fault),
            },
            EtherType::Ipv6 => match Ipv6Header::parse(packet, available) {
                Ok(ip) => head.take_ipv6(at, &ip),
                Err(fault) => head.take_odd_ipv6(at, packet, fault),
            },
            EtherType::Arp | EtherType::Other(_) => {}
        }
        head
    }

    /// Parses the Ethernet header and the tags alone.
    #[inline]
    pub fn of_link(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        let Some(ethernet) = bytes.first_chunk::<{ EthernetHeader::LEN }>() else {
            head.fault = Some(Malformed::Truncated);
            return head;
        };
        head.outer = be16(ethernet, EthernetHeader::LEN - 2);
        head.ethertype = head.outer;
        if is_tag(head.outer) {
            head.walk_tags(bytes);
        }
        head
    }

    #[cold]
    fn walk_tags(&mut self, bytes: &[u8]) {
        while self.tags < MAX_TAGS && is_tag(self.ethertype) {
            let Some(tag) = VlanTag::parse_at(bytes, self.packet() - 2) else {
                return;
            };
            if self.tags == 0 {
                self.tci = tag.tci;
            }
            self.ethertype = tag.inner;
            self.tags += 1;
        }
    }

    #[inline]
    fn take_ipv4(&mut self, at: usize, ip: &Ipv4Header) {
        self.take_ip(at + ip.header_len, ip.payload_len, ip.protocol, ip.fragment);
    }

    #[inline]
    fn take_ipv6(&mut self, at: usize, ip: &Ipv6Header) {
        self.take_ip(at + ip.header_len, ip.payload_len, ip.protocol, ip.fragment);
    }

    #[inline]
    fn take_ip(&mut self, transport: usize, len: usize, protocol: u8, fragment: Option<FragmentInfo>) {
        self.transport = u16::try_from(transport).unwrap_or(u16::MAX);
        self.transport_len = u16::try_from(len).unwrap_or(u16::MAX);
        self.protocol = protocol;
        self.fragment = match fragment {
            None => Fragment::None,
            Some(FragmentInfo { offset: 0, .. }) => Fragment::First,
            Some(_) => Fragment::Later,
        };
    }

    /// Handles a packet that is longer than its frame, whose headers may still be sound.
    #[cold]
    fn take_odd_ipv4(&mut self, at: usize, packet: &[u8], fault: Malformed) {
        if let Ok(ip) = Ipv4Header::parse(packet, usize::MAX) {
            self.take_ipv4(at, &ip);
        }
        self.fault = Some(fault);
    }

    #[cold]
    fn take_odd_ipv6(&mut self, at: usize, packet: &[u8], fault: Malformed) {
        if let Ok(ip) = Ipv6Header::parse(packet, usize::MAX) {
            self.take_ipv6(at, &ip);
        }
        self.fault = Some(fault);
    }

    /// The error in the Ethernet or IP headers, if there is one.
    #[inline]
    pub const fn fault(&self) -> Option<Malformed> {
        self.fault
    }

    /// The type field of the Ethernet header: the EtherType, or that of the first tag.
    #[inline]
    pub const fn outer(&self) -> u16 {
        self.outer
    }

    /// EtherType after up to two tags. If there are more tags, or the frame ends inside a tag, it is the type of a tag.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        self.ethertype.into()
    }

    /// Number of tags before the packet.
    #[inline]
    pub const fn tags(&self) -> u8 {
        self.tags
    }

    /// Control information of the first tag; 0 without a tag.
    #[inline]
    pub const fn tci(&self) -> u16 {
        self.tci
    }

    /// Offset of the packet after the Ethernet header and the tags.
    #[inline]
    pub const fn packet(&self) -> usize {
        EthernetHeader::LEN + self.tags as usize * VlanTag::LEN
    }

    /// Position of the transport header, if this is IP and its headers are sound. It may lie beyond the frame only if
    /// there is a [`fault`](Self::fault).
    #[inline]
    pub const fn transport(&self) -> Option<TransportAt> {
        if self.transport == 0 {
            return None;
        }
        Some(TransportAt {
            protocol: self.protocol,
            offset: self.transport as usize,
            len: self.transport_len as usize,
        })
    }

    /// Position of the transport header, if the packet is sound and not a fragment.
    #[inline]
    pub fn whole_transport(&self) -> Option<TransportAt> {
        self.transport()
            .filter(|_| self.fault().is_none() && !self.is_fragment())
    }

    /// The part of a datagram that the packet contains.
    #[inline]
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// True for a packet that is only part of a datagram, or that has a fragment header.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.fragment, Fragment::None)
    }

    /// The source MAC, if the frame contains it.
    #[inline]
    pub fn source_mac(&self, bytes: &[u8]) -> Option<MacAddr> {
        Some(MacAddr(*bytes.get(EthernetHeader::SRC)?.first_chunk()?))
    }

    /// The destination MAC, if the frame contains it.
    #[inline]
    pub fn destination_mac(&self, bytes: &[u8]) -> Option<MacAddr> {
        Some(MacAddr(*bytes.get(EthernetHeader::DST)?.first_chunk()?))
    }

    /// Source and destination addresses, if this is IPv4 with sound headers.
    #[inline]
    pub fn ipv4_addresses(&self, bytes: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let is_ipv4 = self.transport != 0 && self.ethertype() == EtherType::Ipv4;
        let at = self.packet() + IPV4_SOURCE;
        let both: &[u8; 8] = bytes.get(at..)?.first_chunk()?;
        is_ipv4.then(|| (be32(both, 0).into(), be32(both, 4).into()))
    }

    /// Source and destination addresses, if this is IPv6 with sound headers.
    #[inline]
    pub fn ipv6_addresses(&self, bytes: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
        let is_ipv6 = self.transport != 0 && self.ethertype() == EtherType::Ipv6;
        let at = self.packet() + IPV6_SOURCE;
        let both: &[u8; 32] = bytes.get(at..)?.first_chunk()?;
        let (src, dst): (&[u8; 16], &[u8; 16]) = (both.first_chunk()?, both.last_chunk()?);
        is_ipv6.then(|| ((*src).into(), (*dst).into()))
    }

    /// Source and destination addresses, if this is IP with sound headers.
    #[inline]
    pub fn addresses(&self, bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
        match self.ethertype() {
            EtherType::Ipv4 => self.ipv4_addresses(bytes).map(|(src, dst)| (src.into(), dst.into())),
            EtherType::Ipv6 => self.ipv6_addresses(bytes).map(|(src, dst)| (src.into(), dst.into())),
            EtherType::Arp | EtherType::Other(_) => None,
        }
    }

    /// TTL or hop limit of an IP packet.
    #[inline]
    pub fn ttl(&self, bytes: &[u8]) -> Option<u8> {
        match self.ethertype() {
            EtherType::Ipv4 => bytes.get(self.packet() + IPV4_TTL).copied(),
            EtherType::Ipv6 => bytes.get(self.packet() + IPV6_HOP_LIMIT).copied(),
            EtherType::Arp | EtherType::Other(_) => None,
        }
    }

    /// DSCP and ECN: the TOS of IPv4 or the traffic class of IPv6 (RFC 2474, RFC 3168). 0 if this is not IP.
    #[inline]
    pub fn traffic_class(&self, bytes: &[u8]) -> u8 {
        let at = self.packet();
        let &[first, second] = bytes.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 2]);
        match self.ethertype() {
            EtherType::Ipv4 => second,
            EtherType::Ipv6 => first << 4 | second >> 4,
            EtherType::Arp | EtherType::Other(_) => 0,
        }
    }

    /// True for an IPv4 packet with the "do not fragment" flag.
    #[inline]
    pub fn is_unfragmentable(&self, bytes: &[u8]) -> bool {
        let flags = bytes.get(self.packet() + IPV4_FLAGS);
        self.ethertype() == EtherType::Ipv4 && flags.is_some_and(|flags| flags & DONT_FRAGMENT != 0)
    }

    /// True for an IPv4 packet with IP options.
    #[inline]
    pub fn has_ipv4_options(&self) -> bool {
        let plain = self.packet() + Ipv4Header::LEN;
        self.ethertype() == EtherType::Ipv4 && usize::from(self.transport) > plain
    }

    /// The part of `bytes` that begins with the transport header.
    #[inline]
    pub fn transport_bytes<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let at = usize::from(self.transport);
        let end = (at + usize::from(self.transport_len)).min(bytes.len());
        match self.transport {
            0 => &[],
            _ => bytes.get(at..end).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
