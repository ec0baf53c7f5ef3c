//! Tests of a guest that moves to another process while a peer sends to it.

use super::peers::to;
use super::*;

/// Longer than late frames are passed on.
const LATER: Instant = Instant::from_nanos(11_000_000_000);

/// The sender, the process from which the guest [`TO`] moves, and the one to which it moves.
fn three() -> ([SocketAddr; 3], [Station; 3]) {
    let places @ [a, b, c] = [vtep(2), vtep(3), vtep(4)];
    let sender = peer(a, FROM, [192, 0, 2, 9]);
    let guest = |at| peer(at, TO, [192, 0, 2, 1]);
    let stations = [
        Station::new(VNI, a, FROM, vec![guest(b)]),
        Station::new(VNI, b, TO, vec![sender.clone()]),
        Station::new(VNI, c, TO, vec![sender, guest(b)]),
    ];
    (places, stations)
}

/// A frame of the guest that moves.
fn from_guest() -> OwnedFrame {
    let mut frame = Udp::new(&[4; 40]).bytes();
    frame[..6].copy_from_slice(&FROM.0);
    frame[6..12].copy_from_slice(&TO.0);
    OwnedFrame::new(frame)
}

#[test]
fn the_process_that_a_guest_has_left_is_silent_and_passes_late_frames_on() {
    let ([a, b, c], [mut sender, mut source, mut target]) = three();
    let (of_sender, of_guest) = (peer(a, FROM, [192, 0, 2, 9]), peer(c, TO, [192, 0, 2, 1]));
    target.send(&[from_guest()]);
    assert_eq!(
        target.counters.dropped(DropReason::MovedAway),
        1,
        "the guest is not here yet"
    );

    target.set_peers(VNI, c, std::slice::from_ref(&of_sender));
    source.set_peers(VNI, b, &[of_sender, of_guest.clone()]);
    source.send(&[from_guest()]);
    assert_eq!(source.counters.dropped(DropReason::MovedAway), 1);
    assert_eq!(source.counters.count(Count::TunnelSent), 0);

    // The sender does not know of the move.
    sender.send(&[to(TO), to(TO), to(TO)]);
    source.until(|station| station.counters.count(Count::TunnelPassedOn) == 3);
    assert!(source.sink.take().is_empty());
    let frames = target.until(|station| station.sink.frames.len() == 3);
    assert_eq!(frames[0].bytes[6..12], FROM.0);

    // Now it knows, and the guest answers from its new place.
    sender.set_peers(VNI, a, &[of_guest]);
    sender.send(&[to(TO)]);
    target.until(|station| station.sink.frames.len() == 1);
    target.send(&[from_guest()]);
    sender.until(|station| station.sink.frames.len() == 1);
    assert_eq!(source.counters.count(Count::TunnelPassedOn), 3);
}

#[test]
fn late_frames_are_passed_on_for_ten_seconds_and_only_between_the_places_of_the_guest() {
    let ([a, b, c], [mut sender, mut source, mut target]) = three();
    let (of_sender, of_guest) = (peer(a, FROM, [192, 0, 2, 9]), peer(c, TO, [192, 0, 2, 1]));
    target.set_peers(VNI, c, std::slice::from_ref(&of_sender));
    source.set_peers(VNI, b, &[of_sender.clone(), of_guest]);
    let frame = Udp::new(&[3; 40]).bytes();
    // A stranger reaches the guest neither through the process that it has left nor where it is.
    let stranger = UdpSocket::bind("127.0.0.9:0").unwrap();
    for (at, station) in [(b, &mut source), (c, &mut target)] {
        stranger.send_to(&tunnelled(VNI, &frame), at).unwrap();
        station.until(|station| station.counters.dropped(DropReason::TunnelUnknownPeer) == 1);
    }
    // The former place of the guest passes frames of known guests on only.
    let former = UdpSocket::bind((b.ip(), 0)).unwrap();
    let mut unknown = frame.clone();
    unknown[11] = 99;
    former.send_to(&tunnelled(VNI, &unknown), c).unwrap();
    target.until(|station| station.counters.dropped(DropReason::TunnelUnknownPeer) == 2);
    // A frame for another guest is not passed on.
    sender.set_peers(VNI, a, &[peer(b, MacAddr([2, 0, 0, 0, 0, 7]), [192, 0, 2, 7])]);
    sender.send(&[to(MacAddr([2, 0, 0, 0, 0, 7]))]);
    source.until(|station| station.counters.dropped(DropReason::MovedAway) == 1);

    let other = UdpSocket::bind((a.ip(), 0)).unwrap();
    other.send_to(&tunnelled(VNI, &frame), b).unwrap();
    source.until(|station| station.counters.count(Count::TunnelPassedOn) == 1);
    target.until(|station| station.sink.frames.len() == 1);
    other.send_to(&tunnelled(VNI, &frame), b).unwrap();
    source.until_at(LATER, |station| station.counters.dropped(DropReason::MovedAway) == 2);
    former.send_to(&tunnelled(VNI, &frame), c).unwrap();
    target.until_at(LATER, |station| {
        station.counters.dropped(DropReason::TunnelUnknownPeer) == 3
    });
}
