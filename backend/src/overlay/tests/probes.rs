//! Probes of the path between two processes.

use super::frame_option::with_option;
use super::*;
use crate::counters::PeerLevel;
use crate::packet::geneve::{ProbeMessage, ProbeRequest};

/// What is known of the path to the only peer.
fn state(station: &Station) -> u64 {
    station
        .mode
        .peers
        .all()
        .map(|(_, peer)| peer.level(PeerLevel::Probe))
        .sum()
}

/// A process, and a socket in place of its peer.
fn station_and_peer() -> (Station, UdpSocket) {
    let (a, b) = (vtep(2), UdpSocket::bind("127.0.0.3:0").unwrap());
    b.set_read_timeout(Some(PATIENCE)).unwrap();
    let far = b.local_addr().unwrap();
    let first = Station::new(VNI, a, FROM, vec![with_option(peer(far, TO, [192, 0, 2, 1]))]);
    (first, b)
}

/// Lets attempts end until there is a result.
fn until_found(station: &mut Station) {
    let mut now = Instant::from_nanos(1);
    for _ in 0..10 {
        now = now + Duration::from_millis(600);
        station.mode.outbound.on_timer(now);
    }
}

#[test]
fn the_path_to_a_process_is_probed_once_the_guest_sends_to_it_and_passes() {
    let (a, b) = (vtep(2), vtep(3));
    let mut first = Station::new(VNI, a, FROM, vec![with_option(peer(b, TO, [192, 0, 2, 1]))]);
    let mut second = Station::new(VNI, b, TO, vec![with_option(peer(a, FROM, [192, 0, 2, 9]))]);
    assert_eq!(state(&first), 0);
    first.send(&[Udp::new(&[1; 20]).frame()]);
    assert_eq!(state(&first), 4, "answers are awaited");
    let started = Clock::now();
    while state(&first) != 2 {
        assert!(started.elapsed() < PATIENCE, "state {}", state(&first));
        second.mode.inbound.expect_datagrams();
        second.mode.receive(Instant::from_nanos(1), &mut second.sink);
        first.mode.outbound.on_answers();
    }
    assert_eq!(second.counters.dropped(DropReason::TunnelControl), 0);
    assert_eq!(second.sink.take().len(), 1, "a probe does not reach the guest");
    first.send(&[Udp::new(&[1; 20]).frame()]);
    let received = second.counters.count(Count::TunnelReceived);
    second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(
        second.counters.count(Count::TunnelReceived),
        received + 1,
        "no second probe"
    );
}

#[test]
fn what_is_split_is_sent_one_by_one_on_a_path_on_which_it_does_not_arrive() {
    let (mut first, far) = station_and_peer();
    first.send(&[Udp::new(&[1; 20]).frame()]);
    let vni = Vni::new(VNI).unwrap();
    let mut datagram = [0; 2000];
    // Only what is not split arrives.
    for _ in 0..48 {
        let (len, from) = far.recv_from(&mut datagram).unwrap();
        let message = ProbeMessage::parse(vni, &datagram[..len]);
        if let Ok(Some(ProbeMessage::Request { request, is_intact })) = message {
            assert!(is_intact);
            let ProbeRequest { nonce, count, .. } = request;
            let intact = u64::from(count == 1);
            let answer = ProbeAnswer { nonce, count, intact };
            far.send_to(&answer.to_bytes(vni), from).unwrap();
        }
    }
    first.mode.outbound.on_answers();
    until_found(&mut first);
    assert_eq!(
        (state(&first), first.counters.count(Count::TunnelCutProbeFailed)),
        (1, 1)
    );
    let levels = first.mode.peers.all().map(|(_, peer)| peer.level(PeerLevel::Batch));
    assert_eq!(levels.collect::<Vec<_>>(), [1]);
    // The retry of routes that have refused to split does not lift this.
    first.mode.outbound.on_timer(Instant::from_nanos(700_000_000_000));
    let levels = first.mode.peers.all().map(|(_, peer)| peer.level(PeerLevel::Batch));
    assert_eq!(levels.collect::<Vec<_>>(), [1]);
}

#[test]
fn a_process_that_does_not_answer_is_sent_batches_as_before() {
    let (mut first, _far) = station_and_peer();
    first.send(&[Udp::new(&[1; 20]).frame()]);
    until_found(&mut first);
    assert_eq!(
        (state(&first), first.counters.count(Count::TunnelCutProbeFailed)),
        (3, 0)
    );
    let levels = first.mode.peers.all().map(|(_, peer)| peer.level(PeerLevel::Batch));
    assert_eq!(levels.collect::<Vec<_>>(), [64]);
}

#[test]
fn a_probe_from_an_endpoint_that_is_no_process_of_hawser_is_dropped() {
    let (a, b) = (vtep(2), vtep(3));
    let mut second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    let mut datagram = [0; 100];
    let request = ProbeRequest {
        nonce: 5,
        count: 1,
        index: 0,
    };
    assert!(request.write(Vni::new(VNI).unwrap(), &mut datagram));
    other.send_to(&datagram, b).unwrap();
    second.until(|station| station.counters.dropped(DropReason::TunnelControl) == 1);
}
