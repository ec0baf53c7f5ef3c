//! Collects frames to the guest in one buffer that is reused.

use crate::config::GATEWAY_MAC;
use crate::packet::checksum::Sum;
use crate::packet::{EtherType, EthernetHeader, Ipv4Header, Ipv6Header, MacAddr, UdpHeader, icmp, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whole frames, each with its Ethernet header and complete checksums.
#[derive(Debug)]
pub struct Replies {
    /// MAC of the gateway.
    pub(super) gateway: MacAddr,
    /// Source MAC of the frame added next.
    source: MacAddr,
    bytes: Vec<u8>,
    /// End of each frame, as an offset in `bytes`.
    ends: Vec<usize>,
}

impl Default for Replies {
    fn default() -> Self {
        Self::of(GATEWAY_MAC)
    }
}

impl Replies {
    /// An empty buffer for replies from the gateway with this MAC.
    pub const fn of(gateway: MacAddr) -> Self {
        Self {
            gateway,
            source: gateway,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Lets `reply` add frames with this source MAC.
    pub(super) fn as_station(&mut self, mac: MacAddr, reply: impl FnOnce(&mut Self)) {
        self.source = mac;
        reply(self);
        self.source = self.gateway;
    }

    /// Removes all frames and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// True if the buffer contains no frame.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of frames.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// The frames, in the order in which they are sent.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// Adds a frame: writes the Ethernet header and returns the `len` zeroed bytes after it.
    pub(super) fn ethernet(&mut self, dst: MacAddr, ethertype: EtherType, len: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.resize(start + EthernetHeader::LEN + len, 0);
        self.ends.push(self.bytes.len());
        let header = EthernetHeader {
            dst,
            src: self.source,
            ethertype,
        };
        header.emit(&mut self.bytes[start..]);
        &mut self.bytes[start + EthernetHeader::LEN..]
    }

    fn ip<A: Family>(&mut self, route: &Route<A>, protocol: u8, len: usize) -> &mut [u8] {
        let packet = self.ethernet(route.mac, A::ETHERTYPE, A::HEADER_LEN + len);
        A::emit(route, protocol, len, packet);
        &mut packet[A::HEADER_LEN..]
    }

    /// Adds an ICMP or ICMPv6 message of `len` bytes; `write` fills in everything but the checksum.
    pub(super) fn icmp<A: Family>(&mut self, route: &Route<A>, len: usize, write: impl FnOnce(&mut [u8])) {
        let message = self.ip(route, A::ICMP, len);
        write(message);
        icmp::fill_checksum(route.src.into(), route.dst.into(), message);
    }

    /// Adds a UDP datagram.
    pub(super) fn udp<A: Family>(&mut self, route: &Route<A>, ports: Ports, payload: &[u8]) {
        let datagram = self.ip(route, protocol::UDP, UdpHeader::LEN + payload.len());
        fill_udp(datagram, route.src.into(), route.dst.into(), ports, payload);
    }
}

/// Addresses and hop limit of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<A> {
    /// Destination MAC.
    pub mac: MacAddr,
    /// Source address, one of the gateway's.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

/// Source and destination port of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub src: u16,
    pub dst: u16,
}

/// Differences between IPv4 and IPv6 packets.
pub(super) trait Family: Copy + Into<IpAddr> {
    const ETHERTYPE: EtherType;
    /// Length of a header without options or extensions, in bytes.
    const HEADER_LEN: usize;
    /// Protocol number of ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;

    /// Writes the header of a packet with `len` bytes after it.
    fn emit(route: &Route<Self>, protocol: u8, len: usize, out: &mut [u8]);
}

impl Family for Ipv4Addr {
    const ETHERTYPE: EtherType = EtherType::Ipv4;
    const HEADER_LEN: usize = Ipv4Header::LEN;
    const ICMP: u8 = protocol::ICMP;
    const ECHO_REQUEST: u8 = icmp::v4::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::v4::ECHO_REPLY;

    fn emit(route: &Route<Self>, protocol: u8, len: usize, out: &mut [u8]) {
        let header = Ipv4Header {
            src: route.src,
            dst: route.dst,
            protocol,
            ttl: route.hop_limit,
            tos: 0,
            dont_fragment: true,
            fragment: None,
            header_len: Self::HEADER_LEN,
            payload_len: len,
        };
        header.emit(out);
    }
}

impl Family for Ipv6Addr {
    const ETHERTYPE: EtherType = EtherType::Ipv6;
    const HEADER_LEN: usize = Ipv6Header::LEN;
    const ICMP: u8 = protocol::ICMPV6;
    const ECHO_REQUEST: u8 = icmp::v6::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::v6::ECHO_REPLY;

    fn emit(route: &Route<Self>, protocol: u8, len: usize, out: &mut [u8]) {
        let header = Ipv6Header {
            src: route.src,
            dst: route.dst,
            protocol,
            hop_limit: route.hop_limit,
            traffic_class: 0,
            fragment: None,
            header_len: Self::HEADER_LEN,
            payload_len: len,
        };
        header.emit(out);
    }
}

fn fill_udp(datagram: &mut [u8], src: IpAddr, dst: IpAddr, ports: Ports, payload: &[u8]) {
    let header = UdpHeader {
        src_port: ports.src,
        dst_port: ports.dst,
        payload_len: payload.len(),
    };
    datagram[UdpHeader::LEN..].copy_from_slice(payload);
    header.emit(datagram, 0);
    let sum = Sum::default()
        .bytes(datagram)
        .pseudo_header(src, dst, protocol::UDP, datagram.len());
    header.emit(datagram, sum.finish_nonzero());
}
