//! Tests of the gateway as proxy for all neighbours.

use super::link::{SOURCE_OPTION, solicitation};
use super::*;
use crate::packet::EtherType;
use crate::responder::testing::{arp, frame};

const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));

fn wants(frame: &[u8]) -> bool {
    let bytes = &frame[..frame.len().min(crate::frame::HEAD_MAX)];
    NeighbourProxy.wants(bytes, &Head::parse(bytes, frame.len()))
}

/// Passes `frame` to the proxy as the mode would.
#[track_caller]
fn send(frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
    assert!(wants(frame));
    let mut replies = Replies::default();
    let answer = NeighbourProxy.answer(frame, &Head::parse(frame, frame.len()), &mut replies);
    let replies: Vec<Vec<u8>> = replies.iter().map(<[u8]>::to_vec).collect();
    (answer, replies)
}

#[test]
fn whoever_a_guest_asks_for_is_found_at_the_gateways_mac() {
    for target in [[10, 0, 2, 1], [192, 0, 2, 9]] {
        let (answer, replies) = send(&arp(1, [10, 0, 2, 2], target));
        assert_eq!((answer, replies.len()), (Answer::Done, 1));
        let sender = [&[2, 0, 0, 0, 0, 0][..], &target].concat();
        assert_eq!(replies[0][..6], GUEST_MAC.0);
        assert_eq!(replies[0][20..32], [&[0, 2][..], &sender].concat());
    }
    let (answer, replies) = send(&solicitation(
        "fd10:0:2::2",
        "ff02::1:ff00:9",
        "2001:db8::9",
        &SOURCE_OPTION,
    ));
    assert_eq!((answer, replies.len()), (Answer::Done, 1));
    assert_eq!(replies[0][62..78], addr6("2001:db8::9").octets());
    // Target link-layer address.
    assert_eq!(replies[0][78..], [2, 1, 2, 0, 0, 0, 0, 0]);
    let (from, to) = (addr6("2001:db8::9").into(), addr6("fd10:0:2::2").into());
    assert!(icmp::checksum_ok(from, to, &replies[0][54..]));
}

#[test]
fn an_address_a_guest_is_about_to_take_has_no_owner() {
    let none = (Answer::Done, vec![]);
    assert_eq!(send(&arp(1, [0; 4], [10, 0, 2, 2])), none);
    assert_eq!(send(&arp(1, [10, 0, 2, 2], [10, 0, 2, 2])), none);
    assert_eq!(send(&arp(2, [10, 0, 2, 2], [10, 0, 2, 1])), none);
    assert_eq!(send(&solicitation("::", "ff02::1:ff00:2", "fd10:0:2::2", &[])), none);
}

#[test]
fn packets_for_one_receiver_are_not_the_proxys() {
    let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    assert!(!wants(&icmp_message(GUEST, SOMEBODY, request, b"")));
    assert!(!wants(&udp(GUEST, SOMEBODY, (4000, 53), b"")));
    let request = IcmpHeader::echo(icmp::v6::ECHO_REQUEST, 7, 9);
    let (from, to) = (addr6("fd10:0:2::2").into(), addr6("2001:db8::9").into());
    assert!(!wants(&icmp_message(from, to, request, b"")));
}

#[test]
fn what_is_for_all_or_for_no_ip_goes_nowhere_and_is_counted() {
    let to_all = |ethertype, packet: &[u8]| frame(MacAddr::BROADCAST, ethertype, packet);
    let solicits = IcmpHeader {
        kind: icmp::v6::ROUTER_SOLICITATION,
        ..IcmpHeader::default()
    };
    let broadcast = udp(GUEST, Ipv4Addr::BROADCAST.into(), (68, 67), b"");
    let refused = [
        (to_all(EtherType::Ipv4, &broadcast[14..]), DropReason::Multicast),
        (to_all(EtherType::Other(0x88cc), &[0; 46]), DropReason::Multicast),
        (
            icmp_message(addr6("fe80::1").into(), addr6("ff02::2").into(), solicits, b""),
            DropReason::Multicast,
        ),
        (
            frame(MacAddr([2, 0, 0, 0, 0, 0]), EtherType::Other(0x88b5), &[0; 46]),
            DropReason::UnknownEtherType,
        ),
        (vec![0; 10], DropReason::Truncated),
    ];
    for (frame, reason) in refused {
        assert_eq!(send(&frame), (Answer::Refused(reason), vec![]), "{frame:02x?}");
    }
}
