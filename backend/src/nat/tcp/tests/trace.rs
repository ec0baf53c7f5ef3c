//! Tests of the TTL of the guest's SYNs, and of the network's errors about them, which the guest receives.

use super::sockets::Bench;
use crate::nat::test_support::{guest, icmp_message, ip};
use crate::packet::icmp::{v4, v6};
use crate::packet::{FlowId, IcmpHeader, TcpFlags};
use crate::sys::netns::Network;
use std::net::{IpAddr, SocketAddr, TcpListener};

const SERVER: [&str; 2] = ["198.51.100.2", "fd00:2::2"];
const ROUTER: [&str; 2] = ["192.0.2.1", "fd00:1::1"];
const ISS: u32 = 1000;

/// Sends a SYN with `ttl` from the guest to `remote`.
fn syn(remote: SocketAddr, ttl: u8) -> Bench {
    let mut bench = Bench::new(0);
    bench.key = FlowId::tcp(guest(remote.ip(), 40_000), remote);
    bench.ttl = ttl;
    bench.send_syn();
    bench.handle_events();
    bench
}

/// The ICMP message that the guest received: its source, its header, and the ports and sequence number in its quote.
fn told(bench: &mut Bench) -> (IpAddr, IcmpHeader, [u8; 8]) {
    let frames = bench.around.sink.take();
    assert_eq!(frames.len(), 1);
    let (from, header, quoted) = icmp_message(&frames[0]);
    let network = if from.is_ipv4() { 20 } else { 40 };
    (from, header, *quoted[network..].first_chunk().unwrap())
}

fn ports_and_number(bench: &Bench) -> [u8; 8] {
    let [a, b] = bench.key.guest_port.to_be_bytes();
    let [c, d] = bench.key.remote_port.to_be_bytes();
    let [e, f, g, h] = ISS.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

#[test]
fn a_trace_by_syns_shows_the_router_and_then_the_destination() {
    let Some(network) = Network::new(1500) else { return };
    for (server, router) in SERVER.into_iter().zip(ROUTER) {
        let listener = network.at_server(|| TcpListener::bind((server, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let mut first = syn(at, 1);
        let (from, header, quoted) = told(&mut first);
        let kind = if from.is_ipv4() {
            v4::TIME_EXCEEDED
        } else {
            v6::TIME_EXCEEDED
        };
        assert_eq!((from, header.kind, header.code), (ip(router), kind, 0));
        assert_eq!(quoted, ports_and_number(&first));
        assert_eq!(first.flows.count(), 0);
        let mut second = syn(at, 2);
        let answers = second.take();
        assert_eq!(answers[0].header.flags, TcpFlags::SYN | TcpFlags::ACK);
        listener.accept().unwrap();
    }
}

#[test]
fn what_the_network_says_against_a_connection_that_is_made_ends_it_not() {
    let Some(network) = Network::new(1500) else { return };
    for server in SERVER {
        let listener = network.at_server(|| TcpListener::bind((server, 0)).unwrap());
        let mut bench = syn(listener.local_addr().unwrap(), 64);
        bench.take();
        bench.send(TcpFlags::ACK, b"");
        let family = if server.contains(':') { "-6 " } else { "" };
        network.router_run(&format!("ip {family}route add prohibit {server}"));
        bench.send(TcpFlags::ACK, b"held up");
        bench.handle_events();
        assert_eq!(bench.flows.count(), 1);
        assert!(!bench.take().iter().any(|a| a.header.flags.has(TcpFlags::RST)));
    }
}
