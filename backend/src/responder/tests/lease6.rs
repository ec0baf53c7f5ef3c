//! Tests of DHCPv6 in place of a segment's server.

use super::link::router_solicitation;
use super::*;
use crate::config::{Lease6Config, NameConfig};
use crate::frame::HEAD_MAX;
use dhcproto::v6::{Decodable, Decoder, DhcpOption, Encodable, IANA, Message, MessageType, OptionCode};

const GUEST: &str = "2001:db8:7::5";

fn server(client: MacAddr) -> Lease6Server {
    let config = Lease6Config {
        client,
        address: format!("{GUEST}/64").parse().expect("a network"),
        names: NameConfig {
            dns: vec!["192.0.2.53".parse().expect("v4"), "2001:db8::53".parse().expect("v6")],
            search: vec!["lan.example".to_owned()],
            ..NameConfig::default()
        },
    };
    Lease6Server::new(&config, 1500, Arc::default())
}

/// The server's answer to a frame that it handles, alone or together with the segment.
fn answer(server: &mut Lease6Server, frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
    let mut replies = Replies::default();
    let answer = server.answer(
        START,
        frame,
        &Head::parse(frame, frame.len()),
        &Counters::default(),
        &mut replies,
    );
    replies.iter().for_each(check_reply);
    (answer, replies.iter().map(<[u8]>::to_vec).collect())
}

fn wants(server: &Lease6Server, frame: &[u8]) -> bool {
    let bytes = &frame[..frame.len().min(HEAD_MAX)];
    server.wants(bytes, &Head::parse(bytes, frame.len()))
}

fn hears(server: &Lease6Server, frame: &[u8]) -> bool {
    let bytes = &frame[..frame.len().min(HEAD_MAX)];
    server.hears(bytes, &Head::parse(bytes, frame.len()))
}

fn solicit() -> Vec<u8> {
    let mut message = Message::new_with_id(MessageType::Solicit, [1, 2, 3]);
    let association = IANA {
        id: 7,
        t1: 0,
        t2: 0,
        opts: dhcproto::v6::DhcpOptions::new(),
    };
    let client = DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
    message.set_opts([client, DhcpOption::IANA(association)].into_iter().collect());
    let payload = message.to_vec().expect("a message");
    udp(addr6("fe80::1").into(), addr6("ff02::1:2").into(), (546, 547), &payload)
}

#[test]
fn a_bridged_guest_gets_its_ipv6_address_and_names() {
    let mut server = server(GUEST_MAC);
    let frame = solicit();
    assert!(wants(&server, &frame) && !hears(&server, &frame));
    let (verdict, replies) = answer(&mut server, &frame);
    assert_eq!((verdict, replies.len()), (Answer::Done, 1));
    let reply = Message::decode(&mut Decoder::new(&replies[0][62..])).expect("a message");
    assert_eq!(reply.msg_type(), MessageType::Advertise);
    let Some(DhcpOption::IANA(association)) = reply.opts().get(OptionCode::IANA) else {
        panic!("{reply:?}")
    };
    let Some(DhcpOption::IAAddr(given)) = association.opts.get(OptionCode::IAAddr) else {
        panic!("{reply:?}")
    };
    assert_eq!(given.addr, addr6(GUEST));
    let servers = DhcpOption::DomainNameServers(vec![addr6("2001:db8::53")]);
    assert_eq!(reply.opts().get(OptionCode::DomainNameServers), Some(&servers));
}

#[test]
fn a_router_solicitation_gets_the_managed_flag_and_no_router() {
    let mut server = server(GUEST_MAC);
    let frame = router_solicitation("fe80::1", &[]);
    // The frame also goes to the segment.
    assert!(hears(&server, &frame) && !wants(&server, &frame));
    let (verdict, replies) = answer(&mut server, &frame);
    assert_eq!((verdict, replies.len()), (Answer::Done, 1));
    #[rustfmt::skip]
    let expected = [
        64, 0xc0, 0, 0, // hop limit, M and O, not a router
        0, 0, 0, 0, 0, 0, 0, 0,
        1, 1, 2, 0, 0, 0, 0, 0, // source link-layer address
        5, 1, 0, 0, 0, 0, 0x05, 0xdc, // MTU 1500
        3, 4, 64, 0x80, // prefix: on-link, not autonomous
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(replies[0][58..], expected);
}

#[test]
fn nothing_else_of_a_guest_is_taken_from_the_segment_and_no_other_host_gets_an_answer() {
    let mut other = server(MacAddr([2, 0, 0, 0, 0, 9]));
    for frame in [solicit(), router_solicitation("fe80::1", &[])] {
        assert_eq!(
            answer(&mut other, &frame),
            (Answer::Refused(DropReason::LeaseOfOtherMac), vec![])
        );
    }
    let server = server(GUEST_MAC);
    let (src, dst) = (addr6("fe80::1").into(), addr6("ff02::1:2").into());
    let neighbour = link::solicitation("fe80::1", "ff02::1:ff00:9", "2001:db8:7::9", &[]);
    for frame in [
        udp(src, dst, (547, 546), &[0; 60]),
        udp(src, dst, (5353, 53), &[0; 60]),
        neighbour,
    ] {
        assert!(!wants(&server, &frame) && !hears(&server, &frame));
    }
    assert!(!wants(&server, &[0; 14]) && !hears(&server, &[]));
}
