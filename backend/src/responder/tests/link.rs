//! Tests of ARP, neighbour and router discovery, and echo.

use super::*;
use crate::config::{GATEWAY_MAC, Neighbourhood, Resolvers};
use crate::responder::testing::arp;
use dhcproto::v4::{Decodable as _, Decoder, DhcpOption, Message, MessageType, OptionCode};

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));

fn v6(text: &str) -> IpAddr {
    IpAddr::V6(addr6(text))
}

#[test]
fn arp_for_the_gateway_is_answered_with_its_mac() {
    let reply = Bench::new().reply_to(&arp(1, [10, 0, 2, 2], [10, 0, 2, 1]));
    #[rustfmt::skip]
    let expected = [
        0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 0, 8, 6,
        0, 1, 8, 0, 6, 4, 0, 2,
        2, 0, 0, 0, 0, 0, 10, 0, 2, 1,
        0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 2, 2,
    ];
    assert_eq!(reply, expected);
}

#[test]
fn arp_for_any_other_address_is_not_answered() {
    let mut bench = Bench::new();
    bench.refused(&arp(1, [10, 0, 2, 2], [10, 0, 2, 3]), DropReason::NoSuchNeighbour);
    // A probe for the guest's own address, and an announcement of it.
    bench.silence(&arp(1, [0; 4], [10, 0, 2, 2]));
    bench.silence(&arp(1, [10, 0, 2, 2], [10, 0, 2, 2]));
    bench.silence(&arp(2, [10, 0, 2, 2], [10, 0, 2, 1]));
}

fn shared() -> Bench {
    Bench::with(ServiceConfig {
        neighbourhood: Neighbourhood::Shared,
        ..config()
    })
}

#[test]
fn in_a_shared_network_the_gateway_answers_for_every_address_but_the_guests() {
    let mut bench = shared();
    for neighbour in [[10, 0, 2, 1], [10, 0, 2, 3], [10, 0, 2, 254]] {
        let reply = bench.reply_to(&arp(1, [10, 0, 2, 2], neighbour));
        assert_eq!(reply[22..28], GATEWAY_MAC.0, "{neighbour:?}");
    }
    bench.refused(&arp(1, [10, 0, 2, 2], [10, 0, 3, 1]), DropReason::NoSuchNeighbour);
    bench.silence(&arp(1, [0; 4], [10, 0, 2, 2]));
    bench.silence(&arp(1, [10, 0, 2, 2], [10, 0, 2, 2]));
}

#[test]
fn in_a_shared_network_the_router_answers_echo_itself_and_no_prefix_is_on_link() {
    let mut bench = shared();
    let v4 = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    bench.passed_on(&icmp_message(GUEST, GATEWAY, v4, b""));
    let v6_request = IcmpHeader::echo(icmp::v6::ECHO_REQUEST, 7, 9);
    bench.passed_on(&icmp_message(v6("fd10:0:2::2"), v6("fd10:0:2::1"), v6_request, b""));
    let solicitation = icmp_message(
        v6("fe80::1"),
        v6("ff02::2"),
        IcmpHeader {
            kind: icmp::v6::ROUTER_SOLICITATION,
            code: 0,
            rest: [0; 4],
        },
        b"",
    );
    let advertisement = bench.reply_to(&solicitation);
    // The option with the prefix: kind 3, four units long; prefix length and flags follow.
    let at = advertisement
        .windows(2)
        .position(|pair| pair == [3, 4])
        .expect("a prefix");
    assert_eq!(advertisement[at + 2..at + 4], [120, 0]);
}

#[test]
fn aliases_of_the_gateway_are_at_its_mac() {
    let mut bench = Bench::new();
    let reply = bench.reply_to(&arp(1, [10, 0, 2, 2], [10, 0, 2, 7]));
    assert_eq!(reply[22..32], [2, 0, 0, 0, 0, 0, 10, 0, 2, 7]);
    let reply = bench.reply_to(&solicitation(
        "fd10:0:2::2",
        "ff02::1:ff00:7",
        "fd10:0:2::7",
        &SOURCE_OPTION,
    ));
    assert_eq!(reply[62..78], addr6("fd10:0:2::7").octets());
    // Target link-layer address.
    assert_eq!(reply[78..86], [2, 1, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn echo_is_for_the_guests_own_addresses() {
    let mut bench = Bench::new();
    let v4 = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    for src in ["10.0.2.9", "192.0.2.1", "0.0.0.0", "10.0.2.255"] {
        let frame = icmp_message(src.parse().expect("an address"), GATEWAY, v4, b"");
        bench.refused(&frame, DropReason::SpoofedAddress);
    }
    let v6_request = IcmpHeader::echo(icmp::v6::ECHO_REQUEST, 7, 9);
    for src in ["fd10:0:2::9", "2001:db8::1", "::", "ff02::1"] {
        let frame = icmp_message(v6(src), v6("fd10:0:2::1"), v6_request, b"");
        bench.refused(&frame, DropReason::SpoofedAddress);
    }
    bench.reply_to(&icmp_message(v6("fe80::1"), v6("fe80::ff:fe00:0"), v6_request, b""));
}

#[test]
fn a_probe_for_the_gateways_address_is_answered() {
    let reply = Bench::new().reply_to(&arp(1, [0; 4], [10, 0, 2, 1]));
    assert_eq!(reply[28..32], [10, 0, 2, 1]);
}

#[test]
fn arp_that_is_not_for_ipv4_over_ethernet_is_refused() {
    let mut bench = Bench::new();
    for at in [0, 1, 2, 3, 4, 5, 6] {
        let mut frame = arp(1, [10, 0, 2, 2], [10, 0, 2, 1]);
        frame[EthernetHeader::LEN + at] ^= 0x40;
        bench.refused(&frame, DropReason::BadService);
    }
    let short = &arp(1, [10, 0, 2, 2], [10, 0, 2, 1])[..EthernetHeader::LEN + 27];
    bench.refused(short, DropReason::BadService);
}

#[test]
fn echo_to_the_gateway_comes_back_with_the_same_bytes() {
    let mut bench = Bench::new();
    let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    let reply = bench.reply_to(&icmp_message(GUEST, GATEWAY, request, b"hello"));
    assert_eq!(&reply[..6], GUEST_MAC.0);
    let headers = Headers::parse(&reply, reply.len()).expect("a frame");
    assert_eq!(headers.network.addresses(), Some((GATEWAY, GUEST)));
    assert_eq!(
        IcmpHeader::parse(&reply[34..]),
        Ok(IcmpHeader::echo(icmp::v4::ECHO_REPLY, 7, 9))
    );
    assert_eq!(&reply[42..], b"hello");

    for gateway in ["fd10:0:2::1", "fe80::ff:fe00:0"].map(v6) {
        let request = IcmpHeader::echo(icmp::v6::ECHO_REQUEST, 7, 9);
        let reply = bench.reply_to(&icmp_message(v6("fd10:0:2::2"), gateway, request, b"hello"));
        let headers = Headers::parse(&reply, reply.len()).expect("a frame");
        assert_eq!(headers.network.addresses(), Some((gateway, v6("fd10:0:2::2"))));
        assert_eq!(
            IcmpHeader::parse(&reply[54..]),
            Ok(IcmpHeader::echo(icmp::v6::ECHO_REPLY, 7, 9))
        );
        assert_eq!(&reply[62..], b"hello");
    }
}

#[test]
fn echo_to_others_and_other_icmp_are_left_to_others() {
    let mut bench = Bench::new();
    let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    let unreachable = IcmpHeader {
        kind: icmp::v4::UNREACHABLE,
        ..IcmpHeader::default()
    };
    for (dst, header) in [("192.0.2.1", request), ("10.0.2.3", request), ("10.0.2.1", unreachable)] {
        let frame = icmp_message(GUEST, dst.parse().expect("an address"), header, &[]);
        assert_eq!(bench.send(&frame).0, Answer::NotMine, "{dst} {header:?}");
    }
    let request = IcmpHeader::echo(icmp::v6::ECHO_REQUEST, 7, 9);
    let frame = icmp_message(v6("fd10:0:2::2"), v6("2001:db8::1"), request, &[]);
    assert_eq!(bench.send(&frame).0, Answer::NotMine);
}

#[test]
fn a_damaged_echo_request_is_refused() {
    let mut bench = Bench::new();
    let mut frame = icmp_message(GUEST, GATEWAY, IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9), b"hello");
    frame[45] ^= 1;
    bench.refused(&frame, DropReason::BadService);
}

#[test]
fn an_echo_request_longer_than_is_copied_is_left_to_the_mode() {
    let mut bench = Bench::new();
    let request = IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9);
    let longest = MAX_FRAME - 14 - 20 - 8;
    bench.reply_to(&icmp_message(GUEST, GATEWAY, request, &vec![1; longest]));
    let (answer, _) = bench.send(&icmp_message(GUEST, GATEWAY, request, &vec![1; longest + 1]));
    assert_eq!(answer, Answer::NotMine);
}

pub(super) fn solicitation(src: &str, dst: &str, target: &str, options: &[u8]) -> Vec<u8> {
    let header = IcmpHeader {
        kind: icmp::v6::NEIGHBOUR_SOLICITATION,
        ..IcmpHeader::default()
    };
    let body = [&addr6(target).octets()[..], options].concat();
    icmp_message(v6(src), v6(dst), header, &body)
}

pub(super) const SOURCE_OPTION: [u8; 8] = [1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];

#[test]
fn a_solicitation_of_the_gateway_is_answered_as_a_router_does() {
    let mut bench = Bench::new();
    for target in ["fd10:0:2::1", "fe80::ff:fe00:0"] {
        let reply = bench.reply_to(&solicitation("fe80::1", target, target, &SOURCE_OPTION));
        assert_eq!(&reply[..6], GUEST_MAC.0);
        let headers = Headers::parse(&reply, reply.len()).expect("a frame");
        assert_eq!(headers.network.addresses(), Some((v6(target), v6("fe80::1"))));
        let Network::Ipv6(ip) = headers.network else { panic!() };
        assert_eq!(ip.hop_limit, 255);
        // Router, solicited, override.
        assert_eq!(reply[54..62], [136, 0, reply[56], reply[57], 0xe0, 0, 0, 0]);
        assert_eq!(reply[62..78], addr6(target).octets());
        assert_eq!(reply[78..], [2, 1, 2, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn duplicate_address_detection_hears_only_the_gateway() {
    let mut bench = Bench::new();
    bench.silence(&solicitation("::", "ff02::1:ff00:2", "fd10:0:2::2", &[]));
    bench.silence(&solicitation("::", "ff02::1:ff12:3456", "fe80::5054:ff:fe12:3456", &[]));
    let reply = bench.reply_to(&solicitation("::", "ff02::1:ff00:1", "fd10:0:2::1", &[]));
    assert_eq!(&reply[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let headers = Headers::parse(&reply, reply.len()).expect("a frame");
    assert_eq!(headers.network.addresses(), Some((v6("fd10:0:2::1"), v6("ff02::1"))));
    // Router and override, not solicited.
    assert_eq!(reply[58], 0xa0);
}

#[test]
fn a_solicitation_of_another_neighbour_is_not_answered() {
    let frame = solicitation("fd10:0:2::2", "ff02::1:ff00:5", "fd10:0:2::5", &SOURCE_OPTION);
    Bench::new().refused(&frame, DropReason::NoSuchNeighbour);
}

#[test]
fn neighbour_messages_the_rfc_tells_us_to_drop_are_dropped() {
    let mut bench = Bench::new();
    let good = solicitation("fe80::1", "fd10:0:2::1", "fd10:0:2::1", &SOURCE_OPTION);
    assert_eq!(bench.send(&good).0, Answer::Done);
    // Hop limit, code, checksum, target.
    for at in [21, 55, 56, 77] {
        let mut frame = good.clone();
        frame[at] ^= 1;
        bench.refused(&frame, DropReason::BadService);
    }
    for options in [
        &[1, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 2, 0, 0, 0, 0, 0, 0],
        &[1, 1, 0],
        &[1],
    ] {
        let frame = solicitation("fe80::1", "fd10:0:2::1", "fd10:0:2::1", options);
        bench.refused(&frame, DropReason::BadService);
    }
    // Multicast target; probes with a source option or to a wrong group.
    bench.refused(
        &solicitation("fe80::1", "ff02::1", "ff02::1", &[]),
        DropReason::BadService,
    );
    let probe = solicitation("::", "ff02::1:ff00:1", "fd10:0:2::1", &SOURCE_OPTION);
    bench.refused(&probe, DropReason::BadService);
    bench.refused(
        &solicitation("::", "ff02::1", "fd10:0:2::1", &[]),
        DropReason::BadService,
    );
    // The guest is not a router.
    for kind in [icmp::v6::ROUTER_ADVERTISEMENT, icmp::v6::REDIRECT] {
        let header = IcmpHeader {
            kind,
            ..IcmpHeader::default()
        };
        let frame = icmp_message(v6("fe80::1"), v6("ff02::1"), header, &[0; 40]);
        bench.refused(&frame, DropReason::BadService);
    }
}

#[test]
fn an_advertisement_of_the_guest_is_taken_without_a_word() {
    let header = IcmpHeader {
        kind: icmp::v6::NEIGHBOUR_ADVERTISEMENT,
        ..IcmpHeader::default()
    };
    Bench::new().silence(&icmp_message(v6("fe80::1"), v6("ff02::1"), header, &[0; 16]));
}

pub(super) fn router_solicitation(src: &str, options: &[u8]) -> Vec<u8> {
    let header = IcmpHeader {
        kind: icmp::v6::ROUTER_SOLICITATION,
        ..IcmpHeader::default()
    };
    icmp_message(v6(src), v6("ff02::2"), header, options)
}

#[test]
fn a_router_advertisement_carries_route_mtu_prefix_and_name_servers() {
    let mut bench = Bench::new();
    let reply = bench.reply_to(&router_solicitation("fe80::1", &SOURCE_OPTION));
    assert_eq!(bench.counters.count(Count::RouterAdvertisements), 1);
    assert_eq!(&reply[..6], GUEST_MAC.0);
    let headers = Headers::parse(&reply, reply.len()).expect("a frame");
    assert_eq!(
        headers.network.addresses(),
        Some((v6("fe80::ff:fe00:0"), v6("fe80::1")))
    );
    let Network::Ipv6(ip) = headers.network else { panic!() };
    assert_eq!(ip.hop_limit, 255);
    #[rustfmt::skip]
    let mut expected = vec![
        134, 0, reply[56], reply[57],
        64, 0xc0, 0x07, 0x08, // hop limit, M and O, 1800 s
        0, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 2, 0, 0, 0, 0, 0, // source link-layer address
        5, 1, 0, 0, 0, 0, 0x05, 0xdc, // MTU 1500
        3, 4, 120, 0x80, // prefix: on-link, not autonomous
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        0xfd, 0x10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        25, 3, 0, 0, 0, 0, 0x07, 0x08, // RDNSS
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a,
        31, 8, 0, 0, 0, 0, 0x07, 0x08, // DNSSL
    ];
    expected.extend(b"\x02ns\x03svc\x07cluster\x05local\0\x03svc\x07cluster\x05local\0\x07cluster\x05local\0");
    assert_eq!(reply[54..], expected);
}

/// The services of a network whose guests may form their own addresses.
fn wide() -> ServiceConfig {
    let mut config = config();
    config.ipv6 = config.ipv6.map(|link| Ipv6Link {
        network: "fd10:0:2::/64".parse().expect("a network"),
        ..link
    });
    config
}

#[test]
fn a_prefix_of_64_bits_is_for_autoconfiguration_too() {
    for (config, length, flags) in [(config(), 120, 0x80), (wide(), 64, 0xc0)] {
        let mut bench = Bench::with(config);
        let reply = bench.reply_to(&router_solicitation("fe80::1", &[]));
        // After the fixed part, the link-layer address and the MTU.
        assert_eq!(reply[54 + 16 + 16..][..4], [3, 4, length, flags]);
        assert_eq!(reply[54 + 5], 0xc0, "DHCPv6 assigns its address all the same");
    }
}

#[test]
fn an_address_of_the_guests_own_choice_may_ask_the_gateway_and_is_noted_when_it_is_probed() {
    let mut bench = Bench::with(wide());
    let chosen = "fd10:0:2::abcd:1";
    assert_eq!(bench.responders.take_claimed(), None);
    bench.silence(&solicitation("::", "ff02::1:ffcd:1", chosen, &[]));
    assert_eq!(bench.responders.take_claimed(), Some(addr6(chosen)));
    assert_eq!(bench.responders.take_claimed(), None);
    // The gateway defends its own address.
    bench.reply_to(&solicitation("::", "ff02::1:ff00:1", "fd10:0:2::1", &[]));
    assert_eq!(bench.responders.take_claimed(), None);
    let echo = |src: &str| icmp_message(v6(src), v6("fd10:0:2::1"), IcmpHeader::echo(128, 1, 2), b"x");
    bench.reply_to(&echo(chosen));
    bench.refused(&echo("fd10:0:2::"), DropReason::SpoofedAddress);
    bench.refused(&echo("fd10:0:3::2"), DropReason::SpoofedAddress);
}

#[test]
fn a_solicitation_from_the_unspecified_address_is_answered_to_all_nodes() {
    let mut bench = Bench::new();
    let reply = bench.reply_to(&router_solicitation("::", &[]));
    assert_eq!(&reply[..6], [0x33, 0x33, 0, 0, 0, 1]);
    bench.refused(&router_solicitation("::", &SOURCE_OPTION), DropReason::BadService);
}

#[test]
fn without_names_and_with_a_small_mtu_those_options_are_left_out() {
    let mut bench = Bench::with(ServiceConfig {
        names: NameConfig::default(),
        mtu: 1279,
        ..config()
    });
    let reply = bench.reply_to(&router_solicitation("fe80::1", &[]));
    let kinds = [reply[70], reply[78]];
    assert_eq!(kinds, [1, 3], "source link-layer address and prefix");
    assert_eq!(reply.len(), 54 + 16 + 8 + 32);
}

/// Lets the announcements of the gateway's MAC come to their end.
fn end_announcements(bench: &mut Bench) {
    for n in 1..4 {
        let at = bench.now + n * Duration::from_millis(25);
        bench.responders.on_timer(at, &bench.counters, &mut bench.replies);
        assert_eq!(bench.take().len(), 4);
    }
}

#[test]
fn the_gateway_announces_its_mac_when_the_link_comes_up_and_a_few_times_more() {
    let mut bench = Bench::new();
    bench
        .responders
        .on_link_up(bench.now, &bench.counters, &mut bench.replies);
    let sent = bench.take();
    let arp = ArpPacket::parse(&sent[0][14..]).expect("ARP");
    assert_eq!((IpAddr::V4(arp.sender), IpAddr::V4(arp.target)), (GATEWAY, GATEWAY));
    assert_eq!((arp.sender_mac, &sent[0][..6]), (GATEWAY_MAC, &[0xff; 6][..]));
    let targets: Vec<_> = sent[1..4].iter().map(|frame| target_of(frame)).collect();
    assert!(targets.contains(&GATEWAY_MAC.link_local()), "{targets:?}");
    let late = bench.now + Duration::from_secs(1);
    for n in 0..3 {
        let due = bench.responders.deadline().expect("another one");
        assert!(due < late, "{n}");
        bench.responders.on_timer(due, &bench.counters, &mut bench.replies);
        assert_eq!(bench.take(), sent[..4]);
    }
    assert!(bench.responders.deadline().is_some_and(|at| at > late), "no more");
    // A link that goes down ends them.
    bench.responders.on_link_up(late, &bench.counters, &mut bench.replies);
    bench.responders.on_link_down();
    assert_eq!(bench.responders.deadline(), None);
}

/// The address that an unsolicited neighbour advertisement is for.
fn target_of(frame: &[u8]) -> Ipv6Addr {
    assert_eq!(&frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!((frame[54], frame[58]), (icmp::v6::NEIGHBOUR_ADVERTISEMENT, 0xa0));
    assert_eq!(frame[80..86], GATEWAY_MAC.0);
    Ipv6Addr::from(<[u8; 16]>::try_from(&frame[62..78]).expect("an address"))
}

#[test]
fn unsolicited_advertisements_come_at_link_up_and_every_ten_minutes() {
    let mut bench = Bench::new();
    assert_eq!(bench.responders.deadline(), None, "no link, no timer");
    bench
        .responders
        .on_link_up(bench.now, &bench.counters, &mut bench.replies);
    let ra = bench.take().split_off(4);
    assert_eq!(ra.len(), 1);
    end_announcements(&mut bench);
    assert_eq!(&ra[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(ra[0][54], icmp::v6::ROUTER_ADVERTISEMENT);

    let due = START + Duration::from_secs(600);
    assert_eq!(bench.responders.deadline(), Some(due));
    let early = START + Duration::from_secs(599);
    bench.responders.on_timer(early, &bench.counters, &mut bench.replies);
    assert!(bench.take().is_empty());
    bench.responders.on_timer(due, &bench.counters, &mut bench.replies);
    assert_eq!(bench.take(), ra);

    // A solicited advertisement postpones the next unsolicited one.
    bench.now = due + Duration::from_secs(100);
    bench.reply_to(&router_solicitation("fe80::1", &[]));
    assert_eq!(bench.responders.deadline(), Some(bench.now + Duration::from_secs(600)));
    bench.responders.on_link_down();
    assert_eq!(bench.responders.deadline(), None);
    assert_eq!(bench.counters.count(Count::RouterAdvertisements), 3);
}

#[test]
fn new_name_servers_are_in_the_next_answer_and_in_an_advertisement_at_once() {
    let mut bench = Bench::new();
    let resolvers = Resolvers {
        dns: vec!["192.0.2.53".parse().expect("v4"), v6("2001:db8::53")],
        search: vec!["new.example".to_owned()],
        forward: Vec::new(),
    };
    // Without a driver, no timer is due.
    bench.responders.set_resolvers(bench.now, &resolvers);
    assert_eq!(bench.responders.deadline(), None);
    bench
        .responders
        .on_link_up(bench.now, &bench.counters, &mut bench.replies);
    let new = bench.take().pop().expect("an advertisement");
    end_announcements(&mut bench);

    bench.responders.set_resolvers(bench.now, &config_resolvers());
    assert_eq!(bench.responders.deadline(), Some(bench.now));
    bench
        .responders
        .on_timer(bench.now, &bench.counters, &mut bench.replies);
    let old = bench.take().pop().expect("an advertisement");
    for (advertisement, server) in [(&new, "2001:db8::53"), (&old, "fd00::a")] {
        assert_eq!(rdnss(advertisement), [addr6(server)]);
    }
    // Options that do not follow the system stay the same.
    let reply = bench.reply_to(&dhcp4::packet(&dhcp4::message(MessageType::Discover)));
    let message = Message::decode(&mut Decoder::new(&reply[42..])).expect("a message");
    assert_eq!(
        message.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("vm-1".to_owned()))
    );
    let servers = vec![Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
    assert_eq!(
        message.opts().get(OptionCode::DomainNameServer),
        Some(&DhcpOption::DomainNameServer(servers))
    );
}

/// The initial resolvers of the test guest.
fn config_resolvers() -> Resolvers {
    let names = config().names;
    Resolvers {
        dns: names.dns,
        search: names.search,
        forward: Vec::new(),
    }
}

/// The name servers of a router advertisement.
fn rdnss(frame: &[u8]) -> Vec<Ipv6Addr> {
    let mut options = &frame[70..];
    while options[0] != 25 {
        options = &options[usize::from(options[1]) * 8..];
    }
    let addresses = options[8..usize::from(options[1]) * 8].chunks_exact(16);
    addresses
        .map(|bytes| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("an address")))
        .collect()
}

#[test]
fn a_second_worker_advertises_only_when_asked() {
    let mut bench = Bench::with(ServiceConfig {
        advertise: false,
        ..config()
    });
    bench
        .responders
        .on_link_up(bench.now, &bench.counters, &mut bench.replies);
    assert!(bench.take().is_empty());
    bench.reply_to(&router_solicitation("fe80::1", &[]));
    bench.reply_to(&router_solicitation("::", &[]));
    bench.responders.on_link_down();
    bench
        .responders
        .on_link_up(bench.now, &bench.counters, &mut bench.replies);
    assert!(bench.take().is_empty());
    assert_eq!(bench.responders.deadline(), None);
}

#[test]
fn group_membership_is_of_no_consequence() {
    let mut bench = Bench::new();
    let igmp = ip(
        GUEST,
        "224.0.0.22".parse().expect("an address"),
        2,
        &[0x22, 0, 0xf9, 2, 0, 0, 0, 1],
    );
    bench.refused(&igmp, DropReason::Multicast);
    for kind in [130, 131, 132, 143] {
        let header = IcmpHeader {
            kind,
            ..IcmpHeader::default()
        };
        let mld = icmp_message(v6("fe80::1"), v6("ff02::16"), header, &[0; 20]);
        bench.refused(&mld, DropReason::Multicast);
    }
}

#[test]
fn a_family_that_is_off_has_no_services() {
    let mut bench = Bench::with(ServiceConfig {
        ipv4: None,
        ipv6: None,
        ..config()
    });
    let frames = [
        arp(1, [10, 0, 2, 2], [10, 0, 2, 1]),
        router_solicitation("fe80::1", &[]),
        icmp_message(GUEST, GATEWAY, IcmpHeader::echo(icmp::v4::ECHO_REQUEST, 7, 9), b""),
    ];
    for frame in frames {
        assert_eq!(bench.send(&frame), (Answer::NotMine, vec![]));
    }
    bench.responders.on_link_up(START, &bench.counters, &mut bench.replies);
    assert!(bench.take().is_empty());
    assert_eq!(bench.responders.deadline(), None);
}

#[test]
fn noise_of_name_services_is_left_to_the_mode() {
    let mut bench = Bench::new();
    for (dst, port) in [("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900)] {
        let frame = udp(GUEST, dst.parse().expect("an address"), (port, port), b"?");
        assert_eq!(bench.send(&frame).0, Answer::NotMine);
    }
}
