//! Tests of the effects of a network with a router on datagrams, as the guest sees them.

use super::tests::{Bench, SERVER, take};
use super::*;
use crate::counters::Count;
use crate::nat::test_support::{guest, icmp_message, ip, udp_frame};
use crate::packet::icmp::{v4, v6};
use crate::packet::{EthernetHeader, UdpHeader};
use crate::sys::netns::Network;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

const ROUTER: [&str; 2] = ["192.0.2.1", "fd00:1::1"];
const FAR_MTU: u32 = 1300;

/// A server socket in the far namespace.
fn server(network: &Network, address: &str) -> (UdpSocket, SocketAddr) {
    let socket = network.at_server(|| UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

#[test]
fn a_trace_shows_the_guest_the_router_that_answered() {
    let Some(network) = Network::new(1500) else { return };
    for (server, router) in SERVER.into_iter().zip(ROUTER) {
        let mut bench = Bench::new();
        let (_socket, dst) = self::server(&network, server);
        let src = guest(dst.ip(), 40_000);
        let frame = udp_frame(src, dst, 1, b"probe");
        bench.send_frames(std::slice::from_ref(&frame), None);
        bench.turn();
        let (from, header, quoted) = icmp_message(&bench.around.sink.take()[0]);
        let kind = if from.is_ipv4() {
            v4::TIME_EXCEEDED
        } else {
            v6::TIME_EXCEEDED
        };
        assert_eq!((from, header.kind, header.code), (ip(router), kind, 0));
        // The packet in the ICMP message is the guest's own, except for TTL and header checksum, which change on the
        // way.
        let same_from = if from.is_ipv4() { 12 } else { 8 };
        assert_eq!(quoted[same_from..], frame[EthernetHeader::LEN + same_from..]);
    }
}

#[test]
fn a_closed_port_of_a_far_host_is_reported_by_that_host() {
    let Some(network) = Network::new(1500) else { return };
    for server in SERVER {
        let mut bench = Bench::new();
        let (socket, dst) = self::server(&network, server);
        drop(socket);
        bench.send(guest(dst.ip(), 40_000), dst, b"probe");
        bench.turn();
        let (from, header, _) = icmp_message(&bench.around.sink.take()[0]);
        let want = match dst.ip() {
            IpAddr::V4(_) => (v4::UNREACHABLE, v4::unreachable::PORT),
            IpAddr::V6(_) => (v6::UNREACHABLE, v6::unreachable::PORT),
        };
        assert_eq!((from, header.kind, header.code), (dst.ip(), want.0, want.1));
    }
}

#[test]
fn a_network_without_a_route_is_unreachable() {
    let Some(network) = Network::new(1500) else { return };
    network.pod_run("ip route del default");
    network.pod_run("ip -6 route del default");
    for (server, code) in SERVER
        .into_iter()
        .zip([v4::unreachable::NETWORK, v6::unreachable::NO_ROUTE])
    {
        let mut bench = Bench::new();
        bench.send(guest(ip(server), 40_000), SocketAddr::new(ip(server), 9), b"probe");
        let (from, header, _) = icmp_message(&bench.around.sink.take()[0]);
        let kind = if from.is_ipv4() {
            v4::UNREACHABLE
        } else {
            v6::UNREACHABLE
        };
        assert_eq!((header.kind, header.code), (kind, code));
        assert!(bench.flows.is_empty());
    }
}

/// The MTU that the guest learns from an error.
fn told_mtu(header: crate::packet::IcmpHeader, from: IpAddr) -> u32 {
    let want = match from {
        IpAddr::V4(_) => (v4::UNREACHABLE, v4::unreachable::FRAGMENTATION_NEEDED),
        IpAddr::V6(_) => (v6::PACKET_TOO_BIG, 0),
    };
    assert_eq!((header.kind, header.code), want);
    u32::from_be_bytes(header.rest)
}

#[test]
fn a_narrow_path_is_reported_to_the_guest_and_its_fragments_pass() {
    let Some(network) = Network::new(FAR_MTU) else {
        return;
    };
    for (server, router) in SERVER.into_iter().zip(ROUTER) {
        let mut bench = Bench::new();
        let (socket, dst) = self::server(&network, server);
        let src = guest(dst.ip(), 40_000);
        let payload = [7; 1400];
        // The router reports the MTU first. After that, the pod's own stack knows it.
        bench.send(src, dst, &payload);
        bench.turn();
        let (from, header, _) = icmp_message(&bench.around.sink.take()[0]);
        assert_eq!((from, told_mtu(header, from)), (ip(router), FAR_MTU));
        bench.send(src, dst, &payload);
        let frames = bench.around.sink.take();
        assert_eq!(frames.len(), 1, "the guest gets one error");
        let (from, header, quoted) = icmp_message(&frames[0]);
        assert_eq!(told_mtu(header, from), FAR_MTU);
        // The quoted datagram is the one that was not sent, including its length.
        let udp = if from.is_ipv4() { 20 } else { 40 };
        let length = u16::from_be_bytes([quoted[udp + 4], quoted[udp + 5]]);
        assert_eq!(usize::from(length), UdpHeader::LEN + payload.len());
        // Two datagrams that would be sent as one message cause one error each.
        bench.send_frames(
            &[udp_frame(src, dst, 64, &payload), udp_frame(src, dst, 64, &payload)],
            None,
        );
        assert_eq!(bench.around.sink.take().len(), 2);
        // The guest has learned the MTU. A datagram that it sends in fragments is forwarded in fragments. A frame
        // longer than the MTU comes from the reassembler and is treated like a packet without DF.
        let long = vec![9; 3000];
        let mut frame = udp_frame(src, dst, 64, &long);
        if dst.is_ipv4() {
            frame[EthernetHeader::LEN + 6] = 0;
        }
        bench.send_frames(&[frame], None);
        assert_eq!(take(&socket).0, long);
        bench.send(src, dst, b"small");
        assert_eq!(take(&socket).0, b"small");
    }
}

#[test]
fn a_client_from_outside_is_seen_with_its_own_address() {
    let Some(network) = Network::new(1500) else { return };
    // Each server needs a port of its own, because a command that another test has just started keeps descriptors open
    // for a moment.
    for (server, (pod, port)) in SERVER.into_iter().zip([("192.0.2.2", 5000), ("fd00:1::2", 5001)]) {
        let mut bench = tests::listening(&[tests::forward(port, 53, None)]);
        let (client, seen) = self::server(&network, server);
        client.send_to(b"question", (pod, port)).unwrap();
        let to = guest(seen.ip(), 53);
        assert_eq!(bench.receive(1), [(seen, to, b"question".to_vec())]);
        bench.send(to, seen, b"answer");
        assert_eq!(take(&client), (b"answer".to_vec(), SocketAddr::new(ip(pod), port)));
    }
}

const POD: [&str; 2] = ["192.0.2.2", "fd00:1::2"];
const POD_AFTERWARDS: [&str; 2] = ["192.0.2.3", "fd00:1::3"];

#[test]
fn a_flow_continues_from_its_port_after_the_pod_has_changed_its_address() {
    let Some(network) = Network::new(1500) else { return };
    for (i, server) in SERVER.into_iter().enumerate() {
        // The removal is reported by netlink, or detected by a failed send. IPv6 does not report a failed send.
        for is_told in [true, false] {
            if !is_told && i == 1 {
                continue;
            }
            let mut bench = Bench::new();
            let (socket, dst) = self::server(&network, server);
            let src = guest(dst.ip(), 41_000);
            bench.send(src, dst, b"before");
            assert_eq!(
                take(&socket),
                (b"before".to_vec(), SocketAddr::new(ip(POD[i]), src.port()))
            );
            network.renumber_pod(POD, POD_AFTERWARDS);
            if is_told {
                bench.flows.on_addresses_removed(&mut bench.around.context());
            }
            bench.send(src, dst, b"afterwards");
            let (got, from) = take(&socket);
            assert_eq!(got, b"afterwards");
            assert_eq!(from, SocketAddr::new(ip(POD_AFTERWARDS[i]), src.port()));
            socket.send_to(b"answer", from).unwrap();
            assert_eq!(bench.receive(1), [(dst, src, b"answer".to_vec())]);
            assert_eq!(bench.flows.len(), 1);
            assert_eq!(bench.around.counters.count(Count::UdpFlows), 1);
            network.renumber_pod(POD_AFTERWARDS, POD);
        }
    }
}

#[test]
fn a_client_of_a_forward_is_answered_from_the_pods_new_address() {
    let Some(network) = Network::new(1500) else { return };
    for (i, server) in SERVER.into_iter().enumerate() {
        let port = 5100 + u16::try_from(i).unwrap();
        let mut bench = tests::listening(&[tests::forward(port, 53, None)]);
        let (client, seen) = self::server(&network, server);
        client.send_to(b"question", (POD[i], port)).unwrap();
        let to = guest(seen.ip(), 53);
        bench.receive(1);
        network.renumber_pod(POD, POD_AFTERWARDS);
        bench.flows.on_addresses_removed(&mut bench.around.context());
        bench.send(to, seen, b"answer");
        let pod = SocketAddr::new(ip(POD_AFTERWARDS[i]), port);
        assert_eq!(take(&client), (b"answer".to_vec(), pod));
        client.send_to(b"more", pod).unwrap();
        assert_eq!(bench.receive(1), [(seen, to, b"more".to_vec())]);
        assert_eq!(bench.flows.len(), 1);
        network.renumber_pod(POD_AFTERWARDS, POD);
    }
}

#[test]
fn without_an_address_the_guest_gets_an_error_and_the_flow_continues_once_there_is_one() {
    let Some(network) = Network::new(1500) else { return };
    let mut bench = Bench::new();
    let (socket, dst) = server(&network, SERVER[0]);
    let src = guest(dst.ip(), 41_002);
    bench.send(src, dst, b"before");
    take(&socket);
    network.pod_run("ip address del 192.0.2.2/24 dev pod0");
    bench.flows.on_addresses_removed(&mut bench.around.context());
    bench.send(src, dst, b"lost");
    let (_, header, _) = icmp_message(&bench.around.sink.take()[0]);
    assert_eq!((header.kind, header.code), (v4::UNREACHABLE, v4::unreachable::NETWORK));
    assert_eq!(bench.around.counters.dropped(DropReason::UdpSendFailed), 1);
    network.pod_run("ip address add 192.0.2.3/24 dev pod0");
    network.pod_run("ip route replace default via 192.0.2.1");
    bench.send(src, dst, b"afterwards");
    let (got, from) = take(&socket);
    assert_eq!(
        (got.as_slice(), from.to_string().as_str()),
        (&b"afterwards"[..], "192.0.2.3:41002")
    );
}

#[test]
fn an_administrative_refusal_keeps_its_type_and_code() {
    let Some(network) = Network::new(1500) else { return };
    let far = ["203.0.113.1", "2001:db8:99::1"];
    network.router_run("ip route add prohibit 203.0.113.0/24");
    network.router_run("ip -6 route add prohibit 2001:db8:99::/64");
    for ((far, router), code) in far
        .into_iter()
        .zip(ROUTER)
        .zip([v4::unreachable::PROHIBITED, v6::unreachable::PROHIBITED])
    {
        let mut bench = Bench::new();
        let dst = SocketAddr::new(ip(far), 9);
        bench.send(guest(dst.ip(), 40_000), dst, b"probe");
        bench.turn();
        let (from, header, _) = icmp_message(&bench.around.sink.take()[0]);
        assert_eq!((from, header.code), (ip(router), code));
    }
}
