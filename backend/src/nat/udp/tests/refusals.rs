//! Tests of dropped datagrams, and of what the guest learns about them.

use super::*;

#[test]
fn a_closed_port_is_reported_to_the_guest() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), free_port()));
        bench.send(src, dst, b"anybody?");
        bench.turn();
        let frames = bench.around.sink.take();
        assert_eq!(frames.len(), 1);
        let (from, header, quoted) = icmp_message(&frames[0]);
        let (gateway, want) = match src.ip() {
            IpAddr::V4(_) => (ip("10.0.2.1"), (v4::UNREACHABLE, v4::unreachable::PORT)),
            IpAddr::V6(_) => (ip("fd10:0:2::1"), (v6::UNREACHABLE, v6::unreachable::PORT)),
        };
        assert_eq!(from, gateway, "the host's loopback is the gateway to the guest");
        assert_eq!((header.kind, header.code), want);
        // The quote is the guest's own packet, except the checksum and the fields that the host
        // changed.
        let sent = udp_frame(src, dst, 64, b"anybody?");
        assert_eq!(quoted, sent[EthernetHeader::LEN..]);
        // The error of the previous datagram does not affect the next one.
        bench.send(src, dst, b"hello?");
        bench.turn();
        assert_eq!(bench.around.sink.take().len(), 1);
        assert_eq!(bench.dropped(DropReason::UdpSendFailed), 0);
    }
}

#[test]
fn a_datagram_to_the_gateway_finds_its_port_closed() {
    let mut bench = Bench::new();
    bench.send(guest(ip("::1"), 9), SocketAddr::new(ip("fd10:0:2::1"), 7), b"x");
    let (_, header, _) = icmp_message(&bench.around.sink.take()[0]);
    assert_eq!((header.kind, header.code), (v6::UNREACHABLE, v6::unreachable::PORT));
    assert!(bench.flows.is_empty());
}

#[test]
fn the_hosts_loopback_is_refused() {
    let mut bench = Bench::new();
    bench.send(guest(ip("127.0.0.1"), 9), SocketAddr::new(ip("127.0.0.1"), 7), b"x");
    let (_, header, _) = icmp_message(&bench.around.sink.take()[0]);
    assert_eq!(
        (header.kind, header.code),
        (v4::UNREACHABLE, v4::unreachable::PROHIBITED)
    );
    assert_eq!(bench.dropped(DropReason::ForbiddenDestination), 1);
    assert!(bench.flows.is_empty());
}
