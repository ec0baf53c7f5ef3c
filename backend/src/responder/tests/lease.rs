//! Tests of DHCPv4 in place of a segment's server.

use super::dhcp4::{message, packet, with};
use super::*;
use crate::config::{LeaseConfig, NameConfig};
use crate::frame::HEAD_MAX;
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Encodable, Message, MessageType, OptionCode};

const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A server for a pod's addresses as some network plugins assign them: a host address, and a router that is on-link
/// only through a route.
fn server(client: MacAddr) -> LeaseServer {
    server_noting(client, Arc::default())
}

fn server_noting(client: MacAddr, held: Arc<HeldLeases>) -> LeaseServer {
    let config = LeaseConfig {
        client,
        address: "10.244.1.7/32".parse().expect("a network"),
        server: SERVER,
        router: Some(ROUTER),
        routes: vec![
            ("169.254.1.1/32".parse().expect("a network"), Ipv4Addr::UNSPECIFIED),
            ("0.0.0.0/0".parse().expect("a network"), ROUTER),
        ],
        names: NameConfig {
            hostname: Some("pod-1".to_owned()),
            ..NameConfig::default()
        },
    };
    LeaseServer::new(&config, 1400, held)
}

fn wants(server: &LeaseServer, frame: &[u8]) -> bool {
    let bytes = &frame[..frame.len().min(HEAD_MAX)];
    server.wants(bytes, &Head::parse(bytes, frame.len()))
}

fn answer(server: &LeaseServer, frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
    assert!(wants(server, frame));
    let mut replies = Replies::default();
    let answer = server.answer(
        frame,
        &Head::parse(frame, frame.len()),
        &Counters::default(),
        &mut replies,
    );
    (answer, replies.iter().map(<[u8]>::to_vec).collect())
}

#[test]
fn a_pods_guest_gets_its_address_and_its_routes_the_default_one_last() {
    let server = server(GUEST_MAC);
    let request = with(message(MessageType::Request), DhcpOption::RequestedIpAddress(GUEST));
    let (verdict, replies) = answer(&server, &packet(&request));
    assert_eq!((verdict, replies.len()), (Answer::Done, 1));
    let reply = Message::decode(&mut Decoder::new(&replies[0][42..])).expect("a message");
    assert_eq!(reply.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(reply.yiaddr(), GUEST);
    let expected = [
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::SubnetMask(Ipv4Addr::BROADCAST),
        DhcpOption::Router(vec![ROUTER]),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::Hostname("pod-1".to_owned()),
    ];
    for option in expected {
        assert_eq!(reply.opts().get(OptionCode::from(&option)), Some(&option));
    }
    let wire = b"\x79\x0e\x20\xa9\xfe\x01\x01\0\0\0\0\0\xa9\xfe\x01\x01";
    assert!(replies[0].windows(wire.len()).any(|bytes| bytes == wire), "RFC 3442");
}

#[test]
fn a_client_with_another_mac_gets_no_lease_and_is_remembered_until_the_right_one_comes() {
    let held = Arc::new(HeldLeases::default());
    let server = server_noting(MacAddr([2, 0, 0, 0, 0, 9]), Arc::clone(&held));
    assert_eq!(held.stranger(), None);
    let (verdict, replies) = answer(&server, &packet(&message(MessageType::Discover)));
    assert_eq!(verdict, Answer::Refused(DropReason::LeaseOfOtherMac));
    assert!(replies.is_empty());
    assert_eq!(held.stranger(), Some(GUEST_MAC));

    let server = server_noting(GUEST_MAC, Arc::clone(&held));
    let request = with(message(MessageType::Request), DhcpOption::RequestedIpAddress(GUEST));
    assert_eq!(answer(&server, &packet(&request)).0, Answer::Done);
    assert_eq!(held.stranger(), None);
}

#[test]
fn what_is_said_to_another_server_goes_nowhere() {
    let server = server(GUEST_MAC);
    let bytes = message(MessageType::Request).to_vec().expect("a message");
    let frame = udp(IpAddr::V4(GUEST), IpAddr::from([10, 244, 1, 1]), (68, 67), &bytes);
    assert_eq!(answer(&server, &frame).0, Answer::Refused(DropReason::BadService));
}

#[test]
fn only_datagrams_to_servers_of_dhcp_are_kept_from_the_segment() {
    let server = server(GUEST_MAC);
    let (src, dst) = (IpAddr::V4(GUEST), IpAddr::V4(Ipv4Addr::BROADCAST));
    for ports in [(67, 68), (68, 53), (1024, 1024)] {
        let frame = udp(src, dst, ports, &[0; 300]);
        assert!(!wants(&server, &frame), "{ports:?}");
    }
    assert!(!wants(&server, &[0; 14]));
}

#[test]
fn the_guests_domain_is_sent_with_the_search_list_and_is_the_list_if_there_is_none() {
    let told = |domain: Option<&str>, search: &[&str]| {
        let config = LeaseConfig {
            client: GUEST_MAC,
            address: "10.244.1.7/24".parse().expect("a network"),
            server: SERVER,
            router: None,
            routes: Vec::new(),
            names: NameConfig {
                domain: domain.map(str::to_owned),
                search: search.iter().map(|&name| name.to_owned()).collect(),
                ..NameConfig::default()
            },
        };
        let (_, replies) = answer(
            &LeaseServer::new(&config, 1500, Arc::default()),
            &packet(&message(MessageType::Discover)),
        );
        let reply = Message::decode(&mut Decoder::new(&replies[0][42..])).expect("a message");
        let searched = match reply.opts().get(OptionCode::DomainSearch) {
            Some(DhcpOption::DomainSearch(names)) => names.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let domain = match reply.opts().get(OptionCode::DomainName) {
            Some(DhcpOption::DomainName(name)) => name.clone(),
            _ => String::new(),
        };
        (domain, searched.join(" "))
    };
    let pair = |domain: &str, search: &str| (domain.to_owned(), search.to_owned());
    assert_eq!(
        told(Some("a.example"), &["much.longer.example"]),
        pair("a.example", "much.longer.example.")
    );
    assert_eq!(told(Some("a.example"), &[]), pair("a.example", "a.example."));
    assert_eq!(
        told(None, &["b.example", "longer.example"]),
        pair("longer.example", "b.example. longer.example.")
    );
}
