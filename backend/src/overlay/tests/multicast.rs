//! Tests of groups, and of frames that are copied to all endpoints.

use super::*;
use crate::packet::checksum::Sum;
use crate::packet::membership::group_mac;
use crate::packet::{EtherType, EthernetHeader, Ipv4Header, protocol};

const THIRD: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const REPORT: u8 = 0x16;
const LEAVE: u8 = 0x17;
const QUERY: u8 = 0x11;

fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

impl Station {
    fn send_at(&mut self, now: Instant, frames: &[Vec<u8>]) {
        let frames: Vec<_> = frames.iter().cloned().map(OwnedFrame::new).collect();
        with_burst(&frames, |burst| self.mode.on_burst(now, burst, &mut self.sink));
    }

    /// Handles datagrams that arrive, at the time `now`, until `done` is true.
    fn receive_at(&mut self, now: Instant, done: impl Fn(&Self) -> bool) {
        let started = Clock::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE);
            self.mode.inbound.expect_datagrams();
            self.mode.receive(now, &mut self.sink);
        }
    }

    /// Handles this number of datagrams at the time `now`, and returns the frames that the guest received.
    fn hear(&mut self, now: Instant, datagrams: u64) -> Vec<Delivered> {
        let before = self.counters.count(Count::TunnelReceived);
        self.receive_at(now, |station| {
            station.counters.count(Count::TunnelReceived) == before + datagrams
        });
        self.sink.take()
    }
}

/// An IPv4 packet of a guest to a group.
fn packet(mac: MacAddr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 34];
    EthernetHeader {
        dst: group_mac(to.into()),
        src: mac,
        ethertype: EtherType::Ipv4,
    }
    .emit(&mut frame);
    Ipv4Header {
        src: Ipv4Addr::new(192, 0, 2, mac.0[5]),
        dst: to,
        protocol,
        ttl: 1,
        tos: 0,
        dont_fragment: true,
        fragment: None,
        header_len: Ipv4Header::LEN,
        payload_len: payload.len(),
    }
    .emit(&mut frame[14..]);
    frame.extend(payload);
    frame
}

fn igmp(mac: MacAddr, kind: u8, group: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(group.octets());
    let sum = Sum::default().bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = if kind == QUERY {
        Ipv4Addr::new(224, 0, 0, 1)
    } else {
        group
    };
    packet(mac, to, protocol::IGMP, &message)
}

fn data(to: Ipv4Addr) -> Vec<u8> {
    packet(FROM, to, protocol::UDP, &[9; 40])
}

fn is_query(frame: &Delivered) -> bool {
    frame.bytes[14] == 0x46 && frame.bytes[23] == protocol::IGMP
}

/// A network of three stations: [`FROM`], [`TO`] and [`THIRD`].
fn three() -> [Station; 3] {
    let ends = [(vtep(2), FROM), (vtep(3), TO), (vtep(4), THIRD)];
    ends.map(|(own, mac)| {
        let others = ends.iter().filter(|(end, _)| *end != own);
        let peers = others.map(|(end, mac)| peer(*end, *mac, [192, 0, 2, mac.0[5]]));
        Station::new(VNI, own, mac, peers.collect())
    })
}

#[test]
fn groups_that_bridges_do_not_forward_stay_on_their_node() {
    let [mut first, mut second, _third] = three();
    let mut frame = data(Ipv4Addr::new(224, 0, 0, 9));
    let tunnelled_to = |last| {
        let mut datagram = tunnelled(VNI, &data(Ipv4Addr::new(224, 0, 0, 9)));
        datagram[8..14].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, last]);
        datagram
    };
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    let second_vtep = first.mode.peers.table().endpoint_of(TO).unwrap();
    for last in [0, 0x0f, 0x10] {
        frame[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, last]);
        first.send_at(at(1), &[frame.clone()]);
        friend.send_to(&tunnelled_to(last), second_vtep).unwrap();
    }
    assert_eq!(first.counters.dropped(DropReason::ReservedGroup), 2);
    let heard = second.hear(at(1), 4);
    assert_eq!(heard.len(), 2, "the last one, from the guest and from the tunnel");
    assert_eq!(second.counters.dropped(DropReason::ReservedGroup), 2);
}

#[test]
fn a_group_reaches_its_members_until_they_leave() {
    let [mut first, mut second, mut third] = three();
    first.send_at(at(1), &[data(GROUP)]);
    assert_eq!(first.counters.dropped(DropReason::MulticastUnwanted), 1);

    second.send_at(at(2), &[igmp(TO, REPORT, GROUP)]);
    for other in [&mut first, &mut third] {
        assert!(
            other.hear(at(2), 1).is_empty(),
            "guests do not hear each other's reports"
        );
        assert_eq!(other.counters.count(Count::MulticastJoins), 1);
    }
    first.send_at(at(3), &[data(GROUP), data(Ipv4Addr::new(239, 1, 2, 4))]);
    assert_eq!(first.counters.dropped(DropReason::MulticastUnwanted), 2);
    assert_eq!(second.hear(at(3), 1)[0].bytes, data(GROUP));

    // The gateway queries the guest that has left. The guest receives the group for two more seconds.
    second.send_at(at(4), &[igmp(TO, LEAVE, GROUP)]);
    let asked = second.sink.take();
    assert!(asked.len() == 1 && is_query(&asked[0]), "{asked:?}");
    first.hear(at(4), 1);
    first.send_at(at(5), &[data(GROUP)]);
    assert_eq!(second.hear(at(5), 1).len(), 1);
    first.mode.on_timer(at(6), &mut first.sink);
    first.send_at(at(6), &[data(GROUP)]);
    assert_eq!(first.counters.dropped(DropReason::MulticastUnwanted), 3);
    assert_eq!(first.counters.count(Count::MulticastLeaves), 1);

    // The third station received only the membership report.
    first.send_at(at(7), &[data(Ipv4Addr::new(224, 0, 0, 251))]);
    let heard = third.hear(at(7), 2);
    assert_eq!(heard.len(), 1, "a leave, and what is for all");
    assert_eq!(heard[0].bytes, data(Ipv4Addr::new(224, 0, 0, 251)));
}

#[test]
fn a_membership_that_is_not_reported_again_ends() {
    let [mut first, mut second, _third] = three();
    second.send_at(at(0), &[igmp(TO, REPORT, GROUP)]);
    first.hear(at(0), 1);
    for second in [299, 300, 301] {
        first.mode.on_timer(at(second), &mut first.sink);
        first.send_at(at(second), &[data(GROUP)]);
    }
    assert_eq!(first.counters.count(Count::TunnelSent), 1);
    assert_eq!(first.counters.dropped(DropReason::MulticastUnwanted), 2);
    assert_eq!(first.mode.groups.deadline(), None);
}

#[test]
fn a_process_whose_guest_comes_up_learns_what_others_want() {
    let [mut first, mut second, _third] = three();
    first.mode.on_link_up(at(10), &mut first.sink);
    first.mode.on_timer(at(10), &mut first.sink);
    // The gateway announces itself to the guest too.
    let own = first.sink.take();
    assert_eq!(own.iter().filter(|frame| is_query(frame)).count(), 1);
    // The other guest receives the query although no interface has the gateway's MAC.
    let heard = second.hear(at(10), 1);
    assert!(heard.len() == 1 && is_query(&heard[0]));
    assert_eq!(second.counters.dropped(DropReason::TunnelUnknownMac), 0);
    second.send_at(at(11), &[igmp(TO, REPORT, GROUP)]);
    first.hear(at(11), 1);
    first.send_at(at(11), &[data(GROUP)]);
    assert_eq!(second.hear(at(11), 1)[0].bytes, data(GROUP));

    // A forged query from a guest is not accepted.
    let mut forged = data(GROUP);
    forged[6..12].copy_from_slice(&[0x0a, 0x58, 192, 0, 2, 254]);
    first.send_at(at(12), &[forged]);
    second.receive_at(at(12), |station| {
        station.counters.dropped(DropReason::TunnelUnknownMac) == 1
    });
    assert!(second.sink.take().is_empty());
}

#[test]
fn a_router_in_a_guest_gets_every_group_and_every_report() {
    let [mut first, mut second, mut third] = three();
    second.send_at(at(0), &[igmp(TO, QUERY, Ipv4Addr::UNSPECIFIED)]);
    assert_eq!(first.hear(at(0), 1).len(), 1, "the guest is asked");
    assert_eq!(third.hear(at(0), 1).len(), 1);
    first.send_at(at(1), &[data(GROUP), igmp(FROM, REPORT, GROUP)]);
    let heard = second.hear(at(1), 2);
    assert_eq!(heard.len(), 2, "data and the report");
    assert!(third.hear(at(1), 1).is_empty(), "only the report, for the process");
}

#[test]
fn an_endpoint_with_any_macs_gets_every_group() {
    let (a, b) = (vtep(2), UdpSocket::bind("127.0.0.3:0").unwrap());
    b.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut other = peer(b.local_addr().unwrap(), TO, [192, 0, 2, 1]);
    (other.macs, other.addresses) = (Vec::new(), Vec::new());
    let mut first = Station::new(VNI, a, FROM, vec![other]);
    first.send_at(at(1), &[data(GROUP)]);
    let mut datagram = [0; 2000];
    let len = b.recv(&mut datagram).unwrap();
    assert_eq!(datagram[8..len], *data(GROUP));
}

#[test]
fn what_is_for_all_is_copied_1000_times_a_second_and_groups_as_often_as_they_are_sent() {
    let [mut first, mut second, mut third] = three();
    second.send_at(at(0), &[igmp(TO, REPORT, GROUP)]);
    first.hear(at(0), 1);
    third.hear(at(0), 1);
    let flood: Vec<_> = (0..1100).map(|_| data(Ipv4Addr::new(224, 0, 0, 251))).collect();
    let mut burst = Udp::new(&[1; 20]).bytes();
    burst[..6].fill(0xff);
    first.send_at(at(1), &flood);
    assert_eq!(first.counters.dropped(DropReason::TunnelFloodLimited), 100);
    first.send_at(at(1), &[burst.clone()]);
    assert_eq!(first.counters.dropped(DropReason::TunnelFloodLimited), 101);
    let before = first.counters.count(Count::TunnelSent);
    assert_eq!(before, 2000);
    let group: Vec<_> = (0..300).map(|_| data(GROUP)).collect();
    first.send_at(at(1), &group);
    assert_eq!(first.counters.count(Count::TunnelSent), before + 300);
    first.send_at(at(2), &[burst]);
    assert_eq!(first.counters.count(Count::TunnelSent), before + 302);
    assert_eq!(first.counters.dropped(DropReason::TunnelFloodLimited), 101);
}

#[test]
fn a_malformed_report_is_counted_and_goes_nowhere() {
    let [mut first, mut second, _third] = three();
    let mut bad = igmp(FROM, REPORT, GROUP);
    *bad.last_mut().unwrap() ^= 1;
    first.send_at(at(1), &[bad.clone()]);
    assert_eq!(first.counters.dropped(DropReason::BadGroupMessage), 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 0);
    // The same frame arrives from the tunnel, in case another process did not filter it.
    let mut datagram = GeneveHeader::new(Vni::new(VNI).unwrap()).as_bytes().to_vec();
    datagram.extend(bad);
    let sender = UdpSocket::bind("127.0.0.2:0").unwrap();
    sender
        .send_to(&datagram, second.mode.socket.local_addr().unwrap().as_socket().unwrap())
        .unwrap();
    assert!(second.hear(at(1), 1).is_empty());
    assert_eq!(second.counters.dropped(DropReason::BadGroupMessage), 1);
    assert_eq!(second.counters.count(Count::MulticastJoins), 0);
}
