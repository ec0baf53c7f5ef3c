//! Tests of DHCPv6, message by message.

use super::*;
use dhcproto::v6::{
    Decodable, Decoder, DhcpOption, DhcpOptions, Encodable, IAAddr, IANA, IAPD, IATA, Message, MessageType, ORO,
    OptionCode, Status,
};

const SERVERS: &str = "ff02::1:2";
const CLIENT: &str = "fe80::5054:ff:fe12:3456";
const GATEWAY_LINK_LOCAL: &str = "fe80::ff:fe00:0";
const GUEST: &str = "fd10:0:2::2";
const TRANSACTION: [u8; 3] = [1, 2, 3];
const CLIENT_DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SERVER_DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 0];
const IAID: u32 = 0xdead_beef;
const LEASE: u32 = 86_313_600;

/// An IA_NA that names `addresses`.
fn ia(id: u32, addresses: &[&str]) -> DhcpOption {
    let addresses = addresses.iter().map(|a| {
        DhcpOption::IAAddr(IAAddr {
            addr: addr6(a),
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        })
    });
    DhcpOption::IANA(IANA {
        id,
        t1: 0,
        t2: 0,
        opts: addresses.collect(),
    })
}

fn client() -> DhcpOption {
    DhcpOption::ClientId(CLIENT_DUID.to_vec())
}

fn server() -> DhcpOption {
    DhcpOption::ServerId(SERVER_DUID.to_vec())
}

/// A message of the guest to all servers.
fn packet(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    packet_to(SERVERS, kind, options)
}

fn packet_to(dst: &str, kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, TRANSACTION);
    message.set_opts(options.into_iter().collect());
    let payload = message.to_vec().expect("a message");
    udp(addr6(CLIENT).into(), addr6(dst).into(), (546, 547), &payload)
}

/// Parses a reply, after checking what all replies have in common.
fn parse(frame: &[u8], src: &str) -> Message {
    let headers = Headers::parse(frame, frame.len()).expect("a frame");
    assert_eq!(headers.ethernet.dst, GUEST_MAC);
    let addresses = (addr6(src).into(), addr6(CLIENT).into());
    assert_eq!(headers.network.addresses(), Some(addresses));
    let udp = UdpHeader::parse(&frame[54..], frame.len() - 54, false).expect("UDP");
    assert_eq!((udp.src_port, udp.dst_port), (547, 546));
    let message = Message::decode(&mut Decoder::new(&frame[62..])).expect("a message");
    assert_eq!(message.xid(), TRANSACTION);
    assert_eq!(message.opts().get(OptionCode::ServerId), Some(&server()));
    message
}

fn exchange(bench: &mut Bench, kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Message {
    let reply = parse(&bench.reply_to(&packet(kind, options)), GATEWAY_LINK_LOCAL);
    assert_eq!(reply.opts().get(OptionCode::ClientId), Some(&client()));
    reply
}

fn leases(bench: &Bench) -> u64 {
    bench.counters.count(Count::Dhcp6Leases)
}

/// The IA_NAs of a reply.
fn associations(message: &Message) -> Vec<IANA> {
    let options = message.opts().get_all(OptionCode::IANA).unwrap_or(&[]);
    let ia = |o: &DhcpOption| match o {
        DhcpOption::IANA(ia) => ia.clone(),
        other => panic!("{other:?}"),
    };
    options.iter().map(ia).collect()
}

/// The addresses in an association with their lifetimes. Asserts that the valid and preferred lifetimes are equal.
fn addresses(ia: &IANA) -> Vec<(Ipv6Addr, u32)> {
    let options = ia.opts.get_all(OptionCode::IAAddr).unwrap_or(&[]);
    let address = |o: &DhcpOption| match o {
        DhcpOption::IAAddr(a) => {
            assert_eq!(a.preferred_life, a.valid_life);
            (a.addr, a.valid_life)
        }
        other => panic!("{other:?}"),
    };
    options.iter().map(address).collect()
}

fn status(options: &DhcpOptions) -> Option<Status> {
    match options.get(OptionCode::StatusCode)? {
        DhcpOption::StatusCode(code) => Some(code.status),
        other => panic!("{other:?}"),
    }
}

/// Asserts that the only association contains the guest's address and nothing else.
#[track_caller]
fn assert_lease(message: &Message) {
    let associations = associations(message);
    assert_eq!(associations.len(), 1);
    assert_eq!(associations[0].id, IAID);
    assert_eq!((associations[0].t1, associations[0].t2), (LEASE / 2, LEASE / 5 * 4));
    assert_eq!(addresses(&associations[0]), [(addr6(GUEST), LEASE)]);
    assert_eq!(status(&associations[0].opts), None);
}

#[track_caller]
fn assert_parameters(message: &Message) {
    let dns = DhcpOption::DomainNameServers(vec![addr6("fd00::a")]);
    assert_eq!(message.opts().get(OptionCode::DomainNameServers), Some(&dns));
    let Some(DhcpOption::DomainSearchList(names)) = message.opts().get(OptionCode::DomainSearchList) else {
        panic!("no search list");
    };
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ns.svc.cluster.local.", "svc.cluster.local.", "cluster.local."]);
}

#[test]
fn a_solicit_gets_an_advertisement_of_the_guests_address() {
    let mut bench = Bench::new();
    let reply = exchange(&mut bench, MessageType::Solicit, [client(), ia(IAID, &[])]);
    assert_eq!(reply.msg_type(), MessageType::Advertise);
    assert_lease(&reply);
    assert_parameters(&reply);
    assert_eq!(
        reply.opts().get(OptionCode::Preference),
        Some(&DhcpOption::Preference(255))
    );
    assert_eq!(leases(&bench), 0, "an advertisement is no lease");
}

#[test]
fn the_search_list_is_not_compressed() {
    let reply = Bench::new().reply_to(&packet(MessageType::Solicit, [client(), ia(IAID, &[])]));
    let wire = b"\0\x18\0\x38\x02ns\x03svc\x07cluster\x05local\0\x03svc\x07cluster\x05local\0\x07cluster\x05local\0";
    assert!(reply.windows(wire.len()).any(|w| w == wire), "{reply:02x?}");
}

#[test]
fn rapid_commit_saves_a_round_trip() {
    let mut bench = Bench::new();
    let options = [client(), ia(IAID, &[]), DhcpOption::RapidCommit];
    let reply = exchange(&mut bench, MessageType::Solicit, options);
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(
        reply.opts().get(OptionCode::RapidCommit),
        Some(&DhcpOption::RapidCommit)
    );
    assert_eq!(reply.opts().get(OptionCode::Preference), None);
    assert_lease(&reply);
    assert_eq!(leases(&bench), 1);
}

#[test]
fn request_renew_and_rebind_get_the_lease() {
    let mut bench = Bench::new();
    let request = [client(), server(), ia(IAID, &[GUEST])];
    for kind in [MessageType::Request, MessageType::Renew] {
        let reply = exchange(&mut bench, kind, request.clone());
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert_lease(&reply);
        assert_parameters(&reply);
    }
    let reply = exchange(&mut bench, MessageType::Rebind, [client(), ia(IAID, &[GUEST])]);
    assert_lease(&reply);
    assert_eq!(leases(&bench), 3);
}

#[test]
fn a_request_for_another_address_of_the_link_gets_the_guests_and_one_off_link_is_refused() {
    let mut bench = Bench::new();
    let on_link = [client(), server(), ia(IAID, &["fd10:0:2::77"])];
    assert_lease(&exchange(&mut bench, MessageType::Request, on_link));
    assert_eq!(leases(&bench), 1);
    let off_link = [client(), server(), ia(IAID, &["2001:db8::2"])];
    let reply = exchange(&mut bench, MessageType::Request, off_link);
    let ia = &associations(&reply)[0];
    assert_eq!((status(&ia.opts), addresses(ia).len()), (Some(Status::NotOnLink), 0));
    assert_eq!(leases(&bench), 1);
}

#[test]
fn an_address_of_an_earlier_life_is_ended_when_it_is_renewed() {
    let renew = [client(), server(), ia(IAID, &["2001:db8::2"])];
    let reply = exchange(&mut Bench::new(), MessageType::Renew, renew);
    let ia = &associations(&reply)[0];
    assert_eq!(addresses(ia), [(addr6(GUEST), LEASE), (addr6("2001:db8::2"), 0)]);
}

#[test]
fn confirm_says_whether_the_address_is_still_right() {
    let mut bench = Bench::new();
    let cases = [
        (&[GUEST][..], Status::Success),
        (&["2001:db8::2"], Status::NotOnLink),
        (&[GUEST, "2001:db8::2"], Status::NotOnLink),
    ];
    for (addresses, expected) in cases {
        let reply = exchange(&mut bench, MessageType::Confirm, [client(), ia(IAID, addresses)]);
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert_eq!(status(reply.opts()), Some(expected), "{addresses:?}");
    }
    bench.silence(&packet(MessageType::Confirm, [client(), ia(IAID, &[])]));
}

#[test]
fn release_and_decline_are_counted_and_acknowledged() {
    let mut bench = Bench::new();
    for kind in [MessageType::Release, MessageType::Decline] {
        let options = [client(), server(), ia(IAID, &[GUEST]), ia(2, &["fd10:0:2::3"])];
        let reply = exchange(&mut bench, kind, options);
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert_eq!(status(reply.opts()), Some(Status::Success));
        let associations = associations(&reply);
        assert_eq!(associations.len(), 1);
        assert_eq!(associations[0].id, 2);
        assert_eq!(status(&associations[0].opts), Some(Status::NoBinding));
    }
    assert_eq!(bench.counters.count(Count::Dhcp6Releases), 1);
    assert_eq!(bench.counters.count(Count::Dhcp6Declines), 1);
    assert_eq!(leases(&bench), 0);
}

#[test]
fn a_lease_is_held_from_its_reply_until_its_release_however_often_it_was_renewed() {
    let mut bench = Bench::new();
    exchange(&mut bench, MessageType::Solicit, [client(), ia(IAID, &[])]);
    assert!(!bench.held.has_v6(), "an advertisement is no lease");
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Renew] {
        exchange(&mut bench, kind, [client(), server(), ia(IAID, &[GUEST])]);
    }
    assert!(bench.held.has_v6());
    let other = [client(), server(), ia(IAID, &["fd10:0:2::3"])];
    exchange(&mut bench, MessageType::Release, other);
    assert!(bench.held.has_v6(), "it releases another address");
    for kind in [MessageType::Release, MessageType::Decline] {
        exchange(
            &mut bench,
            MessageType::Request,
            [client(), server(), ia(IAID, &[GUEST])],
        );
        assert!(bench.held.has_v6());
        exchange(&mut bench, kind, [client(), server(), ia(IAID, &[GUEST])]);
        assert!(!bench.held.has_v6());
    }
    assert_eq!(leases(&bench), 5);
}

#[test]
fn an_information_request_gets_parameters_only() {
    let mut bench = Bench::new();
    let oro = DhcpOption::ORO(ORO {
        opts: vec![OptionCode::NtpServer],
    });
    let reply = exchange(&mut bench, MessageType::InformationRequest, [client(), oro]);
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_parameters(&reply);
    assert!(associations(&reply).is_empty());
    // A client identifier is optional.
    let reply = parse(
        &bench.reply_to(&packet(MessageType::InformationRequest, [])),
        GATEWAY_LINK_LOCAL,
    );
    assert_eq!(reply.opts().get(OptionCode::ClientId), None);
    assert_parameters(&reply);
}

#[test]
fn only_the_first_association_has_the_address() {
    let mut bench = Bench::new();
    let temporary = DhcpOption::IATA(IATA {
        id: 7,
        opts: DhcpOptions::new(),
    });
    let prefix = DhcpOption::IAPD(IAPD {
        id: 8,
        t1: 0,
        t2: 0,
        opts: DhcpOptions::new(),
    });
    let options = [client(), ia(IAID, &[]), ia(2, &[]), temporary, prefix.clone()];
    let reply = exchange(&mut bench, MessageType::Solicit, options);
    let found = associations(&reply);
    assert_eq!(found.len(), 2);
    assert_eq!(addresses(&found[0]), [(addr6(GUEST), LEASE)]);
    assert_eq!(status(&found[1].opts), Some(Status::NoAddrsAvail));
    let Some(DhcpOption::IATA(ia_ta)) = reply.opts().get(OptionCode::IATA) else {
        panic!()
    };
    assert_eq!((ia_ta.id, status(&ia_ta.opts)), (7, Some(Status::NoAddrsAvail)));
    let Some(DhcpOption::IAPD(ia_pd)) = reply.opts().get(OptionCode::IAPD) else {
        panic!()
    };
    assert_eq!((ia_pd.id, status(&ia_pd.opts)), (8, Some(Status::NoPrefixAvail)));

    let options = [client(), server(), ia(IAID, &[]), ia(2, &[]), prefix];
    let reply = exchange(&mut bench, MessageType::Renew, options);
    assert_eq!(status(&associations(&reply)[1].opts), Some(Status::NoBinding));
    let Some(DhcpOption::IAPD(ia_pd)) = reply.opts().get(OptionCode::IAPD) else {
        panic!()
    };
    assert_eq!(status(&ia_pd.opts), Some(Status::NoBinding));
}

#[test]
fn a_request_without_an_association_gets_none() {
    let reply = exchange(&mut Bench::new(), MessageType::Solicit, [client()]);
    assert!(associations(&reply).is_empty());
    assert_parameters(&reply);
}

#[test]
fn unicast_is_answered_from_the_address_it_went_to() {
    let mut bench = Bench::new();
    for dst in ["fd10:0:2::1", GATEWAY_LINK_LOCAL] {
        let frame = packet_to(dst, MessageType::Renew, [client(), server(), ia(IAID, &[GUEST])]);
        assert_lease(&parse(&bench.reply_to(&frame), dst));
    }
    let frame = packet_to(
        "2001:db8::1",
        MessageType::Renew,
        [client(), server(), ia(IAID, &[GUEST])],
    );
    assert_eq!(bench.send(&frame).0, Answer::NotMine);
}

#[test]
fn messages_whose_identifiers_are_wrong_are_refused() {
    let mut bench = Bench::new();
    let foreign = DhcpOption::ServerId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1]);
    let ia = ia(IAID, &[GUEST]);
    let cases = [
        (MessageType::Solicit, vec![ia.clone()]),
        (MessageType::Solicit, vec![client(), server(), ia.clone()]),
        (MessageType::Confirm, vec![client(), server(), ia.clone()]),
        (MessageType::Rebind, vec![client(), server(), ia.clone()]),
        (MessageType::Request, vec![client(), ia.clone()]),
        (MessageType::Request, vec![client(), foreign.clone(), ia.clone()]),
        (MessageType::Renew, vec![server(), ia.clone()]),
        (MessageType::Renew, vec![client(), foreign.clone(), ia.clone()]),
        (MessageType::Release, vec![client(), foreign.clone(), ia.clone()]),
        (MessageType::Decline, vec![client(), ia.clone()]),
        (MessageType::InformationRequest, vec![client(), foreign]),
        (MessageType::InformationRequest, vec![client(), ia.clone()]),
        (MessageType::Advertise, vec![client(), server(), ia.clone()]),
        (MessageType::Reply, vec![client(), server(), ia.clone()]),
        (MessageType::Unknown(77), vec![client(), ia.clone()]),
        (
            MessageType::Solicit,
            vec![DhcpOption::ClientId(vec![0; 131]), ia.clone()],
        ),
        (MessageType::Solicit, vec![DhcpOption::ClientId(vec![0; 2]), ia]),
    ];
    for (kind, options) in cases {
        bench.refused(&packet(kind, options), DropReason::BadService);
    }
}

#[test]
fn malformed_messages_are_refused() {
    let mut bench = Bench::new();
    let (src, dst) = (addr6(CLIENT).into(), addr6(SERVERS).into());
    let good = [&[1, 1, 2, 3, 0, 1, 0, 10][..], &CLIENT_DUID].concat();
    let bad: [&[u8]; 8] = [
        &[],                                             // nothing
        &[0],                                            // half an option
        &[0, 8, 0],                                      // an option without its length
        &[0, 8, 0, 2, 0],                                // an option cut short
        &[0, 3, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], // IA_NA without T2
        &[0, 4, 0, 3, 0, 0, 0],                          // IA_TA without its IAID
        &[0, 25, 0, 0],                                  // IA_PD without anything
        &[0, 4, 0, 9, 0, 0, 0, 1, 0, 5, 0, 24, 0],       // an address cut short
    ];
    for (i, tail) in bad.iter().enumerate() {
        let payload = if i == 0 {
            vec![1, 1, 2]
        } else {
            [&good[..], tail].concat()
        };
        bench.refused(&udp(src, dst, (546, 547), &payload), DropReason::BadService);
    }
    bench.reply_to(&udp(src, dst, (546, 547), &good));
    bench.refused(&udp(addr6("::").into(), dst, (546, 547), &good), DropReason::BadService);
}

/// The codec's decoder would parse these options, and overflow.
#[test]
fn options_that_were_not_requested_are_not_parsed() {
    let mut bench = Bench::new();
    let (src, dst) = (addr6(CLIENT).into(), addr6(SERVERS).into());
    let good = [&[1, 1, 2, 3, 0, 1, 0, 10][..], &CLIENT_DUID].concat();
    let nested = (0..200u16).rev().fold(Vec::new(), |inner, _| {
        let len = u16::try_from(inner.len() + 4).expect("short").to_be_bytes();
        [&[0, 4, len[0], len[1], 0, 0, 0, 1][..], &inner].concat()
    });
    for tail in [&[0, 13, 0, 1, 0][..], &[0, 16, 0, 2, 0, 0], &[0, 17, 0, 0], &nested] {
        bench.reply_to(&udp(src, dst, (546, 547), &[&good[..], tail].concat()));
    }
}

#[test]
fn the_largest_reply_fits_the_least_mtu_of_ipv6() {
    let mut bench = Bench::with(ServiceConfig {
        names: NameConfig {
            hostname: None,
            dns: (0..20u16)
                .map(|i| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i]))
                .collect(),
            search: (0..40).map(|i| format!("domain-{i:02}.example")).collect(),
            ..NameConfig::default()
        },
        mtu: 1280,
        ..config()
    });
    let mut options = vec![DhcpOption::ClientId(vec![7; 130]), server()];
    let wrong: Vec<_> = (0..6u16)
        .map(|i| Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, i]).to_string())
        .collect();
    let wrong: Vec<_> = wrong.iter().map(String::as_str).collect();
    options.extend((0..9).map(|id| ia(id, &wrong)));
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release] {
        let frame = packet(kind, options.clone());
        let (answer, replies) = bench.send(&frame);
        assert_eq!(answer, Answer::Done);
        assert!(
            replies[0].len() <= 1280 + EthernetHeader::LEN,
            "{kind:?}: {}",
            replies[0].len()
        );
        assert_eq!(
            associations(&parse(&replies[0], GATEWAY_LINK_LOCAL)).len(),
            4 - usize::from(kind == MessageType::Release)
        );
    }
}
