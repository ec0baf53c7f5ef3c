//! Property tests: parsers accept any bytes without a panic, and headers survive `emit` and `parse`.

use super::checksum::Sum;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Number of bytes of a frame that a caller copies before it parses the headers.
const HEAD_MAX: usize = 128;

/// Generates a frame whose first bytes often make it IP.
pub(crate) fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![(0x0800u16, 0x45u8), (0x0800, 0x4f), (0x86dd, 0x60), (0x0806, 0)]);
    let next_headers = prop::sample::select(vec![0u8, 6, 17, 43, 44, 58, 60]);
    (kinds, next_headers, vec(any::<u8>(), 0..300), any::<bool>()).prop_map(
        |((kind, version), next, mut bytes, fit)| {
            let total = bytes.len().saturating_sub(EthernetHeader::LEN);
            let fields = [
                (12, kind.to_be_bytes().to_vec()),
                (14, vec![version]),
                // The lengths must be consistent, because otherwise most frames would be refused here.
                (16, u16::try_from(total).expect("short").to_be_bytes().to_vec()),
                (
                    18,
                    u16::try_from(total.saturating_sub(40))
                        .expect("short")
                        .to_be_bytes()
                        .to_vec(),
                ),
                (20, vec![next]),
            ];
            for (at, value) in fields.into_iter().take(if fit { 5 } else { 2 }) {
                if let Some(field) = bytes.get_mut(at..at + value.len()) {
                    field.copy_from_slice(&value);
                }
            }
            bytes
        },
    )
}

fn ipv4() -> impl Strategy<Value = Ipv4Header> {
    let fragment = (any::<u16>(), 0..0x2000u16, any::<bool>())
        .prop_filter("not a fragment", |(_, offset, more)| *more || *offset != 0)
        .prop_map(|(ident, offset, more)| FragmentInfo {
            ident: u32::from(ident),
            offset: offset * 8,
            more,
        });
    let fields = (any::<u32>(), any::<u32>(), any::<[u8; 3]>(), any::<bool>());
    (fields, proptest::option::of(fragment), 0..=65515usize).prop_map(
        |((src, dst, bytes, df), fragment, payload_len)| {
            let [protocol, ttl, tos] = bytes;
            Ipv4Header {
                src: Ipv4Addr::from(src),
                dst: Ipv4Addr::from(dst),
                protocol,
                ttl,
                tos,
                dont_fragment: df,
                fragment,
                header_len: Ipv4Header::LEN,
                payload_len,
            }
        },
    )
}

fn ipv6() -> impl Strategy<Value = Ipv6Header> {
    let fragment = (any::<u32>(), 0..0x2000u16, any::<bool>()).prop_map(|(ident, offset, more)| FragmentInfo {
        ident,
        offset: offset * 8,
        more,
    });
    let fields = (any::<u128>(), any::<u128>(), 61u8.., any::<[u8; 2]>());
    (fields, proptest::option::of(fragment), 0..=65527usize).prop_map(|(fields, fragment, payload_len)| {
        let (src, dst, protocol, [hop_limit, traffic_class]) = fields;
        Ipv6Header {
            src: Ipv6Addr::from(src),
            dst: Ipv6Addr::from(dst),
            protocol,
            hop_limit,
            traffic_class,
            fragment,
            header_len: Ipv6Header::LEN
                + if fragment.is_some() {
                    Ipv6Header::FRAGMENT_LEN
                } else {
                    0
                },
            payload_len,
        }
    })
}

proptest! {
    #[test]
    fn parsed_lengths_lie_within_what_was_given(frame in frame(), cut in 0..=HEAD_MAX) {
        let head = &frame[..frame.len().min(cut)];
        let Ok(headers) = Headers::parse(head, frame.len()) else { return Ok(()) };
        let Some((_, offset, len)) = headers.network.transport() else { return Ok(()) };
        prop_assert!(offset <= head.len(), "the transport header starts in the head");
        prop_assert!(offset + len <= frame.len());
        let transport = &head[offset..];
        if let Ok(tcp) = TcpHeader::parse(transport, len) {
            prop_assert!(tcp.header_len <= len && tcp.header_len <= transport.len());
        }
        for segmented in [false, true] {
            if let Ok(udp) = UdpHeader::parse(transport, len, segmented) {
                prop_assert!(UdpHeader::LEN + udp.payload_len <= len);
            }
        }
    }

    #[test]
    fn a_head_says_what_the_whole_frame_says(frame in frame()) {
        let head = &frame[..frame.len().min(HEAD_MAX)];
        let short = Headers::parse(head, frame.len());
        let whole = Headers::parse(&frame, frame.len());
        prop_assert!(short == whole || short == Err(Malformed::HeadersTooLong), "{short:?} {whole:?}");
    }

    #[test]
    fn ipv4_survives_emit_and_parse_with_a_right_checksum(header in ipv4()) {
        let mut bytes = [0xaa; Ipv4Header::LEN];
        header.emit(&mut bytes);
        prop_assert_eq!(checksum::of(&bytes), 0);
        prop_assert_eq!(Ipv4Header::parse(&bytes, Ipv4Header::LEN + header.payload_len), Ok(header));
        prop_assert_eq!(
            Ipv4Header::parse(&bytes, Ipv4Header::LEN + header.payload_len - 1),
            Err(Malformed::Length)
        );
    }

    #[test]
    fn ipv6_survives_emit_and_parse(header in ipv6()) {
        let mut bytes = [0xaa; Ipv6Header::LEN + Ipv6Header::FRAGMENT_LEN];
        header.emit(&mut bytes);
        prop_assert_eq!(Ipv6Header::parse(&bytes, header.header_len + header.payload_len), Ok(header));
    }

    #[test]
    fn tcp_survives_emit_and_parse(
        ports in any::<[u16; 2]>(),
        numbers in any::<[u32; 2]>(),
        (flags, window, urgent, checksum) in any::<(u8, u16, u16, u16)>(),
        mss in any::<Option<u16>>(),
        window_scale in proptest::option::of(0..=14u8),
        stamp in any::<Option<[u32; 2]>>(),
    ) {
        let timestamps = stamp.map(|[value, echo]| Timestamps { value, echo });
        let mut header = TcpHeader {
            src_port: ports[0],
            dst_port: ports[1],
            seq: numbers[0],
            ack: numbers[1],
            flags: TcpFlags(flags),
            window,
            urgent,
            options: TcpOptions { mss, window_scale, timestamps },
            header_len: 0,
        };
        let mut bytes = [0xaa; 60];
        header.emit(&mut bytes, checksum);
        header.header_len = header.emitted_len();
        prop_assert_eq!(TcpHeader::parse(&bytes, header.header_len), Ok(header));
        prop_assert_eq!(be16(&bytes, 16), checksum);
    }

    #[test]
    fn udp_survives_emit_and_parse(ports in any::<[u16; 2]>(), payload_len in 0..=65527usize, padding in 0..9usize) {
        let header = UdpHeader { src_port: ports[0], dst_port: ports[1], payload_len };
        let mut bytes = [0xaa; UdpHeader::LEN];
        header.emit(&mut bytes, 7);
        let available = UdpHeader::LEN + payload_len + padding;
        prop_assert_eq!(UdpHeader::parse(&bytes, available, false), Ok(header));
        prop_assert_eq!(
            UdpHeader::parse(&bytes, available, true).map(|h| h.payload_len),
            Ok(payload_len + padding)
        );
    }

    #[test]
    fn ethernet_survives_emit_and_parse(dst in any::<[u8; 6]>(), src in any::<[u8; 6]>(), ethertype in any::<u16>()) {
        let header = EthernetHeader { dst: MacAddr(dst), src: MacAddr(src), ethertype: ethertype.into() };
        let mut bytes = [0xaa; EthernetHeader::LEN];
        header.emit(&mut bytes);
        prop_assert_eq!(EthernetHeader::parse(&bytes), Ok(header));
        prop_assert_eq!(be16(&bytes, 12), ethertype);
    }

    #[test]
    fn a_mac_survives_display_and_parse(mac in any::<[u8; 6]>()) {
        prop_assert_eq!(MacAddr(mac).to_string().parse(), Ok(MacAddr(mac)));
    }

    /// Compares the checksum with its definition: 16-bit words with end-around carry.
    #[test]
    fn the_checksum_is_that_of_rfc_1071_in_whatever_parts(bytes in vec(any::<u8>(), 0..200), cuts in vec(0..100usize, 0..4)) {
        let mut expected = 0u16;
        for word in bytes.chunks(2) {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = expected.overflowing_add(word);
            expected = sum + u16::from(carry);
        }
        let mut ends: Vec<_> = cuts.into_iter().map(|c| (2 * c).min(bytes.len())).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut sum = Sum::default();
        let mut start = 0;
        for end in ends {
            sum = sum.bytes(&bytes[start..end]);
            start = end;
        }
        prop_assert_eq!(sum.fold(), expected);
    }

    #[test]
    fn the_pseudo_header_is_that_of_its_bytes(src in any::<u128>(), dst in any::<u128>(), len in 0..=65535usize) {
        let [a, b] = [Ipv6Addr::from(src), Ipv6Addr::from(dst)];
        let long = u32::try_from(len).expect("short").to_be_bytes();
        let bytes = [&a.octets()[..], &b.octets(), &long, &[0, 0, 0, protocol::UDP]].concat();
        let sum = Sum::default().pseudo_header(IpAddr::V6(a), IpAddr::V6(b), protocol::UDP, len);
        prop_assert_eq!(sum.fold(), Sum::default().bytes(&bytes).fold());
    }
}

#[test]
fn extension_headers_beyond_the_head_are_refused_by_name() {
    // The frame contains IPv6 with destination options of 248 bytes.
    let mut frame = vec![0; 400];
    frame[12..16].copy_from_slice(&[0x86, 0xdd, 0x60, 0]);
    frame[18..20].copy_from_slice(&346u16.to_be_bytes());
    frame[20] = 60;
    frame[54..56].copy_from_slice(&[17, 30]);
    assert_eq!(Headers::parse(&frame[..HEAD_MAX], 400), Err(Malformed::HeadersTooLong));
    let whole = Headers::parse(&frame, 400).expect("all of it");
    assert_eq!(whole.network.transport(), Some((17, 14 + 40 + 248, 98)));
}

#[test]
fn a_mac_has_two_hexadecimal_digits_per_byte() {
    for text in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:00:00",
        "+2:00:00:00:00:00",
        "2:0:0:0:0:0",
        "0g:00:00:00:00:00",
    ] {
        text.parse::<MacAddr>().expect_err(text);
    }
    assert_eq!(
        "52-54-00-aB-cD-eF".parse(),
        Ok(MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 0xef]))
    );
}
