//! Tests of hand-made packets, each with one error, and of properties that hold for any bytes.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::num::NonZeroU16;

/// A packet of VNI 0x123456 with `options`, followed by a frame of 14 bytes.
fn packet(options: &[u8]) -> Vec<u8> {
    let words = u8::try_from(options.len() / WORD).unwrap();
    let mut packet = vec![words, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0];
    packet.extend_from_slice(options);
    packet.extend_from_slice(&[0xee; EthernetHeader::LEN]);
    packet
}

/// Returns the packet with one byte changed.
fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

fn parse(bytes: &[u8]) -> Result<usize, GeneveError> {
    GenevePacket::parse(bytes, bytes.len())?.frame()
}

#[test]
fn each_way_a_packet_can_be_wrong_has_a_name() {
    let plain = || packet(&[]);
    let critical = [0x01, 0x02, 0x80, 1, 0, 0, 0, 0];
    let two_words = [0, 1, 2, 1, 0, 0, 0, 0];
    let cases = [
        ("empty", vec![], GeneveError::Truncated(0)),
        ("cut short", plain()[..7].to_vec(), GeneveError::Truncated(7)),
        ("version 1", with(plain(), 0, 0x40), GeneveError::Version(1)),
        ("version 3", with(plain(), 0, 0xff), GeneveError::Version(3)),
        (
            "Opt Len past the end",
            with(plain(), 0, 4),
            GeneveError::OptionsPastEnd { options: 16, left: 14 },
        ),
        (
            "an option past Opt Len",
            with(packet(&two_words), 11, 2),
            GeneveError::OptionLength,
        ),
        (
            "an option past Opt Len by as much as there is",
            with(packet(&two_words), 11, 0x1f),
            GeneveError::OptionLength,
        ),
        (
            "unknown critical option, with the C bit",
            with(packet(&critical), 1, 0x40),
            GeneveError::UnknownCritical {
                class: 0x0102,
                kind: 0x80,
            },
        ),
        (
            "unknown critical option, without the C bit",
            packet(&critical),
            GeneveError::UnknownCritical {
                class: 0x0102,
                kind: 0x80,
            },
        ),
        ("O bit", with(plain(), 1, 0x80), GeneveError::Control),
        (
            "IPv4 inside",
            with(with(plain(), 2, 8), 3, 0),
            GeneveError::Protocol(0x0800),
        ),
        (
            "13 bytes inside",
            plain()[..21].to_vec(),
            GeneveError::InnerTooShort(13),
        ),
        ("nothing inside", plain()[..8].to_vec(), GeneveError::InnerTooShort(0)),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(parse(&bytes), Err(expected), "{what}");
    }
}

#[test]
fn what_may_be_there_is_ignored() {
    let option = [0xff, 0x00, 0x01, 1, 9, 9, 9, 9];
    let cases = [
        ("nothing more", packet(&[]), 8),
        ("an unknown option", packet(&option), 16),
        ("its reserved bits", with(packet(&option), 11, 0xe1), 16),
        ("an option without data", packet(&[1, 0, 1, 0]), 12),
        ("63 words", packet(&[1, 0, 1, 0].repeat(63)), HEADER_MAX),
        ("the C bit alone", with(packet(&option), 1, 0x40), 16),
        ("reserved bits", with(packet(&[]), 1, 0x3f), 8),
        ("the reserved byte", with(packet(&[]), 7, 0xff), 8),
    ];
    for (what, bytes, offset) in cases {
        assert_eq!(parse(&bytes), Ok(offset), "{what}");
        assert_eq!(bytes.len() - offset, EthernetHeader::LEN, "{what}");
    }
}

#[test]
fn the_fields_are_where_rfc_8926_has_them() {
    let options = [0x01, 0x00, 0x01, 1, 1, 2, 3, 4, 0x01, 0x29, 0x02, 0];
    let bytes = with(packet(&options), 1, 0xc0);
    let packet = GenevePacket::parse(&bytes, bytes.len()).unwrap();
    assert_eq!((packet.vni.get(), packet.protocol), (0x12_3456, ETHERNET));
    assert!(packet.is_control && packet.has_critical);
    assert_eq!((packet.header_len(), packet.payload_len()), (20, 14));
    let options: Vec<_> = packet.options().map(|o| (o.class, o.kind, o.data)).collect();
    assert_eq!(options, [(0x0100, 1, &[1, 2, 3, 4][..]), (0x0129, 2, &[])]);
}

#[test]
fn a_head_that_lacks_options_of_a_longer_datagram_is_no_malformed_one() {
    let bytes = packet(&[1, 0, 1, 0].repeat(63));
    let head = &bytes[..128];
    assert_eq!(
        GenevePacket::parse(head, bytes.len()),
        Err(GeneveError::HeadTooShort(HEADER_MAX))
    );
    assert!(GenevePacket::parse(&bytes[..HEADER_MAX], bytes.len()).is_ok());
    // The head is longer than its datagram. The stated length is what counts.
    assert_eq!(GenevePacket::parse(&bytes, 4), Err(GeneveError::Truncated(4)));
}

fn tso(mss: u16) -> FrameOption {
    FrameOption {
        segmented: NonZeroU16::new(mss).map(|mss| Segmented { mss }),
        is_checksum_partial: true,
        epoch: 0x0102_0304,
    }
}

#[test]
fn the_own_option_is_critical_and_of_a_fixed_form() {
    let header = GeneveHeader::with_frame_option(Vni::MAX, tso(1390));
    let expected = [
        3, 0x40, 0x65, 0x58, 0xff, 0xff, 0xff, 0, // base header: three words of options, C bit
        0xff, 0x68, 0x81, 2, // class, type, two words
        0b11, 0x05, 0x6e, 0, 1, 2, 3, 4, // segmented and partial, 1390, epoch
    ];
    assert_eq!(header.as_bytes(), expected);
    assert_eq!(header.options_len(), FrameOption::LEN);
    let parsed = GenevePacket::parse(&expected, expected.len()).unwrap();
    assert_eq!(parsed.frame_option, Some(tso(1390)));
}

#[test]
fn a_form_of_the_own_option_that_is_not_known_is_an_unknown_critical_option() {
    let good = GeneveHeader::with_frame_option(Vni(1), tso(1390)).as_bytes().to_vec();
    let whole = tso(0);
    let whole = GeneveHeader::with_frame_option(Vni(1), whole).as_bytes().to_vec();
    let unknown = GeneveError::UnknownCritical {
        class: 0xff68,
        kind: 0x81,
    };
    let cases = [
        ("another version", with(good.clone(), 12, 0x13)),
        ("another flag", with(good.clone(), 12, 0x07)),
        ("a reserved byte", with(good.clone(), 15, 1)),
        ("segments without MSS", with(whole.clone(), 12, 0b11)),
        ("MSS without segments", with(whole.clone(), 14, 1)),
        ("one word", with(with(good[..16].to_vec(), 0, 2), 11, 1)),
    ];
    for (what, bytes) in cases {
        assert_eq!(GenevePacket::parse(&bytes, bytes.len()), Err(unknown), "{what}");
    }
    let twice = with([&good[..], &good[8..]].concat(), 0, 6);
    assert_eq!(GenevePacket::parse(&twice, twice.len()), Err(GeneveError::Repeated));
    assert_eq!(
        GenevePacket::parse(&whole, whole.len()).unwrap().frame_option,
        Some(tso(0))
    );
}

#[test]
fn an_option_that_does_not_fit_leaves_the_header_as_it_was() {
    let data = [0; 128];
    let option = |len| GeneveOption {
        class: 0x0100,
        kind: 1,
        data: &data[..len],
    };
    let mut header = GeneveHeader::new(Vni(7));
    let before = header;
    for len in [3, 5, 128] {
        assert_eq!(header.add(&option(len)), Err(OptionError::Data(len)));
    }
    assert_eq!(header, before);
    for _ in 0..2 {
        header.add(&option(120)).unwrap();
    }
    assert_eq!(header.add(&option(4)), Err(OptionError::Options(256)));
    header.add(&option(0)).unwrap();
    let full = header;
    assert_eq!(header.add(&option(0)), Err(OptionError::Options(256)));
    assert_eq!((header, header.options_len()), (full, OPTIONS_MAX));
}

#[test]
fn a_control_message_has_the_o_bit_and_goes_to_no_tenant() {
    let header = GeneveHeader::new(Vni(7)).into_control(0x88b5);
    let packet = GenevePacket::parse(header.as_bytes(), 8).unwrap();
    assert!(packet.is_control && !packet.has_critical);
    assert_eq!((packet.protocol, packet.frame()), (0x88b5, Err(GeneveError::Control)));
}

#[test]
fn a_vni_has_24_bits() {
    assert_eq!(
        [0, 1, 0xff_ffff].map(|n| Vni::new(n).map(Vni::get)),
        [Some(0), Some(1), Some(0xff_ffff)]
    );
    let error = Vni::try_from(0x100_0000).unwrap_err().to_string();
    assert_eq!(error, "16777216 is not a VNI: give a number from 0 to 16777215");
}

/// Generates bytes that often begin with a valid header.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let option = (any::<[u8; 2]>(), any::<u8>(), 0..4u8, any::<bool>()).prop_map(|(class, kind, words, tame)| {
        let kind = if tame { kind & !CRITICAL } else { kind };
        let mut option = vec![class[0], class[1], kind, words];
        option.resize(OPTION_HEADER_LEN + usize::from(words) * WORD, 0x5a);
        option
    });
    let sound = (vec(option, 0..8), vec(any::<u8>(), 0..64), any::<bool>()).prop_map(|(options, inner, control)| {
        let mut bytes = packet(&options.concat());
        bytes.truncate(bytes.len() - EthernetHeader::LEN);
        bytes.extend(inner);
        with(bytes, 1, if control { CONTROL } else { 0 })
    });
    prop_oneof![sound, vec(any::<u8>(), 0..300)]
}

fn frame_option() -> impl Strategy<Value = FrameOption> {
    (any::<u16>(), any::<bool>(), any::<u32>()).prop_map(|(mss, is_checksum_partial, epoch)| FrameOption {
        segmented: NonZeroU16::new(mss).map(|mss| Segmented { mss }),
        is_checksum_partial,
        epoch,
    })
}

proptest! {
    #[test]
    fn what_is_parsed_lies_within_the_datagram(bytes in datagram(), cut in 0..300usize, more in 0..100usize) {
        let head = &bytes[..bytes.len().min(cut)];
        for len in [bytes.len(), bytes.len() + more, head.len()] {
            let Ok(packet) = GenevePacket::parse(head, len) else { continue };
            prop_assert!(packet.header_len() <= head.len().min(HEADER_MAX));
            prop_assert_eq!(packet.header_len() + packet.payload_len(), len);
            let options: usize = packet.options().map(|o| OPTION_HEADER_LEN + o.data.len()).sum();
            prop_assert_eq!(BASE_LEN + options, packet.header_len());
            let is_own = |o: &GeneveOption<'_>| FrameOption::from_option(o).is_some();
            prop_assert!(packet.options().all(|o| !o.is_critical() || is_own(&o)));
            if let Ok(offset) = packet.frame() {
                prop_assert!(offset + EthernetHeader::LEN <= len);
            }
        }
    }

    #[test]
    fn a_head_says_what_the_whole_datagram_says(bytes in datagram()) {
        let head = &bytes[..bytes.len().min(HEADER_MAX)];
        prop_assert_eq!(GenevePacket::parse(head, bytes.len()), GenevePacket::parse(&bytes, bytes.len()));
    }

    #[test]
    fn a_header_that_was_written_is_read_again(
        vni in 0..=Vni::MAX.get(),
        own in proptest::option::of(frame_option()),
        options in vec((any::<u16>(), 0..CRITICAL, vec(any::<[u8; WORD]>(), 0..6)), 0..10),
        control in proptest::option::of(any::<u16>()),
    ) {
        let vni = Vni::new(vni).unwrap();
        let mut header = own.map_or_else(|| GeneveHeader::new(vni), |own| GeneveHeader::with_frame_option(vni, own));
        let options: Vec<_> = options.into_iter().map(|(class, kind, words)| (class, kind, words.concat())).collect();
        let mut added = 0;
        for (class, kind, data) in &options {
            let option = GeneveOption { class: *class, kind: *kind, data };
            if header.add(&option).is_err() {
                break;
            }
            added += 1;
        }
        if let Some(protocol) = control {
            header = header.into_control(protocol);
        }
        let bytes = header.as_bytes();
        let packet = GenevePacket::parse(bytes, bytes.len()).unwrap();
        prop_assert_eq!((packet.vni, packet.frame_option), (vni, own));
        prop_assert_eq!((packet.is_control, packet.has_critical), (control.is_some(), own.is_some()));
        prop_assert_eq!(packet.protocol, control.unwrap_or(ETHERNET));
        prop_assert_eq!(packet.header_len(), bytes.len());
        let read: Vec<_> = packet.options().skip(usize::from(own.is_some())).map(|o| (o.class, o.kind, o.data.to_vec())).collect();
        prop_assert_eq!(&read[..], &options[..added]);
    }
}
