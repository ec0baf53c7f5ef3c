//! Fixtures for the tests of NAT's protocols: a guest in memory with the default addresses, and the host's loopback at
//! `.9` and `::9`.

pub(crate) use super::testing::{GUEST_MAC, Surroundings};
use crate::config::MasqueradeConfig;
use crate::frame::testing::Delivered;
use crate::frame::{Checksum, GuestFrame, GuestSlice, HEAD_MAX, Offload};
use crate::nat::link::Link;
use crate::packet::checksum::Sum;
use crate::packet::{
    EtherType, EthernetHeader, FragmentInfo, Head, Headers, IcmpHeader, Ipv4Header, Ipv6Header, Network, UdpHeader,
    protocol,
};
use crate::poller::{EventBuffer, Readiness, Token};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Parses an address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address of the host's loopback as the guest sees it, with a port, in the family of `like`.
pub(crate) fn host_seen(like: IpAddr, port: u16) -> SocketAddr {
    let text = if like.is_ipv4() { "10.0.2.9" } else { "fd10:0:2::9" };
    SocketAddr::new(ip(text), port)
}

/// The guest's address in the family of `like`, with a port.
pub(crate) fn guest(like: IpAddr, port: u16) -> SocketAddr {
    let text = if like.is_ipv4() { "10.0.2.2" } else { "fd10:0:2::2" };
    SocketAddr::new(ip(text), port)
}

impl Surroundings {
    pub(crate) fn new() -> Self {
        Self::with_config(|_| {})
    }

    pub(crate) fn with_config(change: impl FnOnce(&mut MasqueradeConfig)) -> Self {
        Self::make(|config| {
            config.map_host_loopback = vec![ip("10.0.2.9"), ip("fd10:0:2::9")];
            change(config);
        })
        .unwrap()
    }

    /// Waits for events of sockets, at most a few seconds.
    pub(crate) fn events(&self) -> Vec<(Token, Readiness)> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let started = std::time::Instant::now();
        let mut events = Vec::new();
        let mut buffer = EventBuffer::with_capacity(16);
        // A wait may end early without an event.
        while events.is_empty() && started.elapsed() < PATIENCE {
            self.poller
                .wait(&mut buffer, Some(PATIENCE), |token, ready| events.push((token, ready)))
                .unwrap();
        }
        events
    }
}

/// A frame with Ethernet and network headers, followed by `rest`.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; Link::header_len(src)];
    let ethertype = if src.is_ipv4() {
        EtherType::Ipv4
    } else {
        EtherType::Ipv6
    };
    EthernetHeader {
        dst: crate::config::GATEWAY_MAC,
        src: GUEST_MAC,
        ethertype,
    }
    .emit(&mut frame);
    let network = &mut frame[EthernetHeader::LEN..];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4Header {
            src,
            dst,
            protocol,
            ttl,
            tos: 0,
            dont_fragment: true,
            fragment: None,
            header_len: Ipv4Header::LEN,
            payload_len: rest.len(),
        }
        .emit(network),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Header {
            src,
            dst,
            protocol,
            hop_limit: ttl,
            traffic_class: 0,
            fragment: None,
            header_len: Ipv6Header::LEN,
            payload_len: rest.len(),
        }
        .emit(network),
        _ => panic!("families differ"),
    }
    frame.extend_from_slice(rest);
    frame
}

/// Sets DSCP and ECN of a frame without a VLAN tag.
pub(crate) fn mark(frame: &mut [u8], class: u8) {
    let network = &mut frame[EthernetHeader::LEN..];
    if network[0] >> 4 == 4 {
        network[1] = class;
    } else {
        network[0] = 0x60 | class >> 4;
        network[1] = network[1] & 0x0f | class << 4;
    }
}

/// A UDP datagram of the guest as a frame.
pub(crate) fn udp_frame(src: SocketAddr, dst: SocketAddr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; UdpHeader::LEN];
    UdpHeader {
        src_port: src.port(),
        dst_port: dst.port(),
        payload_len: payload.len(),
    }
    .emit(&mut rest, 0);
    rest.extend_from_slice(payload);
    packet(src.ip(), dst.ip(), protocol::UDP, ttl, &rest)
}

/// Presents frames as the worker would, each split into two slices.
pub(crate) fn with_burst<R>(frames: &[Vec<u8>], f: impl FnOnce(&[GuestFrame<'_>]) -> R) -> R {
    let slices: Vec<[GuestSlice<'_>; 2]> = frames
        .iter()
        .map(|bytes| {
            let (a, b) = bytes.split_at(bytes.len() / 2);
            [GuestSlice::from_bytes(a), GuestSlice::from_bytes(b)]
        })
        .collect();
    let burst: Vec<GuestFrame<'_>> = frames
        .iter()
        .zip(&slices)
        .map(|(bytes, slices)| GuestFrame {
            head: &bytes[..bytes.len().min(HEAD_MAX)],
            parsed: Head::parse(&bytes[..bytes.len().min(HEAD_MAX)], bytes.len()),
            slices,
            len: bytes.len(),
            offload: Offload::NONE,
        })
        .collect();
    f(&burst)
}

/// DSCP and ECN of a frame's packet.
pub(crate) fn traffic_class(frame: &[u8]) -> u8 {
    Head::parse(frame, frame.len()).traffic_class(frame)
}

/// The headers of a frame, and the bytes after the network header.
pub(crate) fn parse(frame: &[u8]) -> (Headers, &[u8]) {
    let headers = Headers::parse(&frame[..frame.len().min(HEAD_MAX)], frame.len()).unwrap();
    let (_, at, len) = headers.network.transport().unwrap();
    assert_eq!(at + len, frame.len(), "the IP length is that of the frame");
    (headers, &frame[at..])
}

/// The position of a fragment.
pub(crate) fn fragment_info(headers: &Headers) -> Option<FragmentInfo> {
    match headers.network {
        Network::Ipv4(h) => h.fragment,
        Network::Ipv6(h) => h.fragment,
        _ => None,
    }
}

/// Splits a UDP frame into its endpoints and payload. Checks lengths and checksum.
pub(crate) fn udp_datagram(delivered: &Delivered) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (headers, rest) = parse(&delivered.bytes);
    let (src, dst) = headers.network.addresses().unwrap();
    let (protocol, at, len) = headers.network.transport().unwrap();
    assert_eq!(protocol, protocol::UDP);
    let udp = UdpHeader::parse(rest, len, false).unwrap();
    let pseudo = Sum::default().pseudo_header(src, dst, protocol::UDP, len);
    match delivered.offload.checksum {
        Checksum::Partial { start, offset } => {
            assert_eq!((usize::from(start), offset), (at, 6));
            assert_eq!(rest[6..8], pseudo.fold().to_be_bytes());
        }
        Checksum::Complete => assert_eq!(pseudo.bytes(rest).finish(), 0, "checksum"),
        Checksum::Valid => panic!("nothing to rely on"),
    }
    let payload = rest[UdpHeader::LEN..].to_vec();
    assert_eq!(udp.payload_len, payload.len());
    (
        SocketAddr::new(src, udp.src_port),
        SocketAddr::new(dst, udp.dst_port),
        payload,
    )
}

/// Splits an ICMP frame into source, header and body. Checks the checksum.
pub(crate) fn icmp_message(delivered: &Delivered) -> (IpAddr, IcmpHeader, Vec<u8>) {
    let (headers, rest) = parse(&delivered.bytes);
    let (src, dst) = headers.network.addresses().unwrap();
    assert!(crate::packet::icmp::checksum_ok(src, dst, rest), "ICMP checksum");
    let header = IcmpHeader::parse(rest).unwrap();
    (src, header, rest[IcmpHeader::LEN..].to_vec())
}
