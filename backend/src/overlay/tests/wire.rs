//! Tests of captures of outer packets.

use super::*;
use crate::capture::{Capture, CaptureRules, CaptureStream, Direction, Packet, SNAP_LENGTH_MAX};
use crate::packet::checksum::Sum;
use crate::packet::geneve::GenevePacket;
use crate::packet::{Headers, Network, UdpHeader, protocol};

fn capture(station: &mut Station, filter: &str) -> CaptureStream {
    let capture = Arc::new(Capture::default());
    station.mode.set_capture(&capture);
    let rules = CaptureRules {
        snap_length: SNAP_LENGTH_MAX,
        filter: filter.parse().unwrap(),
    };
    capture.start(rules).unwrap()
}

fn all(stream: &CaptureStream) -> Vec<Packet> {
    std::iter::from_fn(|| stream.ready()).collect()
}

/// Ports and payload of an outer packet with correct headers.
fn payload(packet: &Packet) -> (u16, u16, &[u8]) {
    let headers = Headers::parse(&packet.bytes, packet.len).unwrap();
    let (kind, at, len) = headers.network.transport().unwrap();
    assert_eq!((kind, at + len), (protocol::UDP, packet.len));
    if let Network::Ipv4(header) = headers.network {
        assert!(header.dont_fragment && header.ttl == 64);
        assert_eq!(
            crate::packet::checksum::of(&packet.bytes[14..34]),
            0,
            "of the IPv4 header"
        );
    }
    let (source, destination) = headers.network.addresses().unwrap();
    let sum = Sum::default().pseudo_header(source, destination, protocol::UDP, len);
    assert_eq!(sum.bytes(&packet.bytes[at..]).fold(), u16::MAX, "the checksum of UDP");
    let udp = UdpHeader::parse(&packet.bytes[at..], len, false).unwrap();
    (udp.src_port, udp.dst_port, &packet.bytes[at + UdpHeader::LEN..])
}

#[test]
fn a_capture_of_the_tunnel_shows_each_datagram_with_its_headers_in_both_directions() {
    let (mut first, mut second) = pair();
    let (sent, received) = (capture(&mut first, ""), capture(&mut second, "in,udp"));
    let tcp = Tcp {
        payload: 2500,
        ..Tcp::default()
    };
    // The worker notices a capture at the end of a burst.
    first.send(&[]);
    first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1000))]);
    // The frame waits for the guest and is still captured only once.
    second.sink.room = 0;
    let started = Clock::now();
    while second.counters.count(Count::TunnelReceived) < 3 {
        assert!(started.elapsed() < PATIENCE);
        second.mode.inbound.expect_datagrams();
        second.mode.receive(Instant::from_nanos(1), &mut second.sink);
    }
    second.sink.room = usize::MAX;
    second.until(|station| !station.sink.frames.is_empty());
    let (sent, received) = (all(&sent), all(&received));
    assert_eq!([sent.len(), received.len()], [3, 3], "a frame of three segments");
    for (out, into) in sent.iter().zip(&received) {
        assert_eq!(
            (out.direction, into.direction),
            (Direction::FromGuest, Direction::ToGuest)
        );
        assert_eq!(out.dropped, None);
        assert_eq!(payload(out), payload(into), "what one sends the other receives");
        let datagram = payload(out).2;
        let packet = GenevePacket::parse(datagram, datagram.len()).unwrap();
        assert_eq!(packet.vni.get(), VNI);
        assert_eq!(datagram[8..14], TO.0);
    }
}

#[test]
fn a_capture_of_the_tunnel_shows_why_a_datagram_was_dropped_and_a_large_one_whole() {
    let (a, b) = (vtep(2), vtep(3));
    let with_option = PeerConfig {
        knows_frame_option: true,
        ..peer(b, TO, [192, 0, 2, 1])
    };
    let mut first = Station::new(VNI, a, FROM, vec![with_option]);
    let stream = capture(&mut first, "");
    let stranger = UdpSocket::bind("127.0.0.4:0").unwrap();
    let datagram = tunnelled(VNI, &Udp::new(&[7; 41]).bytes());
    stranger.send_to(&datagram, a).unwrap();
    first.until(|station| station.counters.dropped(DropReason::TunnelUnknownPeer) == 1);
    let seen = all(&stream);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].dropped, Some(DropReason::TunnelUnknownPeer));
    let from = stranger.local_addr().unwrap().port();
    assert_eq!(payload(&seen[0]), (from, a.port(), &datagram[..]));
    let tcp = Tcp {
        payload: 60_000,
        ..Tcp::default()
    };
    first.send(&[]);
    first.send(&[OwnedFrame::new(tcp.frame()).with_offload(tcp.offload(1200))]);
    let seen = all(&stream);
    assert_eq!(seen.len(), 1, "one datagram of a frame");
    assert!(payload(&seen[0]).2.ends_with(&tcp.frame()));
}
