//! Pings through a network with a router in it, by ping and by raw sockets.

use super::EchoSupport;
use super::echo::tests::{Bench, reply_kind};
use crate::masquerade::test_support::netns::Network;
use crate::masquerade::test_support::{icmp_message, ip};
use crate::packet::IcmpHeader;
use crate::packet::icmp::{v4, v6};

const ROUTER: [&str; 2] = ["192.0.2.1", "fd00:1::1"];
const SERVER: [&str; 2] = ["198.51.100.2", "fd00:2::2"];

/// The network, ping sockets permitted in the pod.
fn network(mtu: u32) -> Option<Network> {
    let network = Network::new(mtu)?;
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    Some(network)
}

#[test]
fn what_the_system_permits_is_found_out() {
    let Some(_network) = network(1500) else { return };
    let found = super::EchoFlows::new().availability();
    assert_eq!((found.ipv4, found.ipv6), (EchoSupport::Ping, EchoSupport::Ping));
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "1 0").unwrap();
    let found = super::EchoFlows::new().availability();
    assert_eq!((found.ipv4, found.ipv6), (EchoSupport::Raw, EchoSupport::Raw));
}

#[test]
fn a_far_host_answers_and_a_trace_shows_the_router() {
    let Some(_network) = network(1500) else { return };
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        for (server, router) in SERVER.map(ip).into_iter().zip(ROUTER) {
            let mut bench = Bench::with(support);
            bench.ping(server, 0x1234, 5, b"payload");
            let (from, header, body) = icmp_message(&bench.turn()[0]);
            let want = IcmpHeader::echo(reply_kind(server), 0x1234, 5);
            assert_eq!((from, header, body.as_slice()), (server, want, &b"payload"[..]));

            bench.ping_with_ttl(server, 1, 0x1234, 6, b"payload");
            let (from, header, quoted) = icmp_message(&bench.turn()[0]);
            let (kind, at) = if from.is_ipv4() {
                (v4::TIME_EXCEEDED, 20)
            } else {
                (v6::TIME_EXCEEDED, 40)
            };
            assert_eq!((from, header.kind, header.code), (ip(router), kind, 0), "{support:?}");
            let request = IcmpHeader::parse(&quoted[at..]).unwrap();
            assert_eq!(
                (request.echo_ident(), request.echo_sequence()),
                (0x1234, 6),
                "{support:?}"
            );
            assert_eq!(quoted[at + 8..], *b"payload");
        }
    }
}

#[test]
fn a_ping_too_large_for_the_path_is_told_so_if_it_must_not_be_fragmented() {
    let Some(_network) = network(1300) else { return };
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        for server in SERVER.map(ip) {
            let mut bench = Bench::with(support);
            for sequence in [1, 2] {
                bench.ping(server, 9, sequence, &[1; 1400]);
                let mut frames = bench.around.sink.take();
                if frames.is_empty() {
                    frames = bench.turn();
                }
                let (_, header, _) = icmp_message(&frames[0]);
                let kind = if server.is_ipv4() {
                    v4::UNREACHABLE
                } else {
                    v6::PACKET_TOO_BIG
                };
                assert_eq!(header.kind, kind, "{support:?} {sequence}");
                assert_eq!(u32::from_be_bytes(header.rest), 1300);
            }
        }
    }
}
