//! Tests of connections that a router refuses.

use super::sockets::Bench;
use crate::nat::test_support::{guest, icmp_message, ip};
use crate::packet::FlowId;
use crate::packet::icmp::{v4, v6};
use crate::sys::netns::Network;
use std::net::SocketAddr;

#[test]
fn an_administrative_refusal_keeps_its_type_code_and_router() {
    let Some(network) = Network::new(1500) else { return };
    network.router_run("ip route add prohibit 203.0.113.0/24");
    network.router_run("ip -6 route add prohibit 2001:db8:99::/64");
    for (far, router, want) in [
        (
            "203.0.113.1",
            "192.0.2.1",
            (v4::UNREACHABLE, v4::unreachable::PROHIBITED),
        ),
        (
            "2001:db8:99::1",
            "fd00:1::1",
            (v6::UNREACHABLE, v6::unreachable::PROHIBITED),
        ),
    ] {
        let mut bench = Bench::new(0);
        let remote = SocketAddr::new(ip(far), 80);
        bench.key = FlowId::tcp(guest(remote.ip(), 40_000), remote);
        bench.send_syn();
        // The router's message takes some time to arrive.
        for _ in 0..100 {
            bench.handle_events();
            if !bench.around.sink.frames.is_empty() {
                break;
            }
        }
        let frames = bench.around.sink.take();
        let (from, header, _) = icmp_message(&frames[0]);
        assert_eq!((from, (header.kind, header.code)), (ip(router), want));
        assert_eq!(bench.flows.count(), 0);
    }
}
