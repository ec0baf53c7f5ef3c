//! Tests of peers that are added and removed while the mode runs.

use super::*;

const THIRD: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);

impl Station {
    /// Replaces the peers, as the port does.
    fn set_peers(&mut self, vni: u32, own: SocketAddr, peers: &[PeerConfig]) {
        let (table, errors) = Table::new(Vni::new(vni).unwrap(), own, peers);
        assert_eq!(errors, []);
        let command = ModeCommand::Peers(Arc::new(table));
        let now = Instant::from_nanos(1);
        self.mode.on_command(now, command, &mut self.sink).unwrap();
    }
}

fn to(mac: MacAddr) -> OwnedFrame {
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
    // A frame that waits for the guest is dropped by the new table if its sender was removed.
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
    // Remove all peers, then add them again.
    first.set_peers(VNI, a, &[]);
    first.send(&[to(THIRD)]);
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 5);
    first.set_peers(VNI, a, &[peer(b, TO, [192, 0, 2, 1]), peer(c, THIRD, [192, 0, 2, 5])]);
    first.send(&[to(TO), to(THIRD)]);
    second.until(|station| station.sink.frames.len() == 1);
    third.until(|station| station.sink.frames.len() == 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 4);
}
