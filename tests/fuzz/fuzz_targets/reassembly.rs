//! Reassembles fragments in any order, overlapping or contradictory. There is no panic and memory is bounded. A
//! reassembled datagram is complete and consists of bytes that were sent at their position.
#![no_main]

use hawser_backend::counters::Counters;
use hawser_backend::frame::HEAD_MAX;
use hawser_backend::frame::testing::OwnedFrame;
use hawser_backend::nat::reassembly::Reassembler;
use hawser_backend::packet::{
    EtherType, EthernetHeader, FragmentInfo, Headers, Ipv4Header, Ipv6Header, MacAddr, Network, protocol,
};
use hawser_backend::time::Instant;
use libfuzzer_sys::fuzz_target;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Length of one instruction: flags, identification, offset and length in units of eight.
const STEP: usize = 6;

/// The byte at `position` of datagram `ident`, in every fragment that covers it.
fn content(ident: u8, position: usize) -> u8 {
    let word = (position as u64 ^ (u64::from(ident) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> 56) as u8
}

fn fragment(v6: bool, info: FragmentInfo, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        0;
        EthernetHeader::LEN
            + if v6 {
                Ipv6Header::LEN + Ipv6Header::FRAGMENT_LEN
            } else {
                Ipv4Header::LEN
            }
    ];
    EthernetHeader {
        dst: MacAddr([2, 0, 0, 0, 0, 0]),
        src: MacAddr([2, 0, 0, 0, 0, 1]),
        ethertype: if v6 { EtherType::Ipv6 } else { EtherType::Ipv4 },
    }
    .emit(&mut frame);
    let network = &mut frame[EthernetHeader::LEN..];
    if v6 {
        Ipv6Header {
            src: Ipv6Addr::LOCALHOST,
            dst: Ipv6Addr::LOCALHOST,
            protocol: protocol::UDP,
            hop_limit: 64,
            traffic_class: 0,
            fragment: Some(info),
            header_len: Ipv6Header::LEN + Ipv6Header::FRAGMENT_LEN,
            payload_len: payload.len(),
        }
        .emit(network);
    } else {
        Ipv4Header {
            src: Ipv4Addr::LOCALHOST,
            dst: Ipv4Addr::LOCALHOST,
            protocol: protocol::UDP,
            ttl: 64,
            tos: 0,
            dont_fragment: false,
            fragment: Some(info),
            header_len: Ipv4Header::LEN,
            payload_len: payload.len(),
        }
        .emit(network);
    }
    frame.extend_from_slice(payload);
    frame
}

/// Adds a frame if it is a fragment, and checks the result.
fn add(reassembler: &mut Reassembler, now: Instant, frame: Vec<u8>, ident: Option<u8>) {
    let head = &frame[..frame.len().min(HEAD_MAX)];
    let Ok(headers) = Headers::parse(head, frame.len()) else {
        return;
    };
    let is_fragment = match headers.network {
        Network::Ipv4(h) => h.fragment.is_some(),
        Network::Ipv6(h) => h.fragment.is_some(),
        Network::Arp | Network::Other(_) => false,
    };
    if !is_fragment {
        return;
    }
    OwnedFrame::new(frame).with(|frame| {
        let Some(whole) = reassembler.on_fragment(now, &Counters::default(), &headers, frame) else {
            return;
        };
        let headers = Headers::parse(&whole[..whole.len().min(HEAD_MAX)], whole.len()).expect("sound headers");
        let fragment = match headers.network {
            Network::Ipv4(h) => h.fragment,
            Network::Ipv6(h) => h.fragment,
            Network::Arp | Network::Other(_) => panic!("no IP packet"),
        };
        assert_eq!(fragment, None);
        let (_, offset, len) = headers.network.transport().expect("an IP packet");
        assert_eq!(offset + len, whole.len());
        if let Some(ident) = ident {
            for (position, byte) in whole[offset..].iter().enumerate() {
                assert_eq!(*byte, content(ident, position), "at {position}");
            }
        }
    });
}

fuzz_target!(|data: &[u8]| {
    let mut reassembler = Reassembler::default();
    let mut now = Instant::default();
    for step in data.chunks_exact(STEP) {
        let [flags, ident, offset_high, offset_low, len, odd] = *step else {
            unreachable!()
        };
        let (v6, more, time_passes) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if time_passes {
            now = now + Duration::from_secs(u64::from(flags >> 3));
            reassembler.on_timer(now, &Counters::default());
        }
        let offset = (u16::from_be_bytes([offset_high, offset_low]) & 0x1fff) * 8;
        let len = usize::from(len) * 8 + usize::from(odd & 7);
        let payload: Vec<u8> = (0..len).map(|i| content(ident, usize::from(offset) + i)).collect();
        let info = FragmentInfo {
            ident: u32::from(ident),
            offset,
            more,
        };
        add(&mut reassembler, now, fragment(v6, info, &payload), Some(ident));
        if let Some(deadline) = reassembler.deadline() {
            assert!(deadline > now, "what is due is gone");
        }
    }
    // The unchanged bytes are tried too.
    add(&mut reassembler, now, data.to_vec(), None);
});
