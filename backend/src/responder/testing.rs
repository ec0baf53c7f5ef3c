//! Frames from a guest to its gateway, for tests and fuzz targets.

use super::{Convention, ServiceConfig, Station};
use crate::config::{GATEWAY_MAC, Ipv4Link, Ipv6Link, NameConfig, Neighbourhood};
use crate::packet::checksum::{self, Sum};
use crate::packet::{
    EtherType, EthernetHeader, Headers, IcmpHeader, Ipv4Header, Ipv6Header, MacAddr, Network, UdpHeader, icmp, protocol,
};
use dhcproto::{Encodable, v4, v6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The guest's MAC.
pub const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
const GUEST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));

/// KubeVirt's default networks, with names like those of a pod.
#[allow(clippy::missing_panics_doc, reason = "constant texts")]
pub fn config() -> ServiceConfig {
    ServiceConfig {
        gateway: GATEWAY_MAC,
        station: Station::Router,
        autoconfigures: true,
        convention: Convention::KubeVirt,
        neighbourhood: Neighbourhood::Private,
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
        aliases: vec![IpAddr::from([10, 0, 2, 7]), IpAddr::V6(addr6("fd10:0:2::7"))],
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
            domain: None,
            dhcp_options: Vec::new(),
        },
        mtu: 1500,
        held: std::sync::Arc::default(),
        advertise: true,
    }
}

pub(crate) fn addr6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// An Ethernet frame from the guest to `dst`.
pub(crate) fn frame(dst: MacAddr, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
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

/// An IP packet from the guest in its frame. Its hop limit is 255, as neighbour discovery requires.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
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

/// A UDP datagram from the guest. Its checksum is left to the device, as with checksum offload.
pub(crate) fn udp(src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
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

/// An ICMP or ICMPv6 message from the guest: `header` followed by `body`.
pub(crate) fn icmp_message(src: IpAddr, dst: IpAddr, header: IcmpHeader, body: &[u8]) -> Vec<u8> {
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

/// A name and a valid frame for each kind of request that a service answers.
pub fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let echo = |kind| IcmpHeader::echo(kind, 7, 9);
    let link_local = IpAddr::V6(GUEST_MAC.link_local());
    let gateway6 = IpAddr::V6(addr6("fd10:0:2::1"));
    let all_routers = IpAddr::V6(addr6("ff02::2"));
    let source_option = [&[1, 1][..], &GUEST_MAC.0].concat();
    let solicited = [&addr6("fd10:0:2::1").octets()[..], &source_option].concat();
    let icmp6 = |kind| IcmpHeader {
        kind,
        ..IcmpHeader::default()
    };
    let mut requests = vec![
        ("arp", arp(1, [10, 0, 2, 2], [10, 0, 2, 1])),
        (
            "echo4",
            icmp_message(GUEST4, GATEWAY4, echo(icmp::v4::ECHO_REQUEST), b"hello"),
        ),
        (
            "echo6",
            icmp_message(link_local, gateway6, echo(icmp::v6::ECHO_REQUEST), b"hello"),
        ),
        (
            "neighbour_solicitation",
            icmp_message(
                link_local,
                gateway6,
                icmp6(icmp::v6::NEIGHBOUR_SOLICITATION),
                &solicited,
            ),
        ),
        (
            "router_solicitation",
            icmp_message(
                link_local,
                all_routers,
                icmp6(icmp::v6::ROUTER_SOLICITATION),
                &source_option,
            ),
        ),
    ];
    requests.extend(dhcp4_requests());
    requests.extend(dhcp6_requests());
    requests
}

/// An ARP packet with a target hardware address of zero.
pub(crate) fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(GUEST_MAC.0);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend(target);
    // Minimum Ethernet payload: 46 bytes.
    packet.resize(46, 0);
    frame(MacAddr::BROADCAST, EtherType::Arp, &packet)
}

fn dhcp4_requests() -> Vec<(&'static str, Vec<u8>)> {
    use v4::{DhcpOption as O, MessageType as T, OptionCode as C};
    let any = Ipv4Addr::UNSPECIFIED;
    let guest = O::RequestedIpAddress(Ipv4Addr::new(10, 0, 2, 2));
    let other = O::RequestedIpAddress(Ipv4Addr::new(10, 0, 2, 3));
    let wishes = O::ParameterRequestList(vec![C::SubnetMask, C::Router, C::DomainNameServer, C::InterfaceMtu]);
    let id = O::ClientIdentifier([&[1][..], &GUEST_MAC.0].concat());
    let cases = [
        ("dhcp4_discover", T::Discover, vec![wishes, id, O::MaxMessageSize(1472)]),
        ("dhcp4_rapid_commit", T::Discover, vec![O::RapidCommit]),
        (
            "dhcp4_request",
            T::Request,
            vec![guest, O::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 1))],
        ),
        ("dhcp4_request_nak", T::Request, vec![other]),
        ("dhcp4_inform", T::Inform, vec![]),
    ];
    let frame_of = |(name, kind, options): (&'static str, T, Vec<O>)| {
        let mut message = v4::Message::new_with_id(0x1234_5678, any, any, any, any, &GUEST_MAC.0);
        if kind == T::Inform {
            message.set_ciaddr(Ipv4Addr::new(10, 0, 2, 2));
        }
        message.set_opts(options.into_iter().chain([O::MessageType(kind)]).collect());
        let payload = message.to_vec().expect("a message");
        (name, udp(any.into(), Ipv4Addr::BROADCAST.into(), (68, 67), &payload))
    };
    cases.into_iter().map(frame_of).collect()
}

fn dhcp6_requests() -> Vec<(&'static str, Vec<u8>)> {
    use v6::{DhcpOption as O, MessageType as T};
    let duid = |mac: MacAddr| [&[0, 3, 0, 1][..], &mac.0].concat();
    let client = O::ClientId(duid(GUEST_MAC));
    let server = O::ServerId(duid(GATEWAY_MAC));
    let address = O::IAAddr(v6::IAAddr {
        addr: addr6("fd10:0:2::2"),
        preferred_life: 0,
        valid_life: 0,
        opts: v6::DhcpOptions::new(),
    });
    let association = O::IANA(v6::IANA {
        id: 1,
        t1: 0,
        t2: 0,
        opts: [address].into_iter().collect(),
    });
    let prefix = O::IAPD(v6::IAPD {
        id: 2,
        t1: 0,
        t2: 0,
        opts: v6::DhcpOptions::new(),
    });
    let whole = vec![client.clone(), server, association.clone()];
    let solicit = vec![client.clone(), association.clone(), prefix];
    let cases = [
        ("dhcp6_solicit", T::Solicit, solicit.clone()),
        (
            "dhcp6_rapid_commit",
            T::Solicit,
            [&solicit[..], &[O::RapidCommit]].concat(),
        ),
        ("dhcp6_request", T::Request, whole.clone()),
        ("dhcp6_renew", T::Renew, whole.clone()),
        ("dhcp6_rebind", T::Rebind, vec![client.clone(), association.clone()]),
        ("dhcp6_confirm", T::Confirm, vec![client, association]),
        ("dhcp6_release", T::Release, whole.clone()),
        ("dhcp6_decline", T::Decline, whole),
        ("dhcp6_information_request", T::InformationRequest, vec![]),
    ];
    let frame_of = |(name, kind, options): (&'static str, T, Vec<O>)| {
        let mut payload = vec![kind.into(), 1, 2, 3];
        let options: v6::DhcpOptions = options.into_iter().collect();
        payload.extend(options.to_vec().expect("options"));
        let (src, dst) = (GUEST_MAC.link_local(), addr6("ff02::1:2"));
        (name, udp(src.into(), dst.into(), (546, 547), &payload))
    };
    cases.into_iter().map(frame_of).collect()
}

/// Corrects the lengths and checksums in a frame, so that a mutated frame passes the first checks.
pub fn repair(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(EthernetHeader::LEN..) else {
        return;
    };
    let Ok(total) = u16::try_from(packet.len()) else { return };
    match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= Ipv4Header::LEN => {
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[10..12].fill(0);
            let header_len = (usize::from(packet[0] & 0xf) * 4).min(packet.len());
            let sum = checksum::of(&packet[..header_len]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(6) if packet.len() >= Ipv6Header::LEN => {
            packet[4..6].copy_from_slice(&(total - 40).to_be_bytes());
        }
        _ => return,
    }
    let Ok(headers) = Headers::parse(frame, frame.len()) else {
        return;
    };
    let (Some((protocol, offset, len)), Some((src, dst))) = (headers.network.transport(), headers.network.addresses())
    else {
        return;
    };
    let message = &mut frame[offset..];
    match protocol {
        protocol::UDP if len >= UdpHeader::LEN => {
            let length = u16::try_from(len).unwrap_or(u16::MAX);
            message[4..6].copy_from_slice(&length.to_be_bytes());
        }
        protocol::ICMP | protocol::ICMPV6 if len >= IcmpHeader::LEN => icmp::fill_checksum(src, dst, message),
        _ => {}
    }
}

/// Asserts the properties of every frame to the guest: headers that parse, the packet's length, a gateway address as
/// source, and correct checksums.
///
/// # Panics
/// If a property does not hold for the link of [`config`].
pub fn check_reply(frame: &[u8]) {
    check_reply_from(frame, &[]);
}

/// The same, if these servers besides the gateway may be the source.
///
/// # Panics
/// As [`check_reply`].
pub fn check_reply_from(frame: &[u8], servers: &[(MacAddr, IpAddr)]) {
    let headers = Headers::parse(frame, frame.len()).expect("a sound frame");
    let source = headers.network.addresses().map(|(src, _)| src);
    let mut of_server = servers.iter().map(|(mac, address)| (*mac, Some(*address)));
    let is_server = of_server.any(|server| server == (headers.ethernet.src, source));
    assert!(
        is_server || headers.ethernet.src == GATEWAY_MAC,
        "{}",
        headers.ethernet.src
    );
    let Some((protocol, offset, len)) = headers.network.transport() else {
        assert_eq!(headers.network, Network::Arp);
        return;
    };
    assert_eq!(offset + len, frame.len(), "nothing after the packet");
    let (src, dst) = headers.network.addresses().expect("IP");
    let gateway = ["10.0.2.1", "fd10:0:2::1", "fe80::ff:fe00:0"].map(|a| a.parse::<IpAddr>().expect("an address"));
    assert!(
        is_server || gateway.contains(&src) || config().aliases.contains(&src),
        "{src}"
    );
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
