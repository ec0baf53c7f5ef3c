use super::*;
use crate::frame::Checksum;
use crate::gso::split::Split;
use crate::gso::testing::{Tcp, Udp};
use crate::packet::checksum::Sum;

/// Splits a frame into whole frames with full checksums.
fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let head = &frame[..frame.len().min(HEAD_MAX)];
    let mut split = Split::new(head, frame.len(), offload).unwrap();
    let mut frames = Vec::new();
    while let Some(piece) = split.next(head) {
        let mut whole = [piece.headers(), &frame[piece.payload.clone()]].concat();
        let Checksum::Partial { start, offset } = piece.offload.checksum else {
            panic!("pieces are partial")
        };
        let (start, at) = (usize::from(start), usize::from(start + offset));
        let sum = Sum::default().bytes(&whole[start..]).finish();
        whole[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frames.push(whole);
        split.taken();
    }
    frames
}

/// A frame without offload metadata.
fn plain(bytes: &[u8]) -> Arrival<'_> {
    Arrival {
        bytes,
        offload: Offload::NONE,
    }
}

/// Joins frames as a receiver does.
fn join(frames: &[Vec<u8>], caps: GuestCaps) -> Vec<(Offload, Vec<u8>)> {
    let mut train = Train::default();
    let mut joined = Vec::new();
    for frame in frames {
        let arrival = plain(frame);
        if !train.add(arrival, caps) {
            joined.extend(train.take(|offload, parts| (offload, parts.concat())));
            assert!(train.add(arrival, caps));
        }
    }
    joined.extend(train.take(|offload, parts| (offload, parts.concat())));
    joined
}

#[test]
fn what_is_cut_is_joined_to_the_same_frame_again() {
    for v6 in [false, true] {
        for payload in [101, 200, 250, 1, 100, 6400] {
            let tcp = Tcp {
                v6,
                payload,
                ..Tcp::default()
            };
            let frames = cut(&tcp.frame(), tcp.offload(100));
            assert_eq!(frames.len(), payload.div_ceil(100));
            let joined = join(&frames, GuestCaps::ALL);
            assert_eq!(joined.len(), 1, "{payload} bytes");
            let (offload, frame) = &joined[0];
            if frames.len() == 1 {
                assert_eq!((*offload, frame), (Offload::NONE, &frames[0]));
            } else {
                assert_eq!(*offload, tcp.offload(100));
                assert_eq!(*frame, tcp.frame());
            }
            let udp = Udp {
                v6,
                ..Udp::new(&vec![7; payload])
            };
            let whole = Offload {
                checksum: Checksum::Partial {
                    start: u16::try_from(udp.udp_at()).unwrap(),
                    offset: 6,
                },
                segmentation: Segmentation::Udp { size: 100 },
            };
            let frames = cut(&udp.bytes(), whole);
            let joined = join(&frames, GuestCaps::ALL);
            assert_eq!(joined.len(), 1, "{payload} bytes of UDP");
            if frames.len() > 1 {
                assert_eq!(joined[0], (whole, udp.bytes()));
            }
        }
    }
}

#[test]
fn frames_that_stand_for_several_segments_join_while_all_of_them_are_full() {
    for v6 in [false, true] {
        for payload in [6000, 6050, 710, 700] {
            let tcp = Tcp {
                v6,
                payload,
                ..Tcp::default()
            };
            let (frame, offload) = (tcp.frame(), tcp.offload(100));
            let head = &frame[..HEAD_MAX];
            let mut split = Split::new(head, frame.len(), offload)
                .unwrap()
                .grouped(frame.len() - payload + 799);
            let mut pieces = Vec::new();
            while let Some(piece) = split.next(head) {
                pieces.push([piece.headers(), &frame[piece.payload.clone()]].concat());
                split.taken();
            }
            assert_eq!(pieces.len(), payload.div_ceil(700));
            let mut train = Train::default();
            for piece in &pieces {
                assert!(train.add(Arrival { bytes: piece, offload }, GuestCaps::ALL));
            }
            let joined = train.take(|offload, parts| (offload, parts.concat()));
            assert_eq!(joined, Some((offload, frame)), "{payload} bytes");
        }
    }
}

#[test]
fn a_frame_whose_last_segment_is_short_ends_its_train() {
    let first = Tcp {
        payload: 650,
        ..Tcp::default()
    };
    let second = Tcp {
        seq: first.seq.wrapping_add(650),
        ..first
    };
    let (mut first_frame, second_frame) = (first.frame(), second.frame());
    // No frame follows PSH.
    first_frame[first.l4() + 13] = TcpFlags::ACK.0;
    for (size, joins) in [(100, false), (50, true)] {
        let arrival = |bytes| Arrival {
            bytes,
            offload: first.offload(size),
        };
        let mut train = Train::default();
        assert!(train.add(arrival(&first_frame), GuestCaps::ALL));
        assert_eq!(train.add(arrival(&second_frame), GuestCaps::ALL), joins, "{size}");
    }
}

#[test]
fn a_guest_gets_joined_only_what_it_takes() {
    let tcp = Tcp {
        payload: 300,
        ..Tcp::default()
    };
    let frames = cut(&tcp.frame(), tcp.offload(100));
    let alone: Vec<_> = frames.iter().map(|frame| (Offload::NONE, frame.clone())).collect();
    assert_eq!(join(&frames, GuestCaps::default()), alone);
    let other = GuestCaps {
        tso4: false,
        ..GuestCaps::ALL
    };
    assert_eq!(join(&frames, other), alone);
}

/// Each change turns the second of three frames into one that cannot join the others.
#[test]
fn frames_that_cutting_would_not_give_stay_apart() {
    type Change = (&'static str, fn(&mut Vec<u8>));
    const L4: usize = IP + IPV4;
    let changes: [Change; 13] = [
        ("another receiver", |frame| frame[5] ^= 2),
        ("another sender", |frame| frame[11] ^= 2),
        ("another class", |frame| frame[IP + 1] ^= 2),
        ("another TTL", |frame| frame[IP + 8] ^= 1),
        ("a fragment", |frame| frame[IP + 6] |= 0x20),
        ("another source address", |frame| frame[IP + 15] ^= 1),
        ("another port", |frame| frame[L4 + 1] ^= 1),
        ("a gap", |frame| frame[L4 + 7] ^= 1),
        ("another acknowledgment", |frame| frame[L4 + 11] ^= 1),
        ("FIN", |frame| frame[L4 + 13] |= TcpFlags::FIN.0),
        ("ECE", |frame| frame[L4 + 13] |= 0x40),
        ("another window", |frame| frame[L4 + 15] ^= 1),
        ("another time stamp", |frame| frame[L4 + 27] ^= 1),
    ];
    let tcp = Tcp {
        payload: 300,
        ..Tcp::default()
    };
    for (what, change) in changes {
        let mut frames = cut(&tcp.frame(), tcp.offload(100));
        change(&mut frames[1]);
        Tcp::seal(&mut frames[1]);
        let joined = join(&frames, GuestCaps::ALL);
        let alone: Vec<_> = frames.iter().map(|frame| (Offload::NONE, frame.clone())).collect();
        assert_eq!(joined, alone, "{what}");
    }
    for damaged in 0..3 {
        let mut frames = cut(&tcp.frame(), tcp.offload(100));
        *frames[damaged].last_mut().unwrap() ^= 1;
        let joined = join(&frames, GuestCaps::ALL);
        let together: Vec<_> = joined.iter().filter(|(offload, _)| *offload != Offload::NONE).collect();
        assert!(
            joined
                .iter()
                .any(|(offload, frame)| *offload == Offload::NONE && *frame == frames[damaged]),
            "frame {damaged} reaches the guest as it came"
        );
        assert_eq!(together.len(), usize::from(damaged != 1), "frame {damaged}");
    }
}

#[test]
fn a_train_ends_with_psh_with_a_short_frame_and_at_64_frames() {
    let tcp = Tcp {
        payload: 300,
        ..Tcp::default()
    };
    let mut frames = cut(&tcp.frame(), tcp.offload(100));
    frames[0][IP + IPV4 + 13] |= TcpFlags::PSH.0;
    Tcp::seal(&mut frames[0]);
    assert_eq!(join(&frames, GuestCaps::ALL).len(), 2);

    let (short, long) = (
        Tcp {
            payload: 250,
            ..Tcp::default()
        },
        250,
    );
    let mut frames = cut(&short.frame(), short.offload(100));
    let next = Tcp {
        payload: 100,
        seq: short.seq.wrapping_add(long),
        ..Tcp::default()
    };
    frames.push(next.whole());
    assert_eq!(join(&frames, GuestCaps::ALL).len(), 2, "250 bytes and 100");

    let many = Tcp {
        payload: 6500,
        ..Tcp::default()
    };
    assert_eq!(join(&cut(&many.frame(), many.offload(100)), GuestCaps::ALL).len(), 2);
}

#[test]
fn no_bytes_panic() {
    let tcp = Tcp {
        payload: 300,
        ..Tcp::default()
    };
    let good = cut(&tcp.frame(), tcp.offload(100));
    for len in 0..=good[0].len() {
        for at in 0..len {
            let mut frame = good[0][..len].to_vec();
            for value in [0, 1, 0x45, 0x60, 0xff] {
                frame[at] = value;
                let mut train = Train::default();
                train.add(plain(&good[0]), GuestCaps::ALL);
                train.add(plain(&frame), GuestCaps::ALL);
                train.take(|_, parts| parts.len());
                train.add(plain(&frame), GuestCaps::ALL);
                train.add(plain(&good[1]), GuestCaps::ALL);
                train.take(|_, parts| parts.len());
            }
        }
    }
}
