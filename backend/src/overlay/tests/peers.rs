//! Tests of peers that are added and removed while the mode runs.

use super::*;
use crate::counters::{PeerCount, PeerLevel};
use crate::packet::icmp;
use std::net::Ipv6Addr;

const THIRD: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);

impl Station {
    /// Replaces the peers, as the port does.
    pub(super) fn set_peers(&mut self, vni: u32, own: SocketAddr, peers: &[PeerConfig]) {
        let (table, errors) = Table::new(Vni::new(vni).unwrap(), own, peers);
        assert_eq!(errors, []);
        let command = ModeCommand::Peers(Arc::new(table));
        let now = Instant::from_nanos(1);
        self.mode.on_command(now, command, &mut self.sink).unwrap();
    }
}

pub(super) fn to(mac: MacAddr) -> OwnedFrame {
    let mut frame = Udp::new(&[3; 40]).bytes();
    frame[..6].copy_from_slice(&mac.0);
    OwnedFrame::new(frame)
}

#[test]
fn a_peer_that_is_added_becomes_reachable_and_a_removed_one_does_not_stay_so() {
    let (a, b, c) = (vtep(2), vtep(3), vtep(4));
    let of_first = peer(a, FROM, [192, 0, 2, 9]);
    let mut first = Station::new(VNI, a, FROM, vec![peer(b, TO, [192, 0, 2, 1])]);
    let mut second = Station::new(VNI, b, TO, vec![of_first.clone()]);
    let mut third = Station::new(VNI, c, THIRD, vec![of_first]);
    first.send(&[to(TO), to(THIRD), ask([192, 0, 2, 5])]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 2);
    second.until(|station| station.sink.frames.len() == 1);
    // A frame that is waiting for the guest is checked against the new table, and dropped if its sender was removed.
    second.send(&[{
        let mut frame = Udp::new(&[4; 40]).bytes();
        frame[..6].copy_from_slice(&FROM.0);
        frame[6..12].copy_from_slice(&TO.0);
        OwnedFrame::new(frame)
    }]);
    first.set_peers(VNI, a, &[peer(c, THIRD, [192, 0, 2, 5])]);
    first.until(|station| station.counters.dropped(DropReason::TunnelUnknownPeer) == 1);
    first.send(&[to(TO), to(THIRD), ask([192, 0, 2, 5]), ask([192, 0, 2, 1])]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 4);
    third.until(|station| station.sink.frames.len() == 1);
    let replies = first.sink.take();
    assert_eq!(replies.len(), 1, "the address of the peer that is gone has no answer");
    let reply = ArpPacket::parse(&replies[0].bytes[14..]).unwrap();
    assert_eq!((reply.sender_mac, reply.sender), (THIRD, Ipv4Addr::new(192, 0, 2, 5)));
    // All peers are removed, then added again.
    first.set_peers(VNI, a, &[]);
    first.send(&[to(THIRD)]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 5);
    first.set_peers(VNI, a, &[peer(b, TO, [192, 0, 2, 1]), peer(c, THIRD, [192, 0, 2, 5])]);
    first.send(&[to(TO), to(THIRD)]);
    second.until(|station| station.sink.frames.len() == 1);
    third.until(|station| station.sink.frames.len() == 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 4);
}

#[test]
fn the_guest_is_told_when_an_address_is_at_another_mac() {
    let (a, b, c) = (vtep(2), vtep(3), vtep(4));
    let both = |vtep, mac, last| PeerConfig {
        addresses: vec![
            [192, 0, 2, last].into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into(),
        ],
        ..peer(vtep, mac, [0; 4])
    };
    let mut first = Station::new(VNI, a, FROM, vec![both(b, TO, 1)]);
    first.set_peers(VNI, a, &[both(b, THIRD, 1)]);
    assert!(first.sink.take().is_empty(), "the driver is not up");
    first.mode.on_link_up(Instant::from_nanos(1), &mut first.sink);
    first.sink.take();
    // The same interface is now at another endpoint.
    first.set_peers(VNI, a, &[both(c, THIRD, 1)]);
    assert!(first.sink.take().is_empty());
    first.set_peers(VNI, a, &[both(c, TO, 1)]);
    let mut frames = first.sink.take();
    frames.sort_by_key(|frame| frame.bytes[12..14] == [0x86, 0xdd]);
    let [arp, neighbour] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!((&arp.bytes[..6], &arp.bytes[6..12]), (&[0xff; 6][..], &TO.0[..]));
    let packet = ArpPacket::parse(&arp.bytes[14..]).unwrap();
    let address = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(
        (packet.sender_mac, packet.sender, packet.target),
        (TO, address, address)
    );
    let message = &neighbour.bytes[54..];
    let own = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    assert!(icmp::checksum_ok(own.into(), all.into(), message));
    assert_eq!((message[0], message[4]), (136, 0x20), "not solicited, overrides");
    assert_eq!(message[8..24], own.octets());
    assert_eq!((&message[24..26], &message[26..32]), (&[2, 1][..], &TO.0[..]));
    // There are more than are announced at once. Those that have moved come before those that are new.
    let crowd = |macs: u8, moved: MacAddr| -> Vec<PeerConfig> {
        let others = (100..100 + macs).map(|n| peer(c, MacAddr([2, 0, 0, 0, 1, n]), [192, 0, 2, n]));
        others.chain([peer(c, moved, [192, 0, 2, 1])]).collect()
    };
    first.set_peers(VNI, a, &crowd(100, THIRD));
    let told = first.sink.take();
    assert_eq!((told.len(), &told[0].bytes[6..12]), (64, &THIRD.0[..]));
    assert_eq!(first.counters.count(Count::NeighbourAnnouncements), 2 + 64);
}

/// The counts of a peer, in the order of [`PeerCount`].
fn counts(station: &Station, peer: SocketAddr) -> Vec<u64> {
    let peers = station.mode.view().peers();
    let counters = peers.of(peer).unwrap();
    PeerCount::ALL.iter().map(|count| counters.count(*count)).collect()
}

#[test]
fn what_crosses_counts_for_its_peer_in_both_directions_and_stays_with_it() {
    let (a, b, c) = (vtep(2), vtep(3), vtep(4));
    let (of_second, of_third) = (peer(b, TO, [192, 0, 2, 1]), peer(c, THIRD, [192, 0, 2, 5]));
    let mut first = Station::new(VNI, a, FROM, vec![of_second, of_third.clone()]);
    let mut second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    let segmented = Tcp {
        payload: 60_000,
        ..Tcp::default()
    };
    first.send(&[OwnedFrame::new(segmented.frame()).with_offload(segmented.offload(1200))]);
    second.until(|station| !station.sink.frames.is_empty());
    let bytes = 60_000 + 50 * (8 + (segmented.frame().len() as u64 - 60_000));
    assert_eq!(counts(&first, b), [50, bytes, 0, 0, 0, 0]);
    assert_eq!(counts(&second, a), [0, 0, 0, 50, bytes, 0]);
    assert_eq!(counts(&first, c), [0; 6]);
    // Frames that are too long, and a datagram with a MAC that is bound to another peer.
    let too_long = OwnedFrame::new(Udp::new(&[0; 1500]).bytes());
    first.send(&[too_long]);
    let mut spoofed = Udp::new(&[7; 40]).bytes();
    spoofed[6..12].copy_from_slice(&THIRD.0);
    let stranger = UdpSocket::bind((b.ip(), 0)).unwrap();
    stranger.send_to(&tunnelled(VNI, &spoofed), a).unwrap();
    first.until(|station| station.counters.dropped(DropReason::TunnelSpoofedMac) == 1);
    let datagram = (8 + spoofed.len()) as u64;
    assert_eq!(counts(&first, b), [50, bytes, 1, 1, datagram, 1], "it came from there");
    assert_eq!(counts(&first, c), [0; 6]);
    // After a change of the table, the counts stay with their endpoints.
    first.set_peers(
        VNI,
        a,
        &[peer(vtep(1), MacAddr([2, 0, 0, 0, 0, 6]), [192, 0, 2, 6]), of_third],
    );
    let now = first.mode.view().peers();
    assert!(now.of(b).is_none(), "it is no peer any more");
    first.set_peers(VNI, a, &[peer(b, TO, [192, 0, 2, 1])]);
    assert_eq!(counts(&first, b), [0; 6], "a peer that comes back counts from zero");
}

#[test]
fn several_peers_on_one_host_are_distinguished_by_the_frames_they_send() {
    let (a, b) = (vtep(2), vtep(3));
    let c = UdpSocket::bind((b.ip(), 0)).unwrap().local_addr().unwrap();
    let peers = vec![peer(b, TO, [192, 0, 2, 1]), peer(c, THIRD, [192, 0, 2, 5])];
    let mut first = Station::new(VNI, a, FROM, peers);
    let sender = UdpSocket::bind((b.ip(), 0)).unwrap();
    let mut expected = [0; 2];
    for (round, (at, mac)) in [(0, TO), (1, THIRD), (1, THIRD), (0, TO)].into_iter().enumerate() {
        let mut frame = Udp::new(&[7; 40]).bytes();
        frame[6..12].copy_from_slice(&mac.0);
        sender.send_to(&tunnelled(VNI, &frame), a).unwrap();
        first.until(|station| !station.sink.frames.is_empty());
        expected[at] += 1;
        assert_eq!([b, c].map(|peer| counts(&first, peer)[3]), expected, "round {round}");
    }
}

#[test]
fn the_path_and_the_limit_of_each_peer_are_shown() {
    let (mut first, second) = pair();
    let b = *first.mode.view().peers().table().endpoints().first().unwrap();
    let levels = |station: &Station| {
        let peers = station.mode.view().peers();
        PeerLevel::ALL
            .iter()
            .map(|level| peers.of(b).unwrap().level(*level))
            .collect::<Vec<_>>()
    };
    assert_eq!(levels(&first), [65_535, 64, 0], "the loopback");
    drop(second);
    first.mode.outbound.set_datagram_max(1000);
    assert_eq!(levels(&first), [1028, 64, 0]);
}
