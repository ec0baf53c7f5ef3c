//! Tests of DSCP and ECN of datagrams, in both directions.

use super::*;
use crate::nat::test_support::{mark, traffic_class};
use crate::sys::traffic_class::{set_traffic_class, watch_traffic_class};
use socket2::{Domain, Socket};

const EF: u8 = 0xb8;
const ECT0: u8 = 0x02;

/// A peer that reads the traffic class of received datagrams.
fn watching(address: &str) -> (Socket, Domain, u16) {
    let (socket, port) = peer(address);
    let domain = socket::domain_of(ip(address));
    let socket = Socket::from(socket);
    watch_traffic_class(&socket, domain, true).unwrap();
    (socket, domain, port)
}

/// Traffic classes of all received datagrams, and their source.
fn classes(socket: &Socket) -> (Vec<u8>, SocketAddr) {
    let mut batch = ReceiveBatch::with_capacity(8);
    let n = batch.receive_to_spill(socket, 8).unwrap();
    let came = (0..n).map(|i| batch.message(i).traffic_class).collect();
    (came, batch.message(0).source.unwrap())
}

#[test]
fn dscp_and_ecn_of_each_datagram_are_kept_either_way() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, domain, port) = watching(address);
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
        let marks = [0, EF, EF | ECT0, ECT0, 0];
        let mut burst = marks.map(|_| udp_frame(src, dst, 64, b"x"));
        for (frame, class) in burst.iter_mut().zip(marks) {
            mark(frame, class);
        }
        bench.send_frames(&burst, None);
        let (came, from) = classes(&peer);
        assert_eq!(came, marks, "{address}: to the network");
        // Datagrams arrive in one piece, and in fragments.
        for (class, payload) in [(EF | ECT0, pattern(10)), (0x20, pattern(4000)), (0, pattern(5))] {
            set_traffic_class(&peer, domain, class).unwrap();
            peer.send_to(&payload, &from.into()).unwrap();
            bench.turn();
            let frames = bench.around.sink.take();
            assert!(!frames.is_empty());
            for frame in frames {
                assert_eq!(traffic_class(&frame.bytes), class, "{address}: to the guest");
            }
        }
    }
}

#[test]
fn the_first_datagram_of_a_client_keeps_its_marks_too() {
    for address in BOTH {
        let port = free_port();
        let mut bench = listening(&[forward(port, 5353, Some(ip(address)))]);
        let (client, domain, _) = watching(address);
        set_traffic_class(&client, domain, EF | ECT0).unwrap();
        for payload in [&b"first"[..], b"second"] {
            client
                .send_to(payload, &SocketAddr::new(ip(address), port).into())
                .unwrap();
            bench.turn();
            let frames = bench.around.sink.take();
            assert_eq!(frames.len(), 1);
            assert_eq!(traffic_class(&frames[0].bytes), EF | ECT0, "{address}");
        }
    }
}

/// Sends `n` datagrams marked with `class`, and returns the marks of those that the guest receives.
fn flood(bench: &mut Bench, (peer, domain): (&Socket, Domain), to: SocketAddr, class: u8, n: usize) -> Vec<u8> {
    set_traffic_class(peer, domain, class).unwrap();
    for _ in 0..n {
        peer.send_to(b"x", &to.into()).unwrap();
    }
    let mut got = Vec::new();
    while got.len() < n {
        bench.turn();
        let frames = bench.around.sink.take();
        assert!(!frames.is_empty(), "{} of {n} datagrams", got.len());
        got.extend(frames.iter().map(|frame| traffic_class(&frame.bytes)));
    }
    got
}

#[test]
fn marks_that_come_after_a_flood_without_any_are_kept() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, domain, port) = watching(address);
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
        bench.send(src, dst, b"x");
        let (_, from) = classes(&peer);
        let peer = (&peer, domain);
        assert_eq!(flood(&mut bench, peer, from, EF, 100), [EF; 100], "{address}");
        for _ in 0..5 {
            assert_eq!(flood(&mut bench, peer, from, 0, 100), [0; 100], "{address}");
        }
        bench.around.now = bench.around.now + Duration::from_secs(1);
        let came = flood(&mut bench, peer, from, EF, 100);
        assert!(came.ends_with(&[EF; 60]), "{address}: {came:?}");
        assert_eq!(flood(&mut bench, peer, from, ECT0, 1), [ECT0], "{address}");
    }
}
