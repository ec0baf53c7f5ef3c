//! Tests with processes that support hawser's Geneve option.

use super::*;
use crate::packet::geneve::{FrameOption, Segmented};
use std::num::NonZeroU16;

pub(super) fn with_option(peer: PeerConfig) -> PeerConfig {
    PeerConfig {
        knows_frame_option: true,
        ..peer
    }
}

/// Two processes that are peers and support the option.
fn pair_with_option() -> (Station, Station) {
    let (a, b) = (vtep(2), vtep(3));
    let mut first = Station::new(VNI, a, FROM, vec![with_option(peer(b, TO, [192, 0, 2, 1]))]);
    let mut second = Station::new(VNI, b, TO, vec![with_option(peer(a, FROM, [192, 0, 2, 9]))]);
    // Probes would be counted too.
    first.mode.outbound.skip_probes();
    second.mode.outbound.skip_probes();
    (first, second)
}

fn large(v6: bool) -> Tcp {
    Tcp {
        v6,
        payload: 60_000,
        ..Tcp::default()
    }
}

#[test]
fn a_frame_of_many_segments_to_a_process_of_the_same_host_crosses_in_one_datagram() {
    let (mut first, mut second) = pair_with_option();
    for v6 in [false, true] {
        // Only the first segment carries CWR, and the guest must be able to rely on that.
        for flags in [0, 0x80] {
            let tcp = Tcp { flags, ..large(v6) };
            first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200))]);
            let frames = second.until(|station| !station.sink.frames.is_empty());
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].bytes, tcp.frame());
            assert_eq!(frames[0].offload, tcp.offload(1200));
        }
    }
    assert_eq!(first.counters.count(Count::TunnelSent), 4);
    assert_eq!(second.counters.count(Count::TunnelReceived), 4);
}

#[test]
fn a_path_that_carries_several_segments_gets_as_many_in_a_datagram() {
    let (mut first, mut second) = pair_with_option();
    first.mode.outbound.set_datagram_max(8972);
    for v6 in [false, true] {
        let tcp = large(v6);
        first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200))]);
        let frames = second.until(|station| !station.sink.frames.is_empty());
        assert_eq!(frames[0].bytes, tcp.frame(), "one frame again");
        assert_eq!(frames[0].offload, tcp.offload(1200));
    }
    assert_eq!(
        second.counters.count(Count::TunnelReceived),
        2 * 60_000_u64.div_ceil(7 * 1200)
    );
}

#[test]
fn a_path_that_carries_one_segment_gets_checksums_as_the_guest_left_them() {
    let (mut first, mut second) = pair_with_option();
    first.mode.outbound.set_datagram_max(1400);
    let tcp = large(false);
    first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200))]);
    let frames = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!((&frames[0].bytes, frames[0].offload), (&tcp.frame(), tcp.offload(1200)));
    let single = Tcp { payload: 10, ..tcp };
    let offload = Offload {
        segmentation: Segmentation::None,
        ..tcp.offload(1)
    };
    first.send(&[OwnedFrame::new(single.frame()).with_offload(offload)]);
    let frames = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!((&frames[0].bytes, frames[0].offload), (&single.frame(), offload));
}

#[test]
fn a_guest_without_offloads_gets_the_segments_of_a_whole_frame_however_little_room_it_has() {
    let (mut first, mut second) = pair_with_option();
    second.sink.caps = GuestCaps::default();
    second.sink.room = 0;
    let tcp = large(true);
    let frame = OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200));
    first.send(&[frame.clone(), frame]);
    let mut arrived = Vec::new();
    while arrived.len() < 100 {
        second.sink.room = 3;
        arrived.extend(second.until(|station| !station.sink.frames.is_empty()));
    }
    let headers = tcp.frame().len() - 60_000;
    for half in arrived.chunks(50) {
        let payload: Vec<u8> = half.iter().flat_map(|frame| frame.bytes[headers..].to_vec()).collect();
        assert!(payload == tcp.frame()[headers..], "the payload is as it was sent");
        for (number, mut frame) in half.iter().cloned().enumerate() {
            let expected = tcp.seq.wrapping_add(u32::try_from(number * 1200).unwrap());
            assert_eq!(frame.bytes[tcp.l4() + 4..tcp.l4() + 8], expected.to_be_bytes());
            assert_eq!(frame.offload.segmentation, Segmentation::None);
            // The guest leaves a checksum over the pseudo-header, to be completed by its device.
            let partial = frame.bytes.clone();
            Tcp::seal(&mut frame.bytes);
            let sum = crate::packet::checksum::Sum::default()
                .bytes(&partial[tcp.l4()..])
                .finish();
            assert_eq!(frame.bytes[tcp.l4() + 16..tcp.l4() + 18], sum.to_be_bytes());
        }
    }
}

#[test]
fn the_option_is_refused_from_a_peer_that_is_not_known_to_use_it_and_where_it_does_not_suit() {
    let udp = Udp::new(&[7; 40]).bytes();
    let mut other = udp.clone();
    other[23] = 132;
    let sum = crate::packet::checksum::Sum::default()
        .bytes(&other[14..24])
        .bytes(&other[26..34])
        .finish();
    other[24..26].copy_from_slice(&sum.to_be_bytes());
    let partial = FrameOption {
        segmented: None,
        is_checksum_partial: true,
        epoch: 0,
    };
    let segmented = FrameOption {
        segmented: NonZeroU16::new(9000).map(|mss| Segmented { mss }),
        ..partial
    };
    let tunnelled = |option, frame: &[u8]| {
        let header = GeneveHeader::with_frame_option(Vni::new(VNI).unwrap(), option);
        [header.as_bytes(), frame].concat()
    };
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    for (knows, option, frame, reason) in [
        (false, partial, &udp[..], Some(DropReason::TunnelOption)),
        (true, partial, &udp, None),
        (true, segmented, &udp, None),
        (true, partial, &other, Some(DropReason::TunnelMalformed)),
        (true, partial, &udp[..38], Some(DropReason::TunnelMalformed)),
    ] {
        let (a, b) = (vtep(2), vtep(3));
        let sender = PeerConfig {
            knows_frame_option: knows,
            ..peer(a, FROM, [192, 0, 2, 9])
        };
        let mut second = Station::new(VNI, b, TO, vec![sender]);
        friend.send_to(&tunnelled(option, frame), b).unwrap();
        let is_dropped = |station: &Station| reason.is_some_and(|reason| station.counters.dropped(reason) == 1);
        let frames = second.until(|station| is_dropped(station) || !station.sink.frames.is_empty());
        assert_eq!(frames.is_empty(), reason.is_some(), "{option:?}, known: {knows}");
        assert!(
            frames
                .iter()
                .all(|frame| frame.offload.segmentation == Segmentation::None)
        );
    }
}
