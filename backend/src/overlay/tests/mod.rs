//! Tests with two processes on one host, whose guests are memory without a VM.

mod claims;
mod frame_option;
mod gateway;
mod moves;
mod multicast;
mod peers;
mod probes;
mod roles;
mod runs;
mod services;
mod wire;

use super::*;
use crate::config::{
    Ipv4Link, ModeConfig, NameConfig, NetworkRole, PaceConfig, PeerConfig, PolicyConfig, PortConfig, PrimaryNetwork,
};
use crate::counters::{Counters, DropReason};
use crate::frame::testing::{Delivered, OwnedFrame, TestSink};
use crate::frame::{Checksum, GuestCaps, Offload, Segmentation};
use crate::gso::testing::{Tcp, Udp, with_burst};
use crate::packet::geneve::{GeneveHeader, Vni};
use crate::packet::{ArpPacket, Ecn, MacAddr};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::time::{Duration, Instant as Clock};

const PATIENCE: Duration = Duration::from_secs(10);
const VNI: u32 = 7;

/// MAC of the sender in frames of [`Tcp`] and [`Udp`].
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// One process: its mode, and the memory of its guest.
struct Station {
    mode: Overlay,
    counters: Arc<Counters>,
    sink: TestSink,
}

fn peer(vtep: SocketAddr, mac: MacAddr, address: [u8; 4]) -> PeerConfig {
    PeerConfig {
        vtep,
        macs: vec![mac],
        addresses: vec![address.into()],
        name: None,
        knows_frame_option: false,
        is_moved: false,
    }
}

impl Station {
    fn new(vni: u32, vtep: SocketAddr, mac: MacAddr, peers: Vec<PeerConfig>) -> Self {
        let primary = PrimaryNetwork {
            ipv4: Some(Ipv4Link {
                network: "192.0.2.0/24".parse().unwrap(),
                gateway: Ipv4Addr::new(192, 0, 2, 254),
                guest: Ipv4Addr::new(192, 0, 2, mac.0[5]),
            }),
            ipv6: None,
            dns_forward: Vec::new(),
            forwards: Vec::new(),
            services: Vec::new(),
        };
        Self::with_role(NetworkRole::Primary(primary), vni, vtep, mac, peers)
    }

    fn with_role(role: NetworkRole, vni: u32, vtep: SocketAddr, mac: MacAddr, peers: Vec<PeerConfig>) -> Self {
        let mode = Layer2Config {
            vni: Vni::new(vni).unwrap(),
            vtep,
            role,
            names: NameConfig::default(),
            peers,
        };
        let port = PortConfig {
            name: "test".into(),
            mac: Some(mac),
            mtu: 1400,
            queue_pairs: NonZeroU16::MIN,
            pace: PaceConfig::PLAIN,
            policy: PolicyConfig::default(),
            mode: ModeConfig::Layer2(mode.clone()),
        };
        let setup = OverlaySetup::alone(&port, &mode, 16).unwrap();
        let counters = Arc::clone(&setup.counters);
        Self {
            mode: Overlay::new(setup, OverlayState::new(&port, &mode), None).unwrap(),
            counters,
            sink: TestSink::default(),
        }
    }

    /// Sends frames from the guest in one burst.
    fn send(&mut self, frames: &[OwnedFrame]) {
        with_burst(frames, |burst| {
            self.mode.on_burst(Instant::from_nanos(1), burst, &mut self.sink);
        });
    }

    /// Waits until `done` is true, and returns the frames that the guest has received.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Vec<Delivered> {
        self.until_at(Instant::from_nanos(1), done)
    }

    /// Does the same at the time `now` of the mode.
    fn until_at(&mut self, now: Instant, done: impl Fn(&Self) -> bool) -> Vec<Delivered> {
        let started = Clock::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.sink.frames.len());
            self.mode.inbound.expect_datagrams();
            self.mode.receive(now, &mut self.sink);
        }
        self.sink.take()
    }
}

/// A loopback address with a free port.
fn vtep(host: u8) -> SocketAddr {
    let address = IpAddr::from([127, 0, 0, host]);
    UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// Two processes that are peers.
fn pair() -> (Station, Station) {
    let (a, b) = (vtep(2), vtep(3));
    let first = Station::new(VNI, a, FROM, vec![peer(b, TO, [192, 0, 2, 1])]);
    let second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    (first, second)
}

#[test]
fn a_frame_that_stands_for_many_segments_arrives_as_one() {
    let (mut first, mut second) = pair();
    for v6 in [false, true] {
        let tcp = Tcp {
            v6,
            payload: 60_000,
            ..Tcp::default()
        };
        first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200))]);
        let frames = second.until(|station| !station.sink.frames.is_empty());
        let bytes: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        assert!(bytes >= 60_000, "{bytes} bytes in {} frames", frames.len());
        assert_eq!(frames[0].bytes, tcp.frame());
        assert_eq!(frames[0].offload, tcp.offload(1200));
    }
    assert_eq!(second.counters.count(Count::TunnelReceived), 100);
}

#[test]
fn a_guest_without_offloads_gets_whole_segments_with_right_checksums() {
    let (mut first, mut second) = pair();
    second.sink.caps = GuestCaps::default();
    let tcp = Tcp {
        payload: 3000,
        ..Tcp::default()
    };
    first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1000))]);
    let frames = second.until(|station| station.sink.frames.len() == 3);
    for (i, frame) in frames.into_iter().enumerate() {
        assert_eq!(frame.offload, Offload::NONE);
        let mut sealed = frame.bytes.clone();
        Tcp::seal(&mut sealed);
        assert_eq!(frame.bytes, sealed, "checksums of segment {i}");
        assert_eq!(frame.bytes.len(), tcp.l4() + 32 + 1000);
    }
}

#[test]
fn datagrams_arrive_in_order_and_alone_where_the_guest_wants_them_so() {
    let (mut first, mut second) = pair();
    second.sink.caps = GuestCaps::default();
    let frames: Vec<OwnedFrame> = (0..200)
        .map(|i| Udp::new(&vec![i; if i % 7 == 0 { 9 } else { 700 }]).frame())
        .collect();
    first.send(&frames);
    let arrived = second.until(|station| station.sink.frames.len() == 200);
    for (i, frame) in arrived.into_iter().enumerate() {
        assert_eq!(usize::from(*frame.bytes.last().unwrap()), i);
    }
}

#[test]
fn nothing_is_lost_or_doubled_while_the_guest_has_no_room() {
    let (mut first, mut second) = pair();
    second.sink.caps = GuestCaps::default();
    second.sink.room = 0;
    let frames: Vec<OwnedFrame> = (0..100).map(|i| Udp::new(&[i; 300]).frame()).collect();
    first.send(&frames);
    let mut arrived = Vec::new();
    while arrived.len() < 100 {
        second.sink.room = 3;
        let had = arrived.len();
        arrived.extend(second.until(|station| !station.sink.frames.is_empty()));
        assert!(arrived.len() <= had + 3);
    }
    for (i, frame) in arrived.into_iter().enumerate() {
        assert_eq!(usize::from(*frame.bytes.last().unwrap()), i);
    }
    assert!(second.mode.has_backlog() || second.mode.inbound.has_backlog() || second.sink.room < 3);
}

#[test]
fn a_broadcast_reaches_all_peers_and_an_unknown_mac_none() {
    let (a, b, c) = (vtep(2), vtep(3), vtep(4));
    let third = MacAddr([2, 0, 0, 0, 0, 5]);
    let mut first = Station::new(
        VNI,
        a,
        FROM,
        vec![peer(b, TO, [192, 0, 2, 1]), peer(c, third, [192, 0, 2, 5])],
    );
    let mut others = [
        Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]),
        Station::new(VNI, c, third, vec![peer(a, FROM, [192, 0, 2, 9])]),
    ];
    let mut broadcast = Udp::new(&[1; 20]).bytes();
    broadcast[..6].fill(0xff);
    let mut unknown = Udp::new(&[2; 20]).bytes();
    unknown[5] = 77;
    first.send(&[OwnedFrame::new(unknown), OwnedFrame::new(broadcast.clone())]);
    for other in &mut others {
        let frames = other.until(|station| !station.sink.frames.is_empty());
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].bytes, broadcast);
    }
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 1);
}

/// An ARP request of the guest with MAC [`FROM`].
fn ask(target: [u8; 4]) -> OwnedFrame {
    let request = ArpPacket {
        operation: ArpPacket::REQUEST,
        sender_mac: FROM,
        sender: Ipv4Addr::new(192, 0, 2, 9),
        target_mac: MacAddr::default(),
        target: target.into(),
    };
    let mut frame = vec![0xff; 6];
    frame.extend(FROM.0);
    frame.extend([8, 6]);
    frame.resize(14 + ArpPacket::LEN, 0);
    request.emit(&mut frame[14..]);
    OwnedFrame::new(frame)
}

#[test]
fn neighbours_are_answered_with_their_own_mac_and_the_gateway_with_its() {
    let (mut first, _second) = pair();
    for (target, mac) in [
        ([192, 0, 2, 1], TO),
        ([192, 0, 2, 254], MacAddr([0x0a, 0x58, 192, 0, 2, 254])),
    ] {
        first.send(&[ask(target)]);
        let reply = first.sink.take().remove(0).bytes;
        let packet = ArpPacket::parse(&reply[14..]).unwrap();
        assert_eq!((packet.operation, packet.sender_mac), (ArpPacket::REPLY, mac));
        assert_eq!(reply[6..12], mac.0, "the frame comes from the station itself");
    }
    first.send(&[ask([192, 0, 2, 77]), ask([192, 0, 2, 9])]);
    assert!(first.sink.take().is_empty());
    assert_eq!(first.counters.dropped(DropReason::NoSuchNeighbour), 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 0, "no request leaves");
}

/// A datagram for the tunnel of a process whose peer is `127.0.0.2`.
fn tunnelled(vni: u32, frame: &[u8]) -> Vec<u8> {
    let header = GeneveHeader::new(Vni::new(vni).unwrap());
    [header.as_bytes(), frame].concat()
}

#[test]
fn what_a_peer_may_not_send_is_dropped_under_its_reason() {
    let (a, b) = (vtep(2), vtep(3));
    let mut second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
    let stranger = UdpSocket::bind("127.0.0.4:0").unwrap();
    let good = Udp::new(&[7; 40]).bytes();
    let change = |at: usize, value: u8| {
        let mut datagram = tunnelled(VNI, &good);
        datagram[at] = value;
        datagram
    };
    let mut critical = tunnelled(VNI, &good);
    critical[0] = 1;
    critical[1] = 0x40;
    critical.splice(8..8, [0x01, 0x02, 0x80, 0]);
    let mut beyond = critical.clone();
    beyond[11] = 3;
    let cases = [
        (&friend, change(0, 0x40), DropReason::TunnelMalformed),
        (&friend, change(0, 0x3f), DropReason::TunnelMalformed),
        (&friend, beyond, DropReason::TunnelMalformed),
        (&friend, critical, DropReason::TunnelOption),
        (&friend, change(1, 0x80), DropReason::TunnelControl),
        (&friend, change(3, 0), DropReason::TunnelMalformed),
        (&friend, tunnelled(VNI, &good[..13]), DropReason::TunnelMalformed),
        (&friend, vec![0; 7], DropReason::TunnelMalformed),
        (&friend, tunnelled(VNI + 1, &good), DropReason::TunnelOtherNetwork),
        (&stranger, tunnelled(VNI, &good), DropReason::TunnelUnknownPeer),
        (&friend, change(8 + 11, 77), DropReason::TunnelUnknownMac),
    ];
    for (number, (socket, datagram, reason)) in cases.into_iter().enumerate() {
        let before = second.counters.dropped(reason);
        socket.send_to(&datagram, b).unwrap();
        let frames = second.until(|station| station.counters.dropped(reason) > before);
        assert!(frames.is_empty(), "case {number}, {reason}");
    }
    friend.send_to(&tunnelled(VNI, &good), b).unwrap();
    let frames = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(frames[0].bytes, good);
}

#[test]
fn a_host_behind_any_endpoint_may_not_send_as_the_gateway() {
    let (a, b) = (vtep(2), vtep(3));
    let mut any = peer(a, FROM, [192, 0, 2, 9]);
    (any.macs, any.addresses) = (Vec::new(), Vec::new());
    let mut second = Station::new(VNI, b, TO, vec![any]);
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    let good = Udp::new(&[7; 40]).bytes();
    let mut spoofed = good.clone();
    spoofed[6..12].copy_from_slice(&[0x0a, 0x58, 192, 0, 2, 254]);
    other.send_to(&tunnelled(VNI, &spoofed), b).unwrap();
    other.send_to(&tunnelled(VNI, &good), b).unwrap();
    let frames = second.until(|station| !station.sink.frames.is_empty());
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].bytes, good);
    assert_eq!(second.counters.dropped(DropReason::TunnelSpoofedMac), 1);
}

#[test]
fn congestion_on_the_way_is_marked_for_the_guest_as_rfc_6040_has_it() {
    let (a, b) = (vtep(2), vtep(3));
    let mut second = Station::new(VNI, b, TO, vec![peer(a, FROM, [192, 0, 2, 9])]);
    let friend = socket2::SockRef::from(&UdpSocket::bind("127.0.0.2:0").unwrap())
        .try_clone()
        .unwrap();
    for inner in Ecn::ALL {
        for outer in Ecn::ALL {
            for (v6, tags) in [false, true].into_iter().flat_map(|v6| [(v6, 0), (v6, 1), (v6, 2)]) {
                let untagged = Udp {
                    v6,
                    ..Udp::new(&[7; 40])
                }
                .bytes();
                let with_class = |class: Ecn| {
                    let mut frame = untagged.clone();
                    set_class(&mut frame, class as u8);
                    for _ in 0..tags {
                        frame.splice(12..12, [0x81, 0, 0, 7]);
                    }
                    frame
                };
                let frame = with_class(inner);
                friend.set_tos_v4(u32::from(outer as u8)).unwrap();
                friend.send_to(&tunnelled(VNI, &frame), &b.into()).unwrap();
                let before = second.counters.dropped(DropReason::TunnelCongestion);
                let done = |station: &Station| {
                    !station.sink.frames.is_empty() || station.counters.dropped(DropReason::TunnelCongestion) > before
                };
                let frames = second.until(done);
                let expected = inner.decapsulated(outer).map(with_class);
                let arrived = frames.into_iter().next().map(|frame| frame.bytes);
                assert_eq!(
                    arrived, expected,
                    "inner {inner:?}, outer {outer:?}, IPv6: {v6}, {tags} tags"
                );
            }
        }
    }
}

/// Sets the TOS or traffic class of a frame, and corrects the IPv4 checksum.
fn set_class(frame: &mut [u8], class: u8) {
    if frame[12] == 8 {
        frame[15] = class;
        frame[24..26].fill(0);
        let sum = crate::packet::checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4;
    }
}

/// The MTU that the gateway reports to the guest.
fn reported_mtu(station: &mut Station) -> Option<u16> {
    let report = station.sink.take().pop()?;
    assert_eq!(report.bytes[34..36], [3, 4], "fragmentation needed");
    Some(u16::from_be_bytes([report.bytes[40], report.bytes[41]]))
}

#[test]
fn a_path_that_has_shrunk_is_followed_and_the_guest_gets_its_mtu() {
    let (mut first, mut second) = pair();
    let fits = |payload: usize| OwnedFrame::new(Udp::new(&vec![3; payload]).bytes());
    first.mode.outbound.set_datagram_max(1000);
    first.send(&[fits(1000)]);
    assert_eq!(reported_mtu(&mut first), Some(1000 - 8 - 14));
    first.send(&[fits(1000 - 8 - 14 - 28)]);
    second.until(|station| station.sink.frames.len() == 1);
    let segmented = Tcp {
        payload: 3000,
        ..Tcp::default()
    };
    first.send(&[OwnedFrame::new(segmented.frame()).with_offload(segmented.offload(1000))]);
    assert_eq!(reported_mtu(&mut first), Some(1000 - 8 - 14));
    assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 2);
}

#[test]
fn an_ipv4_packet_above_the_mtu_that_allows_it_crosses_in_fragments() {
    let (mut first, mut second) = pair();
    let udp = Udp {
        dont_fragment: false,
        ident: 0x1234,
        ..Udp::new(&(0..3000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>())
    };
    // The checksum is left to the device.
    first.send(&[udp.frame()]);
    let frames = second.until(|station| station.sink.frames.len() == 3);
    let mut datagram = vec![0; 3008];
    for frame in &frames {
        assert!(frame.bytes.len() <= 14 + 1400);
        let at = usize::from(u16::from_be_bytes([frame.bytes[20], frame.bytes[21]]) & 0x1fff) * 8;
        datagram[at..at + frame.bytes.len() - 34].copy_from_slice(&frame.bytes[34..]);
    }
    assert!(datagram[8..] == udp.bytes()[42..]);
    let pseudo = crate::packet::checksum::Sum::default().bytes(&frames[0].bytes[26..34]);
    assert_eq!(
        pseudo.word(17).word(3008).bytes(&datagram).fold(),
        u16::MAX,
        "the checksum"
    );
    assert_eq!(first.counters.count(Count::TunnelFragmented), 1);
    assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 0);
}

#[test]
fn each_datagram_above_the_mtu_of_a_frame_that_stands_for_many_crosses_in_fragments_if_it_allows_that() {
    let (mut first, mut second) = pair();
    let payload: Vec<u8> = (0..4500_u32).map(|n| n.to_le_bytes()[0]).collect();
    let udp = Udp {
        dont_fragment: false,
        ident: 0x1234,
        ..Udp::new(&payload)
    };
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        segmentation: Segmentation::Udp { size: 2000 },
    };
    let segmented = |udp: &Udp| OwnedFrame::new(udp.bytes()).with_offload(offload);
    first.send(&[segmented(&udp)]);
    // Two datagrams of two fragments, and one that fits.
    let frames = second.until(|station| station.sink.frames.len() == 5);
    let mut datagrams = BTreeMap::<u16, Vec<u8>>::new();
    for frame in &frames {
        assert!(frame.bytes.len() <= 14 + 1400);
        assert_eq!(crate::packet::checksum::of(&frame.bytes[14..34]), 0);
        let word = |at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
        let datagram = datagrams.entry(word(18)).or_default();
        assert_eq!(usize::from(word(20) & 0x1fff) * 8, datagram.len());
        datagram.extend(&frame.bytes[34..]);
    }
    let idents: Vec<u16> = datagrams.keys().copied().collect();
    assert_eq!(
        idents,
        [0x1234, 0x1235, 0x1236],
        "those of a datagram stay apart from the others"
    );
    for (datagram, expected) in datagrams.values().zip(payload.chunks(2000)) {
        assert!(datagram[8..] == *expected);
        let length = u16::try_from(datagram.len()).unwrap();
        let pseudo = crate::packet::checksum::Sum::default().bytes(&frames[0].bytes[26..34]);
        let sum = pseudo.word(17).word(length).bytes(datagram).fold();
        assert_eq!(sum, u16::MAX, "the checksum");
    }
    assert_eq!(first.counters.count(Count::TunnelFragmented), 2);
    assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 0);
    let unfragmentable = Udp {
        dont_fragment: true,
        ..udp
    };
    first.send(&[segmented(&unfragmentable)]);
    assert_eq!(reported_mtu(&mut first), Some(1400));
    assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 1);
}

#[test]
fn a_frame_above_the_mtu_is_dropped_and_the_guest_gets_the_mtu() {
    let (mut first, _second) = pair();
    let large = OwnedFrame::new(Udp::new(&[0; 1500]).bytes());
    let segmented = Tcp {
        payload: 9000,
        ..Tcp::default()
    };
    first.send(&[
        large,
        OwnedFrame::new(segmented.frame()).with_offload(segmented.offload(1401)),
    ]);
    assert_eq!(first.counters.dropped(DropReason::TunnelTooBig), 2);
    let reports = first.sink.take();
    assert_eq!(reports.len(), 2, "both packets must not be fragmented");
    for report in reports {
        let packet = &report.bytes[14..];
        assert_eq!(
            packet[12..20],
            [192, 0, 2, 254, 192, 0, 2, 1],
            "from the gateway to the guest"
        );
        assert_eq!(packet[20..22], [3, 4], "fragmentation needed");
        assert_eq!(packet[26..28], 1400_u16.to_be_bytes());
    }
    let v6 = Udp {
        v6: true,
        ..Udp::new(&[0; 1500])
    };
    first.send(&[OwnedFrame::new(v6.bytes())]);
    assert!(
        first.sink.take().is_empty(),
        "a network without IPv6 has no gateway to report it"
    );
    let nonsense = Offload {
        checksum: Checksum::Complete,
        segmentation: Segmentation::Udp { size: 100 },
    };
    first.send(&[OwnedFrame::new(Udp::new(&[0; 900]).bytes()).with_offload(nonsense)]);
    assert_eq!(first.counters.dropped(DropReason::BadOffload), 1);
    assert_eq!(first.counters.count(Count::TunnelSent), 0);
}
