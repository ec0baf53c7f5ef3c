//! Tests of the claims of guests: addresses, and the roles of a router and a DHCP server.

use super::*;
use crate::config::{Ipv6Link, SecondaryNetwork};
use crate::frame::GuestSlice;
use crate::packet::{EtherType, EthernetHeader, Ipv4Header, Ipv6Header, UdpHeader, icmp, protocol};
use crate::sys::send_batch::SendBatch;
use std::net::Ipv6Addr;

/// A third guest, which has its own endpoint.
const THIRD: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const GATEWAY: MacAddr = MacAddr([0x0a, 0x58, 192, 0, 2, 254]);

fn ip6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
}

fn dual(vtep: SocketAddr, mac: MacAddr) -> PeerConfig {
    PeerConfig {
        addresses: vec![[192, 0, 2, mac.0[5]].into(), ip6(mac.0[5].into()).into()],
        ..peer(vtep, mac, [0; 4])
    }
}

fn primary(mac: MacAddr) -> NetworkRole {
    NetworkRole::Primary(PrimaryNetwork {
        ipv4: Some(Ipv4Link {
            network: "192.0.2.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(192, 0, 2, 254),
            guest: Ipv4Addr::new(192, 0, 2, mac.0[5]),
        }),
        ipv6: Some(Ipv6Link {
            network: "fd00::/64".parse().unwrap(),
            gateway: ip6(0xfe),
            guest: ip6(mac.0[5].into()),
        }),
        dns_forward: Vec::new(),
        forwards: Vec::new(),
        services: Vec::new(),
    })
}

/// A process whose guest has the MAC [`TO`], and the process's endpoint. [`FROM`] is behind 127.0.0.2 and [`THIRD`]
/// behind 127.0.0.4.
fn receiver(role: NetworkRole) -> (Station, SocketAddr) {
    let own = vtep(3);
    let peers = match &role {
        NetworkRole::Secondary(network) if network.ipv4.is_none() => {
            [(2, FROM), (4, THIRD)].map(|(host, mac)| PeerConfig {
                addresses: Vec::new(),
                ..peer(vtep(host), mac, [0; 4])
            })
        }
        _ => [dual(vtep(2), FROM), dual(vtep(4), THIRD)],
    };
    (Station::with_role(role, VNI, own, TO, peers.into()), own)
}

fn ethernet(src: MacAddr, dst: MacAddr, ethertype: EtherType) -> Vec<u8> {
    let mut frame = vec![0; EthernetHeader::LEN];
    EthernetHeader { dst, src, ethertype }.emit(&mut frame);
    frame
}

/// An ARP packet from [`FROM`] with these sender fields.
fn arp(operation: u16, sender_mac: MacAddr, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet(FROM, MacAddr::BROADCAST, EtherType::Arp);
    frame.resize(EthernetHeader::LEN + ArpPacket::LEN, 0);
    let packet = ArpPacket {
        operation,
        sender_mac,
        sender: sender.into(),
        target_mac: TO,
        target: target.into(),
    };
    packet.emit(&mut frame[EthernetHeader::LEN..]);
    frame
}

/// An IPv6 packet from [`FROM`] to the guest.
fn packet6(src: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(FROM, TO, EtherType::Ipv6);
    frame.resize(EthernetHeader::LEN + Ipv6Header::LEN, 0);
    Ipv6Header {
        src,
        dst: ip6(1),
        protocol,
        hop_limit: 255,
        traffic_class: 0,
        header_len: Ipv6Header::LEN,
        payload_len: payload.len(),
        fragment: None,
    }
    .emit(&mut frame[EthernetHeader::LEN..]);
    frame.extend(payload);
    frame
}

/// A message of neighbour discovery from [`FROM`] with a link-layer option.
fn neighbour(kind: u8, src: Ipv6Addr, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([
        if kind == icmp::v6::NEIGHBOUR_ADVERTISEMENT {
            2
        } else {
            1
        },
        1,
    ]);
    message.extend(mac.0);
    packet6(src, protocol::ICMPV6, &message)
}

fn advertisement(target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    neighbour(icmp::v6::NEIGHBOUR_ADVERTISEMENT, ip6(9), target, mac)
}

fn solicitation(src: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    neighbour(icmp::v6::NEIGHBOUR_SOLICITATION, src, ip6(1), mac)
}

/// A router advertisement, a redirect of each family, and answers of DHCP servers.
fn roles() -> [(Vec<u8>, DropReason); 5] {
    let link_local = FROM.link_local();
    let udp = |from, to| {
        let mut datagram = vec![0; UdpHeader::LEN + 8];
        let header = UdpHeader {
            src_port: from,
            dst_port: to,
            payload_len: 8,
        };
        header.emit(&mut datagram, 0);
        datagram
    };
    [
        (
            packet6(link_local, protocol::ICMPV6, &[icmp::v6::ROUTER_ADVERTISEMENT; 16]),
            DropReason::TunnelRouterGuard,
        ),
        (
            packet6(link_local, protocol::ICMPV6, &[icmp::v6::REDIRECT; 40]),
            DropReason::TunnelRouterGuard,
        ),
        (
            packet4(protocol::ICMP, &[5, 0, 0, 0, 0, 0, 0, 0]),
            DropReason::TunnelRouterGuard,
        ),
        (packet4(protocol::UDP, &udp(67, 68)), DropReason::TunnelDhcpGuard),
        (
            packet6(link_local, protocol::UDP, &udp(547, 546)),
            DropReason::TunnelDhcpGuard,
        ),
    ]
}

/// An IPv4 packet from [`FROM`] to the guest.
fn packet4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(FROM, TO, EtherType::Ipv4);
    frame.resize(EthernetHeader::LEN + Ipv4Header::LEN, 0);
    Ipv4Header {
        src: Ipv4Addr::new(192, 0, 2, 9),
        dst: Ipv4Addr::new(192, 0, 2, 1),
        protocol,
        ttl: 64,
        tos: 0,
        dont_fragment: true,
        fragment: None,
        header_len: Ipv4Header::LEN,
        payload_len: payload.len(),
    }
    .emit(&mut frame[EthernetHeader::LEN..]);
    frame.extend(payload);
    frame
}

/// Sends frames through the tunnel, one by one. Asserts that each is dropped for its reason, or reaches the guest if it
/// has none.
fn assert_each(cases: Vec<(Vec<u8>, Option<DropReason>)>, role: NetworkRole) {
    let (mut station, own) = receiver(role);
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    for (number, (frame, reason)) in cases.into_iter().enumerate() {
        let dropped = |station: &Station| reason.map_or(0, |reason| station.counters.dropped(reason));
        let before = dropped(&station);
        friend.send_to(&tunnelled(VNI, &frame), own).unwrap();
        let frames = match reason {
            Some(_) => station.until(|station| dropped(station) > before),
            None => station.until(|station| !station.sink.frames.is_empty()),
        };
        let bytes: Vec<_> = frames.into_iter().map(|frame| frame.bytes).collect();
        let expected: Vec<_> = std::iter::once(frame).filter(|_| reason.is_none()).collect();
        assert_eq!(bytes, expected, "case {number}");
    }
}

const OWN: [u8; 4] = [192, 0, 2, 9];
const TARGET: [u8; 4] = [192, 0, 2, 1];

#[test]
fn an_arp_packet_of_a_peers_guest_claims_no_address_but_its_own() {
    let spoofed = Some(DropReason::TunnelSpoofedArp);
    let mut cases = Vec::new();
    for operation in [ArpPacket::REQUEST, ArpPacket::REPLY] {
        let of = |mac, sender| arp(operation, mac, sender, TARGET);
        cases.push((of(FROM, OWN), None));
        cases.push((arp(operation, FROM, OWN, OWN), None));
        // The addresses of another guest, of the guest itself and of the gateway, an unassigned address, and another
        // MAC.
        for sender in [[192, 0, 2, 5], TARGET, [192, 0, 2, 254], [192, 0, 2, 77]] {
            cases.push((of(FROM, sender), spoofed));
        }
        cases.push((of(THIRD, OWN), spoofed));
        cases.push((of(GATEWAY, [192, 0, 2, 254]), spoofed));
    }
    // A probe makes no claim, whatever its target.
    cases.push((arp(ArpPacket::REQUEST, FROM, [0; 4], TARGET), None));
    cases.push((arp(ArpPacket::REPLY, FROM, [0; 4], TARGET), spoofed));
    let mut tagged = arp(ArpPacket::REPLY, FROM, [192, 0, 2, 5], TARGET);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    cases.push((tagged, spoofed));
    cases.push((ethernet(FROM, TO, EtherType::Arp), spoofed));
    assert_each(cases, primary(TO));
}

#[test]
fn a_neighbour_message_of_a_peers_guest_claims_no_address_but_its_own() {
    let spoofed = Some(DropReason::TunnelSpoofedNeighbour);
    let mut cases = Vec::new();
    // The third one is not made from a MAC: guests choose such addresses themselves.
    for own in [ip6(9), FROM.link_local(), "fe80::1:2:3:4".parse().unwrap()] {
        cases.push((advertisement(own, FROM), None));
        cases.push((solicitation(own, FROM), None));
        cases.push((advertisement(own, THIRD), spoofed));
        cases.push((solicitation(own, THIRD), spoofed));
    }
    let others = [ip6(5), ip6(1), ip6(0xfe), ip6(77)];
    let link_local = [THIRD, TO, GATEWAY].map(MacAddr::link_local);
    for other in others.into_iter().chain(link_local) {
        cases.push((advertisement(other, FROM), spoofed));
        cases.push((solicitation(other, FROM), spoofed));
    }
    // A probe has no source address and makes no claim.
    let probe = neighbour(icmp::v6::NEIGHBOUR_SOLICITATION, Ipv6Addr::UNSPECIFIED, ip6(1), FROM);
    cases.push((probe, None));
    assert_each(cases, primary(TO));
}

#[test]
fn a_peers_guest_is_neither_a_router_nor_a_dhcp_server_where_the_network_has_them() {
    let all = roles().map(|(frame, reason)| (frame, Some(reason)));
    assert_each(all.into(), primary(TO));
    // Without a gateway, a guest may be a router, but addresses are still assigned by the network.
    let secondary = |ipv4: Option<&str>, ipv6: Option<&str>| {
        NetworkRole::Secondary(SecondaryNetwork {
            ipv4: ipv4.map(|net| net.parse().unwrap()),
            ipv6: ipv6.map(|net| net.parse().unwrap()),
        })
    };
    let without_gateway =
        roles().map(|(frame, reason)| (frame, Some(reason).filter(|r| *r == DropReason::TunnelDhcpGuard)));
    assert_each(
        without_gateway.into(),
        secondary(Some("192.0.2.1/24"), Some("fd00::1/64")),
    );
    let without_subnet = roles().map(|(frame, _)| (frame, None));
    let free = [
        arp(ArpPacket::REPLY, FROM, [192, 0, 2, 254], TARGET),
        advertisement(ip6(0xfe), FROM),
    ];
    let all = without_subnet.into_iter().chain(free.map(|frame| (frame, None)));
    assert_each(all.collect(), secondary(None, None));
}

#[test]
fn a_host_behind_any_endpoint_may_claim_addresses_that_no_guest_has() {
    let own = vtep(3);
    let any = PeerConfig {
        macs: Vec::new(),
        addresses: Vec::new(),
        ..peer(vtep(2), FROM, [0; 4])
    };
    let peers = vec![any, dual(vtep(4), THIRD)];
    let mut station = Station::with_role(primary(TO), VNI, own, TO, peers);
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    let good = [
        arp(ArpPacket::REQUEST, FROM, [192, 0, 2, 77], TARGET),
        advertisement(ip6(77), FROM),
    ];
    let bad = [
        arp(ArpPacket::REQUEST, FROM, [192, 0, 2, 5], TARGET),
        advertisement(ip6(5), FROM),
    ];
    for frame in bad.iter().chain(&good) {
        friend.send_to(&tunnelled(VNI, frame), own).unwrap();
    }
    let frames = station.until(|station| station.sink.frames.len() == 2);
    assert_eq!(frames.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>(), good);
    assert_eq!(station.counters.dropped(DropReason::TunnelSpoofedArp), 1);
    assert_eq!(station.counters.dropped(DropReason::TunnelSpoofedNeighbour), 1);
}

#[test]
fn answers_to_a_host_behind_any_endpoint_go_where_it_was_heard_and_nowhere_else() {
    let (own, a, b) = (vtep(3), vtep(2), vtep(4));
    let any = |vtep| PeerConfig {
        macs: Vec::new(),
        addresses: Vec::new(),
        ..peer(vtep, FROM, [0; 4])
    };
    let mut station = Station::with_role(primary(TO), VNI, own, TO, vec![any(a), any(b)]);
    let [first, second] = [a, b].map(|vtep| UdpSocket::bind(vtep).unwrap());
    second.set_nonblocking(true).unwrap();
    let mut answer = Udp::new(&[3; 40]).bytes();
    answer[..6].copy_from_slice(&FROM.0);
    answer[6..12].copy_from_slice(&TO.0);
    station.send(&[OwnedFrame::new(answer.clone())]);
    assert_eq!(station.counters.dropped(DropReason::NoSuchNeighbour), 1);
    let frame = packet4(protocol::UDP, &[0; 40]);
    for (number, from) in [&first, &second, &first].into_iter().enumerate() {
        from.send_to(&tunnelled(VNI, &frame), own).unwrap();
        station.until(|station| station.counters.count(Count::LearnedMacs) == number as u64 + 1);
    }
    station.send(&[OwnedFrame::new(answer.clone())]);
    let mut datagram = [0; 2048];
    let (len, _) = first.recv_from(&mut datagram).unwrap();
    assert_eq!(datagram[8..14], FROM.0);
    assert_eq!(len, answer.len() + 8);
    assert!(second.recv_from(&mut datagram).is_err(), "where it was heard before");
    // The MACs of this guest and of bound ones are not to be had.
    for spoofed in [TO, GATEWAY] {
        let mut frame = frame.clone();
        frame[6..12].copy_from_slice(&spoofed.0);
        second.send_to(&tunnelled(VNI, &frame), own).unwrap();
    }
    station.until(|station| station.counters.dropped(DropReason::TunnelSpoofedMac) == 2);
    assert_eq!(station.counters.count(Count::LearnedMacs), 3);
}

/// A remembered header admits the later datagrams of its message, but does not hide a claim in them.
#[test]
fn a_claim_among_other_datagrams_of_a_message_is_checked() {
    let (mut station, own) = receiver(primary(TO));
    let spoofed = advertisement(ip6(5), FROM);
    let payload = spoofed.len() - EthernetHeader::LEN - Ipv6Header::LEN;
    let mut datagram = vec![0; payload];
    UdpHeader {
        src_port: 4000,
        dst_port: 4000,
        payload_len: payload - UdpHeader::LEN,
    }
    .emit(&mut datagram, 0);
    let plain = packet6(ip6(9), protocol::UDP, &datagram);
    let bytes = [&plain, &plain, &spoofed, &plain].map(|frame| tunnelled(VNI, frame));
    let socket = Socket::new(Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    let size = u16::try_from(bytes[0].len()).unwrap();
    let bytes = bytes.concat();
    let mut messages = SendBatch::default();
    let mut out = messages.start();
    out.push(Some(size), |gather| gather.push(GuestSlice::from_bytes(&bytes)));
    out.address(own);
    assert_eq!(out.transmit(&socket, 0).unwrap(), 1);
    station.sink.caps = GuestCaps::default();
    let frames = station.until(|station| station.sink.frames.len() == 3);
    assert!(frames.into_iter().all(|frame| frame.bytes == plain));
    assert_eq!(station.counters.dropped(DropReason::TunnelSpoofedNeighbour), 1);
}

#[test]
fn the_guest_claims_no_address_of_others_either() {
    let (a, b) = (vtep(2), vtep(3));
    let mut first = Station::with_role(primary(FROM), VNI, a, FROM, vec![dual(b, TO), dual(vtep(4), THIRD)]);
    let mut second = Station::with_role(primary(TO), VNI, b, TO, vec![dual(a, FROM)]);
    // Broadcasts of both protocols do not leave the process, so these frames are for one guest.
    let unicast = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&TO.0);
        OwnedFrame::new(frame)
    };
    let of = |sender| unicast(arp(ArpPacket::REPLY, FROM, sender, TARGET));
    first.send(&[of([192, 0, 2, 5]), of([192, 0, 2, 1]), of([192, 0, 2, 254])]);
    assert_eq!(first.counters.dropped(DropReason::SpoofedArp), 3);
    let of = |target| unicast(advertisement(target, FROM));
    first.send(&[of(ip6(5)), of(THIRD.link_local()), of(GATEWAY.link_local())]);
    // The option is beyond the bytes that are copied at first.
    let mut hidden = vec![icmp::v6::NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    hidden.extend(ip6(1).octets());
    hidden.extend([14, 10]);
    hidden.extend([0; 78]);
    hidden.extend([1, 1]);
    hidden.extend(THIRD.0);
    first.send(&[unicast(packet6(ip6(9), protocol::ICMPV6, &hidden))]);
    assert_eq!(first.counters.dropped(DropReason::SpoofedNeighbour), 4);
    assert_eq!(first.counters.count(Count::TunnelSent), 0);
    let own = [
        arp(ArpPacket::REPLY, FROM, OWN, TARGET),
        advertisement(FROM.link_local(), FROM),
    ];
    first.send(&own.clone().map(unicast));
    let frames = second.until(|station| station.sink.frames.len() == 2);
    assert_eq!(frames[1].bytes, own[1]);
}

#[test]
fn a_link_local_address_is_answered_for_if_it_is_made_from_a_mac_and_asked_of_all_otherwise() {
    let (a, b) = (vtep(2), vtep(3));
    let mut first = Station::with_role(primary(FROM), VNI, a, FROM, vec![dual(b, TO)]);
    let mut second = Station::with_role(primary(TO), VNI, b, TO, vec![dual(a, FROM)]);
    let ask = |target: Ipv6Addr, src: Ipv6Addr| {
        let [.., x, y, z] = target.octets();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
        let mut frame = neighbour(icmp::v6::NEIGHBOUR_SOLICITATION, src, target, FROM);
        if src.is_unspecified() {
            frame.truncate(frame.len() - 8);
            let len = u16::try_from(frame.len() - 54).unwrap();
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, x, y, z]);
        frame[38..54].copy_from_slice(&group.octets());
        frame[56..58].fill(0);
        icmp::fill_checksum(src.into(), group.into(), &mut frame[54..]);
        frame
    };
    let source = FROM.link_local();
    for (target, mac) in [(TO.link_local(), TO), (GATEWAY.link_local(), GATEWAY)] {
        first.send(&[OwnedFrame::new(ask(target, source))]);
        let answers = first.sink.take();
        assert_eq!(answers.len(), 1, "{target}");
        assert_eq!(answers[0].bytes[6..12], mac.0);
    }
    assert_eq!(first.counters.count(Count::TunnelSent), 0);
    let chosen = "fe80::1:2:3:4".parse().unwrap();
    let asked = [ask(chosen, source), ask(chosen, Ipv6Addr::UNSPECIFIED)];
    first.send(&asked.clone().map(OwnedFrame::new));
    let frames = second.until(|station| station.sink.frames.len() == 2);
    assert_eq!(frames.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>(), asked);
    // Only the network assigns the addresses of its subnet.
    first.send(&[OwnedFrame::new(ask(ip6(77), source))]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 2);
}
