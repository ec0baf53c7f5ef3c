//! Parses any datagram as a Geneve packet. There is no panic, header and options are within the head, and a frame is
//! within the datagram. A head gives the same result as the whole datagram. A header that is written from the parsed
//! values parses to the same values.
#![no_main]

use hawser_backend::packet::EthernetHeader;
use hawser_backend::packet::geneve::{
    BASE_LEN, FrameOption, GeneveHeader, GenevePacket, HEADER_MAX, OPTION_HEADER_LEN, ProbeMessage,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let head = &datagram[..datagram.len().min(HEADER_MAX)];
    let parsed = GenevePacket::parse(head, datagram.len());
    assert_eq!(parsed, GenevePacket::parse(datagram, datagram.len()));
    let Ok(packet) = parsed else { return };
    let probe = ProbeMessage::parse(packet.vni, datagram).expect("a Geneve packet");
    assert!(probe.is_none() || packet.frame().is_err(), "a control message carries no frame");
    assert!(packet.header_len() <= head.len());
    assert_eq!(packet.header_len() + packet.payload_len(), datagram.len());
    let options: usize = packet.options().map(|o| OPTION_HEADER_LEN + o.data.len()).sum();
    assert_eq!(BASE_LEN + options, packet.header_len());
    if let Ok(frame) = packet.frame() {
        assert!(frame + EthernetHeader::LEN <= datagram.len());
    }

    let mut header = GeneveHeader::new(packet.vni);
    for option in packet.options() {
        assert!(!option.is_critical() || FrameOption::from_option(&option) == packet.frame_option);
        header.add(&option).expect("options of a packet fit into a header");
    }
    let again = GenevePacket::parse(header.as_bytes(), header.as_bytes().len()).expect("what was written");
    assert_eq!(again.frame_option, packet.frame_option);
    assert!(again.options().eq(packet.options()));
    if let Some(own) = packet.frame_option {
        let alone = GeneveHeader::with_frame_option(packet.vni, own);
        let again = GenevePacket::parse(alone.as_bytes(), alone.as_bytes().len()).expect("what was written");
        assert_eq!(again.frame_option, Some(own));
    }
});
