use super::*;
use crate::packet::{EthernetHeader, Ipv4Header, Ipv6Header};
use std::net::{Ipv4Addr, Ipv6Addr};

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const GATEWAY: MacAddr = MacAddr([0x0a, 0x58, 10, 0, 0, 1]);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

#[derive(Debug)]
struct Peers;

impl Names for Peers {
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        match name {
            "db" => Some(vec![ip("10.0.0.5"), ip("fd00::5")]),
            "old" => Some(vec![ip("10.0.0.6")]),
            _ => None,
        }
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        (address == ip("10.0.0.5") || address == ip("fd00::5")).then(|| "db".to_owned())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server(domain: Option<&str>) -> Dns {
    let own = ("Web".to_owned(), vec![GUEST4.into()]);
    Dns::new([GATEWAY4.into(), ip("fd00::1")], domain, Some(own), Arc::new(Peers))
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

/// The records of an answer, as text; `None` if the query is left to other servers.
fn ask(server: &Dns, name: &str, kind: RecordType) -> Option<Vec<String>> {
    let answer = server.answer_message(&query(name, kind).to_vec().unwrap())?;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 77);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert!(
        answer
            .answers
            .iter()
            .all(|record| record.ttl == 30 && record.name == answer.queries[0].name)
    );
    Some(answer.answers.iter().map(|record| record.data.to_string()).collect())
}

#[test]
fn names_of_guests_are_answered_alone_and_in_the_domain_in_any_case() {
    let server = server(Some("blue.example"));
    for name in ["db", "DB", "db.blue.example", "dB.Blue.EXAMPLE"] {
        assert_eq!(ask(&server, name, RecordType::A).unwrap(), ["10.0.0.5"], "{name}");
        assert_eq!(ask(&server, name, RecordType::AAAA).unwrap(), ["fd00::5"]);
        assert_eq!(ask(&server, name, RecordType::ANY).unwrap(), ["10.0.0.5", "fd00::5"]);
    }
    assert_eq!(ask(&server, "web.blue.example", RecordType::A).unwrap(), ["10.0.0.9"]);
}

#[test]
fn a_family_or_kind_that_a_guest_does_not_have_gets_an_answer_without_records() {
    let server = server(Some("blue.example"));
    let nothing: [&str; 0] = [];
    assert_eq!(ask(&server, "old.blue.example", RecordType::AAAA).unwrap(), nothing);
    assert_eq!(ask(&server, "web", RecordType::AAAA).unwrap(), nothing);
    assert_eq!(ask(&server, "db", RecordType::MX).unwrap(), nothing);
    assert_eq!(ask(&server, "5.0.0.10.in-addr.arpa", RecordType::A).unwrap(), nothing);
}

#[test]
fn addresses_of_guests_have_their_names() {
    let in_domain = server(Some("blue.example."));
    assert_eq!(
        ask(&in_domain, "5.0.0.10.in-addr.arpa", RecordType::PTR).unwrap(),
        ["db.blue.example."]
    );
    assert_eq!(
        ask(&in_domain, "9.0.0.10.in-addr.arpa", RecordType::PTR).unwrap(),
        ["web.blue.example."]
    );
    let ip6 = format!("5.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&in_domain, &ip6, RecordType::PTR).unwrap(), ["db.blue.example."]);
    assert_eq!(
        ask(&server(None), "5.0.0.10.in-addr.arpa", RecordType::PTR).unwrap(),
        ["db."]
    );
}

#[test]
fn all_other_queries_are_left_to_other_servers() {
    let in_domain = server(Some("blue.example"));
    for name in [
        "nobody",
        "nobody.blue.example",
        "db.example",
        "a.db.blue.example",
        "blue.example",
        ".",
        "8.0.0.10.in-addr.arpa",
        "0.0.10.in-addr.arpa",
    ] {
        assert_eq!(ask(&in_domain, name, RecordType::A), None, "{name}");
    }
    assert_eq!(ask(&server(None), "db.blue.example", RecordType::A), None);
    let mut odd = query("db", RecordType::A);
    odd.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(in_domain.answer_message(&odd.to_vec().unwrap()), None);
    let mut response = query("db", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(in_domain.answer_message(&response.to_vec().unwrap()), None);
    let mut two = query("db", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(in_domain.answer_message(&two.to_vec().unwrap()), None);
}

#[test]
fn a_query_with_extensions_gets_an_answer_with_them() {
    let mut message = query("db", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let answer = server(None).answer_message(&message.to_vec().unwrap()).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.edns.unwrap().max_payload(), MAX_PAYLOAD);
}

/// A frame from the guest with a datagram to `dst`.
fn frame(dst: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let is_v4 = dst.is_ipv4();
    let mut frame = vec![0; EthernetHeader::LEN + if is_v4 { 20 } else { 40 } + UdpHeader::LEN];
    EthernetHeader {
        dst: GATEWAY,
        src: GUEST,
        ethertype: if is_v4 { EtherType::Ipv4 } else { EtherType::Ipv6 },
    }
    .emit(&mut frame);
    let payload_len = UdpHeader::LEN + payload.len();
    match dst {
        IpAddr::V4(dst) => Ipv4Header {
            src: GUEST4,
            dst,
            protocol: protocol::UDP,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            fragment: None,
            header_len: 20,
            payload_len,
        }
        .emit(&mut frame[14..]),
        IpAddr::V6(dst) => Ipv6Header {
            src: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9),
            dst,
            protocol: protocol::UDP,
            hop_limit: 64,
            traffic_class: 0,
            fragment: None,
            header_len: 40,
            payload_len,
        }
        .emit(&mut frame[14..]),
    }
    let at = frame.len() - UdpHeader::LEN;
    UdpHeader {
        src_port: 4000,
        dst_port: port,
        payload_len: payload.len(),
    }
    .emit(&mut frame[at..], 0);
    frame.extend(payload);
    frame
}

#[test]
fn the_gateway_answers_from_its_address_and_port() {
    let server = server(None);
    let payload = query("db", RecordType::A).to_vec().unwrap();
    for to in [ip("10.0.0.1"), ip("fd00::1")] {
        let frame = frame(to, PORT, &payload);
        let head = Head::parse(&frame[..frame.len().min(128)], frame.len());
        assert!(server.wants(&frame, &head));
        let mut replies = Replies::of(GATEWAY);
        assert_eq!(server.answer(&frame, &head, &mut replies), Answer::Done);
        let reply = replies.iter().next().unwrap();
        let head = Head::parse(reply, reply.len());
        assert_eq!((head.fault(), head.addresses(reply).unwrap().0), (None, to));
        assert_eq!(
            (head.source_mac(reply), head.destination_mac(reply)),
            (Some(GATEWAY), Some(GUEST))
        );
        let udp = UdpHeader::parse(head.transport_bytes(reply), head.transport().unwrap().len, false).unwrap();
        assert_eq!((udp.src_port, udp.dst_port), (PORT, 4000));
    }
    for (to, port) in [(ip("10.0.0.1"), 54), (ip("10.0.0.5"), PORT), (ip("fd00::2"), PORT)] {
        let frame = frame(to, port, &payload);
        assert!(!server.wants(&frame, &Head::parse(&frame, frame.len())), "{to}:{port}");
    }
}

proptest::proptest! {
    #[test]
    fn any_query_is_answered_or_left_without_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), at in 0..40_usize) {
        let server = server(Some("blue.example"));
        let _ = server.answer_message(&bytes);
        let mut near = query("db.blue.example", RecordType::A).to_vec().unwrap();
        for (byte, other) in near[at.min(30)..].iter_mut().zip(bytes.iter().take(3)) {
            *byte = *other;
        }
        let _ = server.answer_message(&near);
    }
}
