//! What a guest of a layer2 network gets, field by field as from OVN-Kubernetes.

use super::*;
use crate::responder::Convention;
use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::v6;

const SERVER_MAC: MacAddr = MacAddr([0x0a, 0x58, 169, 254, 1, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// 0a:58 and the start of the SHA-256 hash of "fe80::1".
const SERVER6_MAC: [u8; 6] = [0x0a, 0x58, 0x6d, 0x6d, 0xc1, 0x50];

/// The servers, with their addresses.
const SERVERS: [(MacAddr, IpAddr); 2] = [
    (SERVER_MAC, IpAddr::V4(SERVER)),
    (
        MacAddr(SERVER6_MAC),
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0858, 0x6dff, 0xfe6d, 0xc150)),
    ),
];

fn bench() -> Bench {
    with(config())
}

fn with(config: ServiceConfig) -> Bench {
    Bench {
        servers: &SERVERS,
        ..Bench::with(ServiceConfig {
            autoconfigures: false,
            convention: Convention::OvnKubernetes,
            ..config
        })
    }
}

#[test]
fn dhcpv4_has_the_server_and_the_lease_of_ovn_kubernetes() {
    let mut bench = bench();
    let request = dhcp4::with(
        dhcp4::message(v4::MessageType::Request),
        DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 0, 2, 2)),
    );
    let request = dhcp4::with(request, DhcpOption::ServerIdentifier(SERVER));
    let frame = bench.reply_to(&dhcp4::packet(&request));
    let headers = Headers::parse(&frame, frame.len()).unwrap();
    assert_eq!(headers.ethernet.src, SERVER_MAC);
    assert_eq!(headers.network.addresses().unwrap().0, IpAddr::V4(SERVER));
    let message = v4::Decodable::decode(&mut v4::Decoder::new(&frame[42..])).unwrap();
    let message: v4::Message = message;
    for expected in [
        DhcpOption::MessageType(v4::MessageType::Ack),
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::AddressLeaseTime(3500),
        DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 2, 1)]),
        DhcpOption::Hostname("vm-1".into()),
        DhcpOption::InterfaceMtu(1500),
    ] {
        let code = OptionCode::from(&expected);
        assert_eq!(message.opts().get(code), Some(&expected));
    }
    for absent in [OptionCode::Renewal, OptionCode::Rebinding] {
        assert_eq!(message.opts().get(absent), None);
    }
    // A guest renews at the server's address, one with an older lease at the gateway's.
    for to in [SERVER, Ipv4Addr::new(10, 0, 2, 1)] {
        let mut renewal = dhcp4::message(v4::MessageType::Request);
        renewal.set_ciaddr([10, 0, 2, 2]);
        let payload = v4::Encodable::to_vec(&renewal).unwrap();
        let from = Ipv4Addr::new(10, 0, 2, 2);
        let frame = bench.reply_to(&udp(from.into(), to.into(), (68, 67), &payload));
        assert_eq!(Headers::parse(&frame, frame.len()).unwrap().ethernet.src, SERVER_MAC);
    }
}

#[test]
fn dhcpv6_has_the_server_and_the_lease_of_ovn_kubernetes_and_the_name_if_asked() {
    let domain = Some("blue.example".to_owned());
    for (domain, flags, expected) in [
        (None, None, None),
        (None, Some(0), Some((4, &b"\x04vm-1"[..]))),
        (domain, Some(1), Some((6, &b"\x04vm-1\x04blue\x07example\0"[..]))),
    ] {
        let mut bench = with(ServiceConfig {
            names: NameConfig {
                domain,
                ..config().names
            },
            ..config()
        });
        let client = v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let ia = v6::DhcpOption::IANA(v6::IANA {
            id: 7,
            t1: 0,
            t2: 0,
            opts: v6::DhcpOptions::new(),
        });
        let fqdn = flags.map(|flags: u8| {
            let option = v6::UnknownOption::new(v6::OptionCode::ClientFqdn, vec![flags, 1, b'x', 0]);
            v6::DhcpOption::Unknown(option)
        });
        let mut message = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
        let rapid = v6::DhcpOption::RapidCommit;
        message.set_opts([client, ia, rapid].into_iter().chain(fqdn).collect());
        let payload = v6::Encodable::to_vec(&message).unwrap();
        let guest = addr6("fe80::5054:ff:fe12:3456");
        let frame = bench.reply_to(&udp(guest.into(), addr6("ff02::1:2").into(), (546, 547), &payload));
        let headers = Headers::parse(&frame, frame.len()).unwrap();
        assert_eq!(headers.ethernet.src, MacAddr(SERVER6_MAC));
        let link_local = MacAddr(SERVER6_MAC).link_local();
        assert_eq!(headers.network.addresses().unwrap().0, IpAddr::V6(link_local));
        let reply: v6::Message = v6::Decodable::decode(&mut v6::Decoder::new(&frame[62..])).unwrap();
        let duid = [&[0, 3, 0, 1][..], &SERVER6_MAC].concat();
        assert_eq!(
            reply.opts().get(v6::OptionCode::ServerId),
            Some(&v6::DhcpOption::ServerId(duid))
        );
        let Some(v6::DhcpOption::IANA(ia)) = reply.opts().get(v6::OptionCode::IANA) else {
            panic!("{reply:?}");
        };
        assert_eq!((ia.t1, ia.t2), (u32::MAX, u32::MAX));
        let Some(v6::DhcpOption::IAAddr(address)) = ia.opts.get(v6::OptionCode::IAAddr) else {
            panic!("{ia:?}");
        };
        assert_eq!(
            (address.addr, address.preferred_life, address.valid_life),
            (addr6("fd10:0:2::2"), u32::MAX, u32::MAX)
        );
        let name = expected.map(|(flags, name)| [&[flags][..], name].concat());
        let option = name.map(|name| [&[0, 39, 0, u8::try_from(name.len()).unwrap()][..], &name].concat());
        match option {
            Some(option) => assert!(frame.windows(option.len()).any(|bytes| bytes == option)),
            None => assert_eq!(reply.opts().get(v6::OptionCode::ClientFqdn), None),
        }
    }
}

#[test]
fn router_advertisements_have_the_values_of_ovn_kubernetes() {
    let mut bench = bench();
    let frame = bench.reply_to(&link::router_solicitation("fe80::5054:ff:fe12:3456", &[]));
    let message = &frame[54..];
    // Type, code, checksum, hop limit, M and low preference, router lifetime, reachable time, retransmission timer.
    assert_eq!((message[0], message[4], message[5]), (134, 255, 0x98));
    assert_eq!(&message[6..16], &[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let prefix = [3, 4, 120, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(
        message.windows(prefix.len()).any(|bytes| bytes == prefix),
        "on-link only"
    );
    // Unsolicited ones come every 300 to 900 seconds.
    let mut times = Vec::new();
    let mut last = bench.now;
    for _ in 0..400 {
        bench.now = bench.responders.deadline().expect("a deadline");
        bench
            .responders
            .on_timer(bench.now, &bench.counters, &mut bench.replies);
        if bench.take().iter().any(|frame| frame.get(54) == Some(&134)) {
            times.push(bench.now.since(last).as_secs());
            last = bench.now;
        }
    }
    assert!(times.iter().all(|secs| (300..=900).contains(secs)), "{times:?}");
    assert!(
        times.iter().min() < Some(&360) && times.iter().max() > Some(&840),
        "{times:?}"
    );
}

#[test]
fn an_address_server_is_no_router_of_any_preference() {
    let mut bench = with(ServiceConfig {
        station: Station::AddressServer,
        ..config()
    });
    let frame = bench.reply_to(&link::router_solicitation("fe80::5054:ff:fe12:3456", &[]));
    assert_eq!(&frame[58..62], &[255, 0x80, 0, 0]);
}
