//! Tests of networks with a gateway, without a gateway, and without a subnet.

use super::*;
use crate::config::SecondaryNetwork;
use crate::responder::testing;
use dhcproto::Decodable as _;
use dhcproto::v4::{self, DhcpOption, OptionCode};

const SERVER: MacAddr = Layer2Config::SERVER_MAC;

fn secondary(ipv4: Option<&str>, ipv6: Option<&str>) -> NetworkRole {
    NetworkRole::Secondary(SecondaryNetwork {
        ipv4: ipv4.map(|net| net.parse().unwrap()),
        ipv6: ipv6.map(|net| net.parse().unwrap()),
    })
}

/// Two processes of a network without a gateway.
fn secondary_pair(ipv4: Option<&str>, ipv6: Option<&str>) -> (Station, Station) {
    let (a, b) = (vtep(2), vtep(3));
    let role = || secondary(ipv4, ipv6);
    let first = Station::with_role(role(), VNI, a, FROM, vec![peer(b, TO, [192, 0, 2, 1])]);
    let second = Station::with_role(role(), VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    (first, second)
}

/// A request of [`testing::requests`], changed so that it goes to all stations.
fn request(name: &str) -> Vec<u8> {
    let (_, mut frame) = testing::requests()
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    let group = if frame[12..14] == [0x86, 0xdd] {
        [0x33, 0x33, 0, 0, 0, 2]
    } else {
        [0xff; 6]
    };
    frame[..6].copy_from_slice(&group);
    // The address that it claims is its own.
    replace(&mut frame, &testing::GUEST_MAC.0, &FROM.0);
    replace(
        &mut frame,
        &testing::GUEST_MAC.link_local().octets(),
        &FROM.link_local().octets(),
    );
    replace(&mut frame, &[10, 0, 2, 2], &[192, 0, 2, 9]);
    testing::repair(&mut frame);
    frame
}

fn replace(frame: &mut [u8], old: &[u8], new: &[u8]) {
    for at in 0..=frame.len() - old.len() {
        if frame[at..].starts_with(old) {
            frame[at..at + old.len()].copy_from_slice(new);
        }
    }
}

#[test]
fn a_network_without_a_gateway_gives_addresses_and_no_router() {
    let (mut first, mut second) = secondary_pair(Some("192.0.2.9/24"), Some("2001:db8::9/64"));
    first.send(&[OwnedFrame::new(request("dhcp4_discover"))]);
    let offer = first.sink.take().remove(0).bytes;
    assert_eq!(offer[6..12], SERVER.0);
    let offer = v4::Message::from_bytes(&offer[42..]).unwrap();
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(192, 0, 2, 9));
    assert_eq!(offer.opts().get(OptionCode::Router), None);
    assert_eq!(
        offer.opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(Ipv4Addr::new(169, 254, 1, 1)))
    );
    first.send(&[OwnedFrame::new(request("router_solicitation"))]);
    let advertisement = first.sink.take().remove(0).bytes;
    let message = &advertisement[54..];
    assert_eq!(message[0], 134);
    assert_eq!(message[5] & 0x80, 0x80, "DHCPv6 is announced");
    assert_eq!(message[6..8], [0, 0], "the sender is not a router");
    let solicitation = request("router_solicitation");
    let shared = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(shared[0].bytes, solicitation, "another guest may be a router");
    first.send(&[OwnedFrame::new(request("dhcp6_solicit"))]);
    assert_eq!(first.sink.take().len(), 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 1, "no other request leaves");
}

#[test]
fn a_network_without_a_gateway_leads_nowhere() {
    let (mut first, mut second) = secondary_pair(Some("192.0.2.9/24"), None);
    let mut beyond = Udp::new(&[1; 20]).bytes();
    beyond[..6].copy_from_slice(&SERVER.0);
    let mut gateway = beyond.clone();
    gateway[..6].copy_from_slice(&[0x0a, 0x58, 192, 0, 2, 1]);
    first.send(&[OwnedFrame::new(beyond), OwnedFrame::new(gateway)]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 2);
    assert_eq!(first.mode.flow_count(), FlowCount::default());
    let frame = Udp::new(&[2; 20]).bytes();
    first.send(&[OwnedFrame::new(frame.clone())]);
    let arrived = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(arrived[0].bytes, frame, "peers are reached");
}

#[test]
fn a_family_without_a_subnet_is_left_to_the_guests() {
    for (ipv4, local) in [(Some("192.0.2.9/24"), true), (None, false)] {
        let (mut first, mut second) = secondary_pair(ipv4, None);
        let asked = [request("dhcp4_discover"), request("arp")];
        first.send(&asked.clone().map(OwnedFrame::new));
        if local {
            assert_eq!(first.counters.count(Count::TunnelSent), 0);
        } else {
            let arrived = second.until(|station| station.sink.frames.len() == 2);
            for (frame, asked) in arrived.iter().zip(&asked) {
                assert_eq!(frame.bytes, *asked);
            }
        }
        first.sink.take();
        first.send(&[OwnedFrame::new(request("router_solicitation"))]);
        second.until(|station| station.sink.frames.len() == 1);
        assert!(first.sink.take().is_empty(), "another guest may be a router");
    }
}

#[test]
fn a_guest_without_a_gateway_learns_of_a_packet_too_big_all_the_same() {
    for ipv4 in [Some("192.0.2.9/24"), None] {
        let (mut first, _second) = secondary_pair(ipv4, None);
        first.send(&[OwnedFrame::new(Udp::new(&[0; 1500]).bytes())]);
        let report = first.sink.take().remove(0).bytes;
        assert_eq!(report[6..12], SERVER.0);
        assert_eq!(report[26..30], Layer2Config::SERVER_IPV4.octets());
        assert_eq!(report[34..36], [3, 4], "fragmentation needed");
    }
}
