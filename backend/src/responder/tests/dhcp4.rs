//! Tests of DHCPv4, message by message.

use super::*;
use crate::config::Ipv4Link;
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Encodable, Flags, Message, MessageType, OptionCode};

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 77);

/// A message of a client with the message type as its only option.
pub(super) fn message(kind: MessageType) -> Message {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, any, any, any, any, &GUEST_MAC.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

pub(super) fn with(mut message: Message, option: DhcpOption) -> Message {
    message.opts_mut().insert(option);
    message
}

pub(super) fn packet(message: &Message) -> Vec<u8> {
    udp(ANY, BROADCAST, (68, 67), &message.to_vec().expect("a message"))
}

/// A parsed reply.
struct Reply {
    mac: MacAddr,
    dst: IpAddr,
    message: Message,
    payload: Vec<u8>,
}

impl Reply {
    fn parse(frame: &[u8]) -> Self {
        let headers = Headers::parse(frame, frame.len()).expect("a frame");
        let (src, dst) = headers.network.addresses().expect("IP");
        assert_eq!(src, IpAddr::V4(GATEWAY));
        let udp = UdpHeader::parse(&frame[34..], frame.len() - 34, false).expect("UDP");
        assert_eq!((udp.src_port, udp.dst_port), (67, 68));
        let payload = frame[42..].to_vec();
        assert_eq!(payload[240..242], [53, 1], "the message type comes first");
        let message = Message::decode(&mut Decoder::new(&payload)).expect("a message");
        assert_eq!(message.opcode(), dhcproto::v4::Opcode::BootReply);
        assert_eq!(message.xid(), 0x1234_5678);
        assert_eq!(message.chaddr(), GUEST_MAC.0);
        assert_eq!(
            message.opts().get(OptionCode::ServerIdentifier),
            Some(&DhcpOption::ServerIdentifier(GATEWAY))
        );
        Self {
            mac: headers.ethernet.dst,
            dst,
            message,
            payload,
        }
    }

    fn kind(&self) -> MessageType {
        self.message.opts().msg_type().expect("a type")
    }

    fn option(&self, code: OptionCode) -> Option<&DhcpOption> {
        self.message.opts().get(code)
    }
}

fn exchange(bench: &mut Bench, message: &Message) -> Reply {
    Reply::parse(&bench.reply_to(&packet(message)))
}

/// Asserts the options that every guest gets, in the order of their codes.
fn assert_parameters(reply: &Reply) {
    let options: Vec<_> = reply.message.opts().iter().map(|(code, _)| u8::from(*code)).collect();
    let parameters: Vec<_> = options
        .into_iter()
        .filter(|code| ![51, 53, 54, 61, 80].contains(code))
        .collect();
    assert_eq!(parameters, [1, 3, 6, 12, 15, 26, 119]);
    let expected = [
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![[10, 96, 0, 10].into(), [10, 96, 0, 11].into()]),
        DhcpOption::Hostname("vm-1".to_owned()),
        DhcpOption::DomainName("ns.svc.cluster.local".to_owned()),
        DhcpOption::InterfaceMtu(1500),
    ];
    for option in expected {
        assert_eq!(reply.option(OptionCode::from(&option)), Some(&option));
    }
}

const LEASE: DhcpOption = DhcpOption::AddressLeaseTime(86_313_600);

#[test]
fn a_discover_gets_an_offer_of_the_guests_address() {
    let mut bench = Bench::new();
    let reply = exchange(&mut bench, &message(MessageType::Discover));
    assert_eq!(reply.kind(), MessageType::Offer);
    assert_eq!(reply.message.yiaddr(), GUEST);
    assert_eq!(
        (reply.mac, reply.dst),
        (GUEST_MAC, IpAddr::V4(GUEST)),
        "unicast without the broadcast flag"
    );
    assert_eq!(reply.option(OptionCode::AddressLeaseTime), Some(&LEASE));
    assert_parameters(&reply);
    assert!(reply.payload.len() >= 300);
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 0, "an offer is no lease");
}

#[test]
fn a_request_of_the_offered_address_gets_a_lease_whatever_is_asked_for() {
    let mut bench = Bench::new();
    let request = with(message(MessageType::Request), DhcpOption::ServerIdentifier(GATEWAY));
    let request = with(request, DhcpOption::RequestedIpAddress(GUEST));
    let request = with(request, DhcpOption::ParameterRequestList(vec![OptionCode::NtpServers]));
    let reply = exchange(&mut bench, &request);
    assert_eq!(reply.kind(), MessageType::Ack);
    assert_eq!(reply.message.yiaddr(), GUEST);
    assert_eq!(reply.option(OptionCode::AddressLeaseTime), Some(&LEASE));
    assert_parameters(&reply);
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 1);
}

#[test]
fn the_search_list_is_compressed() {
    let reply = exchange(&mut Bench::new(), &message(MessageType::Discover));
    let wire = b"\x77\x1c\x02ns\x03svc\x07cluster\x05local\0\xc0\x03\xc0\x07";
    let wire = [&wire[..1], &[u8::try_from(wire.len() - 2).expect("short")], &wire[2..]].concat();
    assert!(
        reply.payload.windows(wire.len()).any(|w| w == wire),
        "{:02x?}",
        reply.payload
    );
}

#[test]
fn the_broadcast_flag_is_honoured() {
    let mut discover = message(MessageType::Discover);
    discover.set_flags(Flags::default().set_broadcast());
    let reply = exchange(&mut Bench::new(), &discover);
    assert_eq!((reply.mac, reply.dst), (MacAddr::BROADCAST, BROADCAST));
    assert!(reply.message.flags().broadcast());
}

#[test]
fn a_wrong_address_is_refused_to_every_client() {
    let mut bench = Bench::new();
    let selecting = with(message(MessageType::Request), DhcpOption::ServerIdentifier(GATEWAY));
    let selecting = with(selecting, DhcpOption::RequestedIpAddress(OTHER));
    let rebooting = with(
        message(MessageType::Request),
        DhcpOption::RequestedIpAddress([192, 168, 1, 5].into()),
    );
    let mut renewing = message(MessageType::Request);
    renewing.set_ciaddr(OTHER);
    for request in [selecting, rebooting, renewing, message(MessageType::Request)] {
        let request = with(request, DhcpOption::ClientIdentifier(vec![1, 2, 3]));
        let reply = exchange(&mut bench, &request);
        assert_eq!(reply.kind(), MessageType::Nak);
        assert_eq!((reply.mac, reply.dst), (MacAddr::BROADCAST, BROADCAST));
        assert_eq!(reply.message.yiaddr(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(reply.message.ciaddr(), Ipv4Addr::UNSPECIFIED);
        let codes: Vec<_> = reply.message.opts().iter().map(|(code, _)| u8::from(*code)).collect();
        assert_eq!(codes, [53, 54, 56, 61], "RFC 2131 table 3");
    }
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 0);
}

#[test]
fn a_request_to_another_server_is_left_alone() {
    let request = with(message(MessageType::Request), DhcpOption::ServerIdentifier(OTHER));
    let request = with(request, DhcpOption::RequestedIpAddress(GUEST));
    Bench::new().silence(&packet(&request));
}

#[test]
fn a_rebooting_client_keeps_its_address() {
    let request = with(message(MessageType::Request), DhcpOption::RequestedIpAddress(GUEST));
    let reply = exchange(&mut Bench::new(), &request);
    assert_eq!((reply.kind(), reply.message.yiaddr()), (MessageType::Ack, GUEST));
}

#[test]
fn a_renewing_client_is_answered_by_unicast_even_if_it_set_the_broadcast_flag() {
    let mut bench = Bench::new();
    let mut request = message(MessageType::Request);
    request.set_ciaddr(GUEST).set_flags(Flags::default().set_broadcast());
    let frame = udp(
        IpAddr::V4(GUEST),
        IpAddr::V4(GATEWAY),
        (68, 67),
        &request.to_vec().expect("a message"),
    );
    let reply = Reply::parse(&bench.reply_to(&frame));
    assert_eq!(reply.kind(), MessageType::Ack);
    assert_eq!((reply.mac, reply.dst), (GUEST_MAC, IpAddr::V4(GUEST)));
    assert_eq!((reply.message.yiaddr(), reply.message.ciaddr()), (GUEST, GUEST));
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 1);
}

#[test]
fn rapid_commit_saves_a_round_trip() {
    let mut bench = Bench::new();
    let reply = exchange(
        &mut bench,
        &with(message(MessageType::Discover), DhcpOption::RapidCommit),
    );
    assert_eq!((reply.kind(), reply.message.yiaddr()), (MessageType::Ack, GUEST));
    assert_eq!(reply.option(OptionCode::RapidCommit), Some(&DhcpOption::RapidCommit));
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 1);
    let request = with(message(MessageType::Request), DhcpOption::RequestedIpAddress(GUEST));
    let reply = exchange(&mut bench, &with(request, DhcpOption::RapidCommit));
    assert_eq!(
        reply.option(OptionCode::RapidCommit),
        None,
        "only in answer to a DISCOVER"
    );
}

#[test]
fn an_inform_gets_parameters_without_a_lease() {
    let mut bench = Bench::new();
    let mut inform = message(MessageType::Inform);
    inform.set_ciaddr(GUEST);
    let reply = exchange(&mut bench, &inform);
    assert_eq!(reply.kind(), MessageType::Ack);
    assert_eq!((reply.mac, reply.dst), (GUEST_MAC, IpAddr::V4(GUEST)));
    assert_eq!(reply.message.yiaddr(), Ipv4Addr::UNSPECIFIED);
    assert_eq!(reply.option(OptionCode::AddressLeaseTime), None);
    assert_parameters(&reply);
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 0);
    inform.set_ciaddr(Ipv4Addr::new(192, 0, 2, 1));
    bench.refused(&packet(&inform), DropReason::BadService);
}

#[test]
fn decline_and_release_are_counted_and_not_answered() {
    let mut bench = Bench::new();
    bench.silence(&packet(&message(MessageType::Decline)));
    bench.silence(&packet(&message(MessageType::Release)));
    assert_eq!(bench.counters.count(Count::Dhcp4Declines), 1);
    assert_eq!(bench.counters.count(Count::Dhcp4Releases), 1);
}

#[test]
fn a_lease_is_held_from_its_acknowledgment_until_its_release_however_often_it_was_renewed() {
    let mut bench = Bench::new();
    exchange(&mut bench, &message(MessageType::Discover));
    assert!(!bench.held.has_v4(), "an offer is no lease");
    let request = with(message(MessageType::Request), DhcpOption::RequestedIpAddress(GUEST));
    for _ in 0..3 {
        exchange(&mut bench, &request);
    }
    assert!(bench.held.has_v4());
    let mut release = message(MessageType::Release);
    release.set_ciaddr(OTHER);
    bench.silence(&packet(&release));
    assert!(bench.held.has_v4(), "it releases another address");
    release.set_ciaddr(GUEST);
    bench.silence(&packet(&release));
    assert!(!bench.held.has_v4());

    exchange(&mut bench, &request);
    let decline = with(message(MessageType::Decline), DhcpOption::RequestedIpAddress(GUEST));
    bench.silence(&packet(&decline));
    assert!(!bench.held.has_v4());
    assert_eq!(bench.counters.count(Count::Dhcp4Leases), 4);
}

#[test]
fn the_client_identifier_comes_back() {
    let id = DhcpOption::ClientIdentifier(vec![0xff, 1, 2, 3, 4]);
    let reply = exchange(&mut Bench::new(), &with(message(MessageType::Discover), id.clone()));
    assert_eq!(reply.option(OptionCode::ClientIdentifier), Some(&id));
}

#[test]
fn what_is_no_clients_message_is_refused() {
    let mut bench = Bench::new();
    let mut relayed = message(MessageType::Discover);
    relayed.set_giaddr(OTHER);
    let mut reply = message(MessageType::Discover);
    reply.set_opcode(dhcproto::v4::Opcode::BootReply);
    let mut no_ethernet = message(MessageType::Discover);
    no_ethernet.set_chaddr(&[1; 16]);
    let mut group = message(MessageType::Discover);
    group.set_chaddr(&[1, 0, 0x5e, 0, 0, 1]);
    let mut bootp = message(MessageType::Discover);
    bootp.opts_mut().remove(OptionCode::MessageType);
    for message in [relayed, reply, no_ethernet, group, bootp, message(MessageType::Offer)] {
        bench.refused(&packet(&message), DropReason::BadService);
    }
    let mut no_cookie = message(MessageType::Discover).to_vec().expect("a message");
    no_cookie[236] ^= 1;
    bench.refused(&udp(ANY, BROADCAST, (68, 67), &no_cookie), DropReason::BadService);
    bench.refused(
        &udp(ANY, BROADCAST, (68, 67), &no_cookie[..239]),
        DropReason::BadService,
    );
    let mut long = packet(&message(MessageType::Discover));
    long[38] = 0xff; // UDP length
    bench.refused(&long, DropReason::BadService);
}

/// The codec's full decoder would hit an assertion, or index beyond its array, on these messages.
#[test]
fn odd_lengths_in_unused_fields_do_no_harm() {
    let mut bench = Bench::new();
    let discover = message(MessageType::Discover).to_vec().expect("a message");
    let end = discover.len() - 1;
    for option in [
        &[80, 1, 0][..],
        &[81, 2, 0, 0],
        &[94, 1, 0],
        &[151, 0],
        &[50, 3, 1, 2, 3],
        &[121, 1, 32],
    ] {
        let payload = [&discover[..end], option, &[255]].concat();
        bench.reply_to(&udp(ANY, BROADCAST, (68, 67), &payload));
    }
    let mut hlen = discover;
    hlen[2] = 255;
    bench.refused(&udp(ANY, BROADCAST, (68, 67), &hlen), DropReason::BadService);
}

#[test]
fn messages_to_other_servers_of_the_world_pass_by() {
    let payload = message(MessageType::Request).to_vec().expect("a message");
    let frame = udp(IpAddr::V4(GUEST), [192, 0, 2, 1].into(), (68, 67), &payload);
    assert_eq!(Bench::new().send(&frame).0, Answer::NotMine);
}

#[test]
fn a_router_outside_the_network_comes_with_a_route_to_it() {
    let mut far = config();
    far.ipv4 = far.ipv4.map(|link| Ipv4Link {
        network: "10.0.2.2/32".parse().expect("a network"),
        ..link
    });
    let reply = exchange(&mut Bench::with(far), &message(MessageType::Discover));
    let wire = b"\x79\x0e\x20\x0a\0\x02\x01\0\0\0\0\0\x0a\0\x02\x01";
    assert!(reply.payload.windows(wire.len()).any(|bytes| bytes == wire), "RFC 3442");
}

fn long_search() -> ServiceConfig {
    ServiceConfig {
        names: NameConfig {
            search: (0..22).map(|i| format!("unlike{i:02}.tld{i:02}x{i:02}")).collect(),
            ..config().names
        },
        ..config()
    }
}

#[test]
fn options_of_the_operator_are_sent_whatever_is_requested() {
    let names = NameConfig {
        dhcp_options: vec![
            (42, vec![192, 0, 2, 7, 192, 0, 2, 8]),
            (66, b"boot.example".to_vec()),
            (240, b"rack-7".to_vec()),
        ],
        ..config().names
    };
    let reply = exchange(
        &mut Bench::with(ServiceConfig { names, ..config() }),
        &message(MessageType::Discover),
    );
    let servers = vec![[192, 0, 2, 7].into(), [192, 0, 2, 8].into()];
    assert_eq!(
        reply.option(OptionCode::NtpServers),
        Some(&DhcpOption::NtpServers(servers))
    );
    let tftp = DhcpOption::TFTPServerName(b"boot.example".to_vec());
    assert_eq!(reply.option(OptionCode::TFTPServerName), Some(&tftp));
    let private = reply.option(OptionCode::Unknown(240));
    assert!(matches!(private, Some(DhcpOption::Unknown(option)) if option.data() == b"rack-7"));
}

/// The domains of option 119, joined from the parts of the option.
fn domains(reply: &Reply) -> Vec<String> {
    match reply.option(OptionCode::DomainSearch) {
        Some(DhcpOption::DomainSearch(names)) => names.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_search_list_is_split_over_several_options() {
    let discover = with(message(MessageType::Discover), DhcpOption::MaxMessageSize(1500));
    let reply = exchange(&mut Bench::with(long_search()), &discover);
    let domains = domains(&reply);
    assert_eq!(domains.len(), 22);
    assert_eq!(domains[21], "unlike21.tld21x21.");
    let parts = dhcproto::v4::borrowed::Message::new(&reply.payload).expect("a message");
    let search = parts
        .opts()
        .find(|o| o.code() == OptionCode::DomainSearch)
        .expect("option 119");
    assert!(search.len() > 255, "{}", search.len());
}

#[test]
fn a_search_list_too_long_for_the_client_is_cut_at_its_end() {
    // The client sends no limit, or a limit near the length that every client must accept: an IP packet of 576 bytes.
    for limit in [None, Some(300), Some(576), Some(700)] {
        let mut discover = message(MessageType::Discover);
        if let Some(limit) = limit {
            discover = with(discover, DhcpOption::MaxMessageSize(limit));
        }
        let reply = exchange(&mut Bench::with(long_search()), &discover);
        let domains = domains(&reply);
        assert!((5..22).contains(&domains.len()), "{limit:?}: {}", domains.len());
        assert_eq!(domains[0], "unlike00.tld00x00.");
        let len = reply.payload.len() + 28;
        let limit = usize::from(limit.unwrap_or(0)).max(576);
        assert!(len <= limit && len + 19 > limit, "{len} of {limit}");
    }
}

#[test]
fn bad_names_are_left_out_and_the_rest_is_handed_out() {
    let reply = exchange(
        &mut Bench::with(ServiceConfig {
            names: NameConfig {
                hostname: Some("not a host name".to_owned()),
                dns: vec![],
                search: vec!["..".to_owned(), "UPPER.example.".to_owned(), "a b".to_owned()],
                ..NameConfig::default()
            },
            ..config()
        }),
        &message(MessageType::Discover),
    );
    assert_eq!(domains(&reply), ["UPPER.example."]);
    let domain = DhcpOption::DomainName("UPPER.example".to_owned());
    assert_eq!(reply.option(OptionCode::DomainName), Some(&domain));
    assert_eq!(reply.option(OptionCode::Hostname), None);
    assert_eq!(reply.option(OptionCode::DomainNameServer), None);
}
