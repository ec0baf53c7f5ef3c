use super::*;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);

fn group4(last: u8) -> IpAddr {
    Ipv4Addr::new(239, 1, 1, last).into()
}

fn group6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, last).into()
}

/// A frame with an IGMP message from a host.
fn igmp_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 34];
    EthernetHeader {
        dst: MAC,
        src: MAC,
        ethertype: EtherType::Ipv4,
    }
    .emit(&mut frame);
    Ipv4Header {
        src: HOST4,
        dst: Ipv4Addr::new(224, 0, 0, 22),
        protocol: protocol::IGMP,
        ttl: 1,
        tos: 0,
        dont_fragment: true,
        fragment: None,
        header_len: 20,
        payload_len: message.len(),
    }
    .emit(&mut frame[14..]);
    frame.extend(message);
    let sum = Sum::default().bytes(&frame[34..]).finish();
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame with an MLD message from a host, after the router alert.
fn mld_frame(message: &[u8]) -> Vec<u8> {
    let dst = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let mut frame = vec![0; 54];
    EthernetHeader {
        dst: MAC,
        src: MAC,
        ethertype: EtherType::Ipv6,
    }
    .emit(&mut frame);
    Ipv6Header {
        src: HOST6,
        dst,
        protocol: protocol::HOP_BY_HOP,
        hop_limit: 1,
        traffic_class: 0,
        fragment: None,
        header_len: 40,
        payload_len: ALERT6.len() + message.len(),
    }
    .emit(&mut frame[14..]);
    frame.extend(ALERT6);
    frame.extend(message);
    icmp::fill_checksum(HOST6.into(), dst.into(), &mut frame[62..]);
    frame
}

fn parse(frame: &[u8]) -> Result<Membership<'_>, BadMembership> {
    let head = Head::parse(&frame[..frame.len().min(128)], frame.len());
    assert!(is_membership(frame, &head));
    Membership::parse(frame, &head)
}

fn changes(frame: &[u8]) -> Vec<(IpAddr, bool)> {
    match parse(frame) {
        Ok(Membership::Report(changes)) => changes.map(|change| (change.group, change.is_wanted)).collect(),
        other => panic!("{other:?}"),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A report of the newest version, given the type, number of sources and group of each record.
fn report(records: &[(u8, u16, IpAddr)]) -> Vec<u8> {
    let is_v4 = records[0].2.is_ipv4();
    let mut message = vec![if is_v4 { igmp::REPORT3 } else { v6::MLD2_REPORT }, 0, 0, 0, 0, 0];
    message.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    for (kind, sources, group) in records {
        message.extend([*kind, 1]);
        message.extend(sources.to_be_bytes());
        message.extend(octets(*group));
        message.resize(message.len() + usize::from(*sources) * octets(*group).len() + 4, 7);
    }
    if is_v4 {
        igmp_frame(&message)
    } else {
        mld_frame(&message)
    }
}

#[test]
fn reports_of_every_version_say_what_a_host_wants() {
    let old4 = |kind| igmp_frame(&[&[kind, 0, 0, 0][..], &octets(group4(9))].concat());
    assert_eq!(changes(&old4(igmp::REPORT1)), [(group4(9), true)]);
    assert_eq!(changes(&old4(igmp::REPORT2)), [(group4(9), true)]);
    assert_eq!(changes(&old4(igmp::LEAVE)), [(group4(9), false)]);
    let old6 = |kind| mld_frame(&[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &octets(group6(9))].concat());
    assert_eq!(changes(&old6(v6::MLD_REPORT)), [(group6(9), true)]);
    assert_eq!(changes(&old6(v6::MLD_DONE)), [(group6(9), false)]);
    for group in [|n: u8| group4(n), |n: u8| group6(n.into())] {
        let frame = report(&[
            (record::IS_INCLUDE, 0, group(1)),
            (record::IS_INCLUDE, 2, group(2)),
            (record::IS_EXCLUDE, 0, group(3)),
            (record::TO_INCLUDE, 0, group(4)),
            (record::TO_INCLUDE, 1, group(5)),
            (record::TO_EXCLUDE, 3, group(6)),
            (record::ALLOW, 1, group(7)),
            (record::BLOCK, 1, group(8)),
            (99, 0, group(9)),
        ]);
        let wanted = [false, true, true, false, true, true, true];
        let expected: Vec<_> = (1..).map(group).zip(wanted).collect();
        assert_eq!(changes(&frame), expected);
    }
}

#[test]
fn what_contradicts_itself_or_comes_from_another_link_is_refused() {
    let good = [report(&[(2, 1, group4(1))]), report(&[(2, 1, group6(1))])];
    for frame in &good {
        assert!(parse(frame).is_ok());
        let records = if frame[12] == 8 { 34 + 7 } else { 62 + 7 };
        let ttl = if frame[12] == 8 { 22 } else { 21 };
        for (at, value) in [(records, 2), (records + 4, 9), (ttl, 2), (frame.len() - 1, 1)] {
            let mut bad = frame.clone();
            bad[at] = value;
            assert_eq!(parse(&bad), Err(BadMembership), "byte {at}");
        }
    }
    let unicast = igmp_frame(&[igmp::REPORT2, 0, 0, 0, 10, 0, 0, 1]);
    let short = igmp_frame(&[igmp::REPORT2, 0, 0, 0, 239, 0, 0]);
    let unknown = igmp_frame(&[0x99, 0, 0, 0, 239, 0, 0, 1]);
    for bad in [unicast, short, unknown] {
        assert_eq!(parse(&bad), Err(BadMembership));
    }
    // RFC 3810 5.2.13: only link-local sources send reports.
    let mut global = report(&[(2, 0, group6(1))]);
    global[22] = 0x20;
    icmp::fill_checksum(
        Ipv6Addr::new(0x2080, 0, 0, 0, 0, 0, 0, 5).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).into(),
        &mut global[62..],
    );
    assert_eq!(parse(&global), Err(BadMembership));
}

#[test]
fn a_query_is_read_again_and_has_what_the_standards_ask() {
    for (source, group, dst) in [
        (HOST4.into(), None, [0x01, 0, 0x5e, 0, 0, 1]),
        (HOST4.into(), Some(group4(3)), [0x01, 0, 0x5e, 1, 1, 3]),
        (HOST6.into(), None, [0x33, 0x33, 0, 0, 0, 1]),
        (HOST6.into(), Some(group6(3)), [0x33, 0x33, 0, 0, 0, 3]),
    ] {
        let query = Query {
            mac: MAC,
            source,
            group,
            response_secs: 1,
            interval_secs: 150,
        };
        let (bytes, len) = query.frame();
        let frame = &bytes[..len];
        assert_eq!(parse(frame), Ok(Membership::Query { source, group }));
        let head = Head::parse(frame, len);
        assert_eq!(head.fault(), None);
        assert_eq!(head.destination_mac(frame), Some(MacAddr(dst)));
        assert_eq!(head.addresses(frame).unwrap().0, source);
        let message = head.transport_bytes(frame);
        let (codes, response) = match source {
            IpAddr::V4(_) => (&message[8..10], u16::from(message[1]) * 100),
            IpAddr::V6(_) => (&message[24..26], be16(message, 4)),
        };
        // 150 s is written as 144 s, because the code has four bits of precision.
        assert_eq!((codes, response), (&[2, 0x82][..], 1000));
        let alert = if source.is_ipv4() {
            &frame[34..38]
        } else {
            &frame[56..60]
        };
        assert!([&ALERT4[..], &ALERT6[2..6]].contains(&alert), "{alert:?}");
    }
    let other_family = Query {
        mac: MAC,
        source: HOST4.into(),
        group: Some(group6(1)),
        response_secs: 1,
        interval_secs: 150,
    };
    assert_eq!(other_family.frame().1, EthernetHeader::LEN);
}

#[test]
fn an_interval_is_rounded_down_to_what_its_code_can_say() {
    let decode = |code: u8| match code {
        0..128 => u32::from(code),
        _ => (u32::from(code & 0xf) | 0x10) << ((code >> 4 & 7) + 3),
    };
    for secs in 0..=u16::MAX {
        let said = decode(interval_code(secs));
        assert!(said <= u32::from(secs), "{secs}");
        assert!(secs > 31744 || said * 17 >= u32::from(secs) * 16, "{secs}: {said}");
    }
}

#[test]
fn groups_of_the_link_are_known() {
    for (group, is_link) in [
        ("224.0.0.251", true),
        ("224.0.1.1", false),
        ("239.255.255.250", false),
        ("ff01::1", true),
        ("ff02::fb", true),
        ("ff12::1", true),
        ("ff05::2", false),
        ("ff0e::101", false),
    ] {
        assert_eq!(is_link_scope(group.parse().unwrap()), is_link, "{group}");
    }
}

proptest! {
    #[test]
    fn any_message_is_read_without_a_panic(message in proptest::collection::vec(any::<u8>(), 8..120), kind in 0..8usize) {
        let kinds = [igmp::QUERY, igmp::REPORT1, igmp::REPORT2, igmp::LEAVE, igmp::REPORT3, 131, 143, 130];
        let mut message = message;
        message[0] = kinds[kind];
        if kind < 5 {
            // Records without a change are also parsed, and the iterator ends.
            if let Ok(Membership::Report(changes)) = parse(&igmp_frame(&message)) {
                prop_assert!(changes.count() <= 120);
            }
        } else if let Ok(Membership::Report(changes)) = parse(&mld_frame(&message)) {
            prop_assert!(changes.count() <= 120);
        }
    }

    #[test]
    fn any_frame_is_judged_without_a_panic(frame in crate::properties::frame()) {
        let head = Head::parse(&frame[..frame.len().min(128)], frame.len());
        let _ = is_membership(&frame, &head);
        let _ = Membership::parse(&frame, &head);
    }
}
