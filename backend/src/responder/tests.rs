//! A guest that talks to the services, in virtual time.

mod dhcp4;
mod link;

use super::*;
use crate::config::GATEWAY_MAC;
use crate::counters::Count;
use crate::packet::checksum::Sum;
use crate::packet::{EtherType, EthernetHeader, IcmpHeader, UdpHeader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(super) const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const START: Instant = Instant::from_nanos(1_000_000_000);

pub(super) fn config() -> ServiceConfig {
    ServiceConfig {
        ipv4: Some(Ipv4Link {
            network: "10.0.2.0/24".parse().expect("a network"),
            gateway: Ipv4Addr::new(10, 0, 2, 1),
            guest: Ipv4Addr::new(10, 0, 2, 2),
        }),
        ipv6: Some(Ipv6Link {
            network: "fd10:0:2::/120".parse().expect("a network"),
            gateway: addr6("fd10:0:2::1"),
            guest: addr6("fd10:0:2::2"),
        }),
        names: NameConfig {
            hostname: Some("vm-1".to_owned()),
            dns: vec![
                IpAddr::from([10, 96, 0, 10]),
                IpAddr::V6(addr6("fd00::a")),
                IpAddr::from([10, 96, 0, 11]),
            ],
            search: ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                .map(str::to_owned)
                .to_vec(),
        },
        mtu: 1500,
    }
}

fn addr6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// The services under test with everything around them.
struct Bench {
    responders: Responders,
    counters: Counters,
    replies: Replies,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: ServiceConfig) -> Self {
        Self {
            responders: Responders::new(config),
            counters: Counters::default(),
            replies: Replies::default(),
            now: START,
        }
    }

    /// Gives `frame` to the services as the mode would; returns verdict and replies,
    /// after checking what must hold for every reply.
    fn send(&mut self, frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
        self.replies.clear();
        let head = &frame[..frame.len().min(crate::frame::HEAD_MAX)];
        let wanted = Headers::parse(head, frame.len()).is_ok_and(|h| self.responders.wants(&h, head));
        let answer = self
            .responders
            .answer(self.now, GUEST_MAC, frame, &self.counters, &mut self.replies);
        if matches!(answer, Answer::Done) {
            assert!(wanted, "answered though not wanted: {frame:02x?}");
        } else {
            assert!(self.replies.is_empty(), "{answer:?} with replies");
        }
        (answer, self.take())
    }

    /// The one reply to `frame`.
    fn reply_to(&mut self, frame: &[u8]) -> Vec<u8> {
        let (answer, mut replies) = self.send(frame);
        assert_eq!(answer, Answer::Done);
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }

    /// Asserts that `frame` is dealt with, without a reply.
    #[track_caller]
    fn silence(&mut self, frame: &[u8]) {
        assert_eq!(self.send(frame), (Answer::Done, vec![]));
    }

    /// Asserts that `frame` is refused.
    #[track_caller]
    fn refused(&mut self, frame: &[u8], reason: DropReason) {
        assert_eq!(self.send(frame), (Answer::Refused(reason), vec![]));
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let replies: Vec<_> = self.replies.iter().map(<[u8]>::to_vec).collect();
        self.replies.clear();
        for reply in &replies {
            check_reply(reply);
        }
        replies
    }
}

/// What holds for every frame to the guest: headers that parse, a length that is the
/// packet's, addresses of the gateway as source, right checksums.
fn check_reply(frame: &[u8]) {
    let headers = Headers::parse(frame, frame.len()).expect("a sound frame");
    assert_eq!(headers.ethernet.src, GATEWAY_MAC);
    let Some((protocol, offset, len)) = headers.network.transport() else {
        assert_eq!(headers.network, Network::Arp);
        return;
    };
    assert_eq!(offset + len, frame.len(), "nothing after the packet");
    let (src, dst) = headers.network.addresses().expect("IP");
    let gateway = ["10.0.2.1", "fd10:0:2::1", "fe80::ff:fe00:0"].map(|a| a.parse::<IpAddr>().expect("an address"));
    assert!(gateway.contains(&src), "{src}");
    assert!(!dst.is_unspecified(), "{dst}");
    let payload = &frame[offset..];
    match protocol {
        protocol::UDP => {
            let udp = UdpHeader::parse(payload, len, false).expect("UDP");
            assert_eq!(udp.payload_len + UdpHeader::LEN, len);
            let sum = Sum::default().bytes(payload).pseudo_header(src, dst, protocol, len);
            assert_eq!(sum.finish(), 0, "UDP checksum");
            assert_ne!(payload[6..8], [0, 0], "UDP without a checksum");
        }
        protocol::ICMP | protocol::ICMPV6 => assert!(icmp::checksum_ok(src, dst, payload), "ICMP checksum"),
        other => panic!("protocol {other}"),
    }
}

/// An Ethernet frame of the guest to `dst`.
fn frame(dst: MacAddr, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; EthernetHeader::LEN];
    let header = EthernetHeader {
        dst,
        src: GUEST_MAC,
        ethertype,
    };
    header.emit(&mut bytes);
    bytes.extend(packet);
    bytes
}

/// An IP packet of the guest in its frame. Hop limit 255, as neighbour discovery wants.
fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4Header {
                src,
                dst,
                protocol,
                ttl: 255,
                tos: 0,
                dont_fragment: false,
                fragment: None,
                header_len: Ipv4Header::LEN,
                payload_len: payload.len(),
            };
            let mut packet = vec![0; Ipv4Header::LEN];
            header.emit(&mut packet);
            packet.extend(payload);
            frame(GATEWAY_MAC, EtherType::Ipv4, &packet)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header {
                src,
                dst,
                protocol,
                hop_limit: 255,
                traffic_class: 0,
                fragment: None,
                header_len: Ipv6Header::LEN,
                payload_len: payload.len(),
            };
            let mut packet = vec![0; Ipv6Header::LEN];
            header.emit(&mut packet);
            packet.extend(payload);
            frame(GATEWAY_MAC, EtherType::Ipv6, &packet)
        }
        _ => panic!("{src} and {dst}"),
    }
}

/// A UDP datagram of the guest. Its checksum is left undone, as with checksum offload.
fn udp(src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader {
        src_port: ports.0,
        dst_port: ports.1,
        payload_len: payload.len(),
    };
    let mut datagram = vec![0; UdpHeader::LEN];
    header.emit(&mut datagram, 0xbad0);
    datagram.extend(payload);
    ip(src, dst, protocol::UDP, &datagram)
}

/// An ICMP or ICMPv6 message of the guest: header, then `body`.
fn icmp_message(src: IpAddr, dst: IpAddr, header: IcmpHeader, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; IcmpHeader::LEN];
    header.emit(&mut message, 0);
    message.extend(body);
    icmp::fill_checksum(src, dst, &mut message);
    let protocol = if src.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    ip(src, dst, protocol, &message)
}
