//! Tests of sending for the guest: flows, ports and runs.

use super::*;

#[test]
fn a_datagram_goes_out_from_the_guests_port_and_the_answer_comes_back() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, port) = peer(address);
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
        bench.send(src, dst, b"question");
        let (question, from) = take(&peer);
        assert_eq!(question, b"question");
        assert_eq!(from, SocketAddr::new(ip(address), src.port()));
        peer.send_to(b"answer", from).unwrap();
        assert_eq!(bench.receive(1), [(dst, src, b"answer".to_vec())]);
        assert_eq!(bench.around.counters.count(Count::UdpFlows), 1);
    }
}

#[test]
fn one_port_of_the_guest_is_kept_towards_several_peers() {
    let mut bench = Bench::new();
    let src = guest(ip("127.0.0.1"), free_port());
    for _ in 0..3 {
        let (peer, port) = peer("127.0.0.1");
        bench.send(src, host_seen(src.ip(), port), b"x");
        assert_eq!(take(&peer).1.port(), src.port());
    }
}

#[test]
fn a_port_another_program_has_is_replaced() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (_busy, busy) = self::peer("127.0.0.1");
    bench.send(guest(ip("127.0.0.1"), busy), host_seen(ip("127.0.0.1"), port), b"x");
    assert_ne!(take(&peer).1.port(), busy);
}

#[test]
fn a_burst_of_several_flows_keeps_every_datagram_and_the_order_within_a_flow() {
    let mut bench = Bench::new();
    let peers = [peer("127.0.0.1"), peer("127.0.0.1"), peer("127.0.0.1")];
    let src = guest(ip("127.0.0.1"), free_port());
    // Equal runs, a shorter last one, an empty one, a longer one: these are all the boundaries of a run.
    let sizes = [100, 100, 100, 40, 0, 100, 100, 200, 1400, 1400, 3];
    let mut frames = Vec::new();
    for (n, &size) in sizes.iter().enumerate() {
        for (i, (_, port)) in peers.iter().enumerate() {
            let fill = u8::try_from(n * 3 + i).unwrap();
            frames.push(udp_frame(src, host_seen(src.ip(), *port), 64, &vec![fill; size]));
        }
    }
    bench.send_frames(&frames, None);
    for (i, (socket, _)) in peers.iter().enumerate() {
        for (n, &size) in sizes.iter().enumerate() {
            let fill = u8::try_from(n * 3 + i).unwrap();
            assert_eq!(take(socket).0, vec![fill; size], "datagram {n} of peer {i}");
        }
    }
    assert_eq!(bench.dropped(DropReason::UdpSendFailed), 0);
}

#[test]
fn a_frame_that_stands_for_many_datagrams_arrives_as_many() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, port) = peer(address);
        let src = guest(ip(address), free_port());
        // More segments than one call takes, with a short last one.
        let payload = pattern(100 * 300 + 7);
        let frame = udp_frame(src, host_seen(src.ip(), port), 64, &payload);
        bench.send_frames(&[frame], Some(300));
        for want in payload.chunks(300) {
            assert_eq!(take(&peer).0, want);
        }
        assert_eq!(bench.dropped(DropReason::UdpSendFailed), 0);
    }
}

#[test]
fn the_ttl_of_the_guest_is_kept() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let socket = socket2::SockRef::from(&peer);
    socket.set_recv_tos_v4(false).unwrap();
    let src = guest(ip("127.0.0.1"), free_port());
    let frames: Vec<_> = [5, 5, 9]
        .map(|ttl| udp_frame(src, host_seen(src.ip(), port), ttl, &[ttl]))
        .into();
    bench.send_frames(&frames, None);
    for ttl in [5, 5, 9] {
        assert_eq!(take(&peer).0, [ttl]);
    }
    let key = FlowId::udp(src, host_seen(src.ip(), port));
    let flow = bench.flows.table.find(&key).unwrap();
    let flow = bench.flows.table.get(flow).unwrap();
    assert_eq!(flow.socket.ttl_v4().unwrap(), 9);
}

/// The name server that receives a query from `src` to `dst`.
fn server_asked(bench: &mut Bench, src: SocketAddr, dst: SocketAddr) -> SocketAddr {
    bench.send(src, dst, b"name?");
    let key = FlowId::udp(src, dst);
    let flow = bench.flows.table.find(&key).unwrap();
    let flow = bench.flows.table.get(flow).unwrap();
    flow.socket.peer_addr().unwrap().as_socket().unwrap()
}

#[test]
fn a_name_server_of_the_other_family_answers_from_the_gateway() {
    let (server, port) = peer("::1");
    // The map sends port 53 of the gateway to port 53. No test may rely on that port being free, so the test checks the
    // flow and not its answer.
    drop((server, port));
    let around = Surroundings::with_config(|c| c.dns_forward = vec![ip("::1")]);
    let mut bench = Bench::with(around, config());
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), SocketAddr::new(ip("10.0.2.1"), 53));
    assert_eq!(server_asked(&mut bench, src, dst), SocketAddr::new(ip("::1"), 53));
}

#[test]
fn questions_to_the_gateway_go_to_another_name_server_as_soon_as_it_is_known() {
    let around = Surroundings::with_config(|c| c.dns_forward = vec![ip("127.0.0.2")]);
    let mut bench = Bench::with(around, config());
    // Both queries come from the same guest port. No test may rely on port 53 being free, so the test checks the flow
    // and not its answer.
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), SocketAddr::new(ip("10.0.2.1"), 53));
    assert_eq!(server_asked(&mut bench, src, dst), SocketAddr::new(ip("127.0.0.2"), 53));
    bench.send(src, SocketAddr::new(ip("10.0.2.9"), 53), b"another peer");

    bench.around.nat.dns_forward = vec![ip("127.0.0.3")];
    let nat = bench.around.nat.clone();
    bench.flows.drop_peers(|peer| nat.is_dns(peer));
    assert_eq!(bench.flows.len(), 1, "flows to others stay");
    assert_eq!(server_asked(&mut bench, src, dst), SocketAddr::new(ip("127.0.0.3"), 53));
}
