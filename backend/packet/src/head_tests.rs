use super::*;
use crate::vlan::{TPID_8021AD, TPID_8021Q};
use crate::{Headers, Network, protocol};

const UDP4: [u8; 28] = [
    0x45, 0x28, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 2, 2, 192, 0, 2, 1, 0x9c, 0x40, 0, 53, 0, 8, 0, 0,
];

fn frame(tags: &[(u16, u16)], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]].concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x61, 0x40, 0, 0, 0, 0, next_header, 63];
    packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([[0xfd; 16], [0x20; 16]].concat());
    packet.extend(payload);
    packet
}

fn parse(bytes: &[u8]) -> Head {
    Head::parse(bytes, bytes.len())
}

#[test]
fn what_a_head_says_lies_behind_the_tags() {
    for tags in [
        &[][..],
        &[(TPID_8021Q, 0x2007)],
        &[(TPID_8021AD, 0x2007), (TPID_8021Q, 8)],
    ] {
        let at = EthernetHeader::LEN + tags.len() * VlanTag::LEN;
        let bytes = frame(tags, 0x0800, &UDP4);
        let head = parse(&bytes);
        assert_eq!((head.fault(), head.ethertype()), (None, EtherType::Ipv4));
        assert_eq!((usize::from(head.tags()), head.packet()), (tags.len(), at));
        assert_eq!(head.outer(), tags.first().map_or(0x0800, |tag| tag.0));
        assert_eq!(head.tci(), tags.first().map_or(0, |tag| tag.1));
        let transport = TransportAt {
            protocol: protocol::UDP,
            offset: at + 20,
            len: 8,
        };
        assert_eq!(head.transport(), Some(transport));
        let addresses = ([10, 0, 2, 2].into(), [192, 0, 2, 1].into());
        assert_eq!(head.ipv4_addresses(&bytes), Some(addresses));
        assert_eq!(head.ipv6_addresses(&bytes), None);
        assert_eq!(head.source_mac(&bytes), Some(MacAddr([2, 0, 0, 0, 0, 9])));
        assert_eq!(head.destination_mac(&bytes), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!((head.ttl(&bytes), head.traffic_class(&bytes)), (Some(64), 0x28));
        assert!(head.is_unfragmentable(&bytes) && !head.is_fragment() && !head.has_ipv4_options());
        assert_eq!(head.transport_bytes(&bytes), &UDP4[20..]);
    }
}

#[test]
fn a_third_tag_and_one_that_is_cut_off_are_not_looked_behind() {
    let tag = (TPID_8021Q, 7);
    let head = parse(&frame(&[tag, tag, tag], 0x0800, &UDP4));
    assert_eq!((head.tags(), head.ethertype()), (2, EtherType::Other(TPID_8021Q)));
    assert_eq!(head.transport(), None);
    let head = parse(&frame(&[tag], 0x0800, &UDP4)[..17]);
    assert_eq!((head.tags(), head.ethertype()), (0, EtherType::Other(TPID_8021Q)));
}

#[test]
fn ipv6_is_read_as_ipv4_is_and_its_extensions_are_walked() {
    let bytes = frame(&[], 0x86dd, &ipv6(protocol::UDP, &[0; 8]));
    let head = parse(&bytes);
    let transport = head.transport().unwrap();
    assert_eq!(
        (transport.protocol, transport.offset, transport.len),
        (protocol::UDP, 54, 8)
    );
    let addresses = ([0xfd; 16].into(), [0x20; 16].into());
    assert_eq!(head.ipv6_addresses(&bytes), Some(addresses));
    assert_eq!((head.ttl(&bytes), head.traffic_class(&bytes)), (Some(63), 0x14));
    for (field, fragment) in [([0, 1], Fragment::First), ([0, 8], Fragment::Later)] {
        let extension = [protocol::UDP, 0, field[0], field[1], 0, 0, 0, 1];
        let head = parse(&frame(&[], 0x86dd, &ipv6(44, &[&extension[..], &[0; 8]].concat())));
        assert_eq!((head.fragment(), head.transport().unwrap().offset), (fragment, 62));
    }
}

#[test]
fn the_traffic_class_of_either_family_is_found() {
    let mut v4 = UDP4;
    v4[1] = 0xb9;
    let v4 = frame(&[], 0x0800, &v4);
    let mut v6 = ipv6(protocol::UDP, &[0; 8]);
    (v6[0], v6[1]) = (0x6b, 0x9f);
    let v6 = frame(&[], 0x86dd, &v6);
    assert_eq!(
        (parse(&v4).traffic_class(&v4), parse(&v6).traffic_class(&v6)),
        (0xb9, 0xb9)
    );
    assert_eq!(parse(&v4).traffic_class(&v4[..EthernetHeader::LEN + 1]), 0);
    assert_eq!((parse(&v4).ttl(&v4), parse(&v6).ttl(&v6)), (Some(64), Some(63)));
    assert_eq!(parse(&v4).ttl(&v4[..EthernetHeader::LEN + 8]), None);
}

#[test]
fn each_fault_keeps_its_name() {
    let of = |packet: &[u8]| parse(&frame(&[], 0x0800, packet)).fault();
    assert_eq!(parse(&[0; 13]).fault(), Some(Malformed::Truncated));
    assert_eq!(of(&UDP4[..19]), Some(Malformed::Truncated));
    let mut bad = UDP4;
    bad[0] = 0x65;
    assert_eq!(of(&bad), Some(Malformed::Version));
    bad[0] = 0x44;
    assert_eq!(of(&bad), Some(Malformed::Length));
    bad[0] = 0x4f;
    assert_eq!(of(&bad), Some(Malformed::Length));
    bad[3] = 60;
    let whole = frame(&[], 0x0800, &bad);
    assert_eq!(Head::parse(&whole, 14 + 60).fault(), Some(Malformed::HeadersTooLong));
}

#[test]
fn a_packet_longer_than_its_frame_shows_its_headers() {
    let mut long = UDP4;
    long[3] = 100;
    let bytes = frame(&[], 0x0800, &long);
    let head = parse(&bytes);
    assert_eq!(head.fault(), Some(Malformed::Length));
    assert_eq!(head.transport().unwrap().len, 80);
    assert_eq!(head.transport_bytes(&bytes), &UDP4[20..]);
    let mut long = ipv6(protocol::UDP, &[0; 8]);
    long[5] = 100;
    let head = parse(&frame(&[], 0x86dd, &long));
    assert_eq!(
        (head.fault(), head.transport().unwrap().len),
        (Some(Malformed::Length), 100)
    );
}

proptest::proptest! {
    #[test]
    fn a_head_says_what_the_whole_headers_say(bytes in crate::properties::frame()) {
        let head = parse(&bytes);
        if head.tags() > 0 {
            return Ok(());
        }
        match Headers::parse(&bytes, bytes.len()) {
            Err(fault) => proptest::prop_assert_eq!(head.fault(), Some(fault)),
            Ok(headers) => {
                proptest::prop_assert_eq!(head.fault(), None);
                proptest::prop_assert_eq!(u16::from(head.ethertype()), u16::from(headers.ethernet.ethertype));
                proptest::prop_assert_eq!(head.addresses(&bytes), headers.network.addresses());
                let transport = head.transport().map(|at| (at.protocol, at.offset, at.len));
                proptest::prop_assert_eq!(transport, headers.network.transport());
                let (ttl, class, unfragmentable, fragment) = match headers.network {
                    Network::Ipv4(h) => (Some(h.ttl), h.tos, h.dont_fragment, h.fragment),
                    Network::Ipv6(h) => (Some(h.hop_limit), h.traffic_class, false, h.fragment),
                    Network::Arp | Network::Other(_) => (None, 0, false, None),
                };
                proptest::prop_assert_eq!((head.ttl(&bytes), head.traffic_class(&bytes)), (ttl, class));
                proptest::prop_assert_eq!(head.is_unfragmentable(&bytes), unfragmentable);
                proptest::prop_assert_eq!(head.is_fragment(), fragment.is_some());
                proptest::prop_assert_eq!(head.fragment() == Fragment::Later, fragment.is_some_and(|f| f.offset != 0));
            }
        }
    }
}
