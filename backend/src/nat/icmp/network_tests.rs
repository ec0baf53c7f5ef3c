//! Tests of echo requests through a network with a router, with ping sockets and with raw sockets.

use super::EchoSupport;
use super::echo::tests::{Bench, reply_kind};
use crate::nat::test_support::{icmp_message, ip};
use crate::packet::IcmpHeader;
use crate::packet::icmp::{v4, v6};
use crate::sys::netns::Network;

const ROUTER: [&str; 2] = ["192.0.2.1", "fd00:1::1"];
const SERVER: [&str; 2] = ["198.51.100.2", "fd00:2::2"];

/// The network, with ping sockets permitted in the pod.
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
fn a_ping_too_large_for_the_path_gets_an_error_if_it_must_not_be_fragmented() {
    let Some(_network) = network(1300) else { return };
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        for server in SERVER.map(ip) {
            let mut bench = Bench::with(support);
            // The router reports the first error, the pod's own stack the second.
            for sequence in [1, 2] {
                bench.ping(server, 9, sequence, &[1; 1400]);
                let mut frames = bench.around.sink.take();
                if frames.is_empty() {
                    frames = bench.turn();
                }
                assert_eq!(frames.len(), 1, "{support:?} {sequence}: the guest gets one error");
                let (from, _, quoted) = icmp_message(&frames[0]);
                let at = if from.is_ipv4() { 20 } else { 40 };
                let request = IcmpHeader::parse(&quoted[at..]).unwrap();
                assert_eq!(
                    (request.echo_ident(), request.echo_sequence()),
                    (9, sequence),
                    "{support:?}"
                );
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

#[test]
fn a_thousand_hosts_asked_with_one_identifier_answer_each_for_itself() {
    const HOSTS: u32 = 1000;
    const AT_A_TIME: u32 = 100;
    let Some(network) = network(1500) else { return };
    network.at_server(|| {
        // The server answers for every address of these networks.
        for line in [
            "ip route add local 10.99.0.0/16 dev lo",
            "ip -6 route add local fd99::/64 dev lo",
        ] {
            crate::sys::netns::run(line);
        }
    });
    network.router_run("ip route add 10.99.0.0/16 via 198.51.100.2");
    network.router_run("ip -6 route add fd99::/64 via fd00:2::2");
    let hosts = [
        |n: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a63_0000 + n)),
        |n: u32| std::net::Ipv6Addr::from((0xfd99_u128 << 112) + u128::from(n)).into(),
    ];
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        for host in hosts {
            let mut bench = Bench::with(support);
            let mut answered = std::collections::HashSet::new();
            for first in (1..=HOSTS).step_by(AT_A_TIME as usize) {
                for n in first..first + AT_A_TIME {
                    bench.ping(host(n), 1, u16::try_from(n).unwrap(), b"who");
                }
                while answered.len() < (first + AT_A_TIME - 1) as usize {
                    let frames = bench.turn();
                    assert!(!frames.is_empty(), "{support:?}: {} answered", answered.len());
                    for frame in frames {
                        let (from, header, _) = icmp_message(&frame);
                        assert_eq!(host(header.echo_sequence().into()), from, "{support:?}");
                        answered.insert(from);
                    }
                }
            }
            assert_eq!(bench.open_sockets(), 1);
        }
    }
}

#[test]
fn an_error_goes_to_the_request_it_quotes_and_no_other() {
    let Some(_network) = network(1500) else { return };
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        for (server, nobody) in SERVER.map(ip).into_iter().zip(["192.0.2.1", "fd00:1::1"].map(ip)) {
            let mut bench = Bench::with(support);
            // Two programs ping two hosts, and one of the requests does not pass the router.
            bench.ping(nobody, 1, 10, b"near");
            bench.ping_with_ttl(server, 1, 2, 11, b"far");
            bench.ping(server, 1, 12, b"far");
            let mut told = Vec::new();
            while told.len() < 3 {
                told.extend(bench.turn().iter().map(icmp_message));
            }
            told.sort_by_key(|(_, header, _)| header.kind != reply_kind(server));
            let replies: std::collections::HashSet<_> = told[..2]
                .iter()
                .map(|(from, h, _)| (*from, h.echo_sequence()))
                .collect();
            assert_eq!(replies, [(nobody, 10), (server, 12)].into(), "{support:?}");
            let at = if server.is_ipv4() { 20 } else { 40 };
            let request = IcmpHeader::parse(&told[2].2[at..]).unwrap();
            assert_eq!((request.echo_ident(), request.echo_sequence()), (2, 11), "{support:?}");
        }
    }
}

#[test]
fn pings_go_on_after_the_pod_has_changed_its_address() {
    let Some(network) = network(1500) else { return };
    for support in [EchoSupport::Ping, EchoSupport::Raw] {
        let mut benches = SERVER.map(|_| Bench::with(support));
        let mut all_answer = |sequence| {
            for (bench, server) in benches.iter_mut().zip(SERVER.map(ip)) {
                bench.ping(server, 1, sequence, b"who");
                let frames = bench.turn();
                assert_eq!(frames.len(), 1, "{support:?} {server} {sequence}");
                let (from, header, _) = icmp_message(&frames[0]);
                assert_eq!((from, header.echo_sequence()), (server, sequence), "{support:?}");
            }
        };
        all_answer(1);
        network.renumber_pod(["192.0.2.2", "fd00:1::2"], ["192.0.2.3", "fd00:1::3"]);
        all_answer(2);
        network.renumber_pod(["192.0.2.3", "fd00:1::3"], ["192.0.2.2", "fd00:1::2"]);
        all_answer(3);
    }
}
