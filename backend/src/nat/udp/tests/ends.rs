//! Tests of how flows end: by idle time and by the limit.

use super::*;

#[test]
fn idle_flows_end_after_30_seconds_and_streams_after_120() {
    let second = Duration::from_secs(1);
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    let start = bench.around.now;
    bench.send(src, dst, b"unanswered");
    assert_eq!(bench.flows.deadline(), Some(start + 30 * second));
    bench.wait_until(start + 29 * second);
    assert_eq!(bench.flows.len(), 1);
    bench.wait_until(start + 30 * second);
    assert!(bench.flows.is_empty());
    assert_eq!(bench.flows.deadline(), None);

    bench.around.now = start;
    bench.send(src, dst, b"question");
    take(&peer);
    let (_, from) = take(&peer);
    peer.send_to(b"answer", from).unwrap();
    bench.receive(1);
    bench.around.now = start + 3 * second;
    bench.send(src, dst, b"more");
    bench.wait_until(start + 122 * second);
    assert_eq!(bench.flows.len(), 1);
    bench.wait_until(start + 123 * second);
    assert!(bench.flows.is_empty());
}

#[test]
fn a_late_event_of_an_ended_flow_means_nothing() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    peer.send_to(b"late", from).unwrap();
    let events = bench.around.events();
    let now = bench.around.now + Duration::from_secs(60);
    bench.wait_until(now);
    // The next flow in the slot has the same index.
    bench.send(src, host_seen(src.ip(), free_port()), b"y");
    for (token, ready) in events {
        bench.flows.on_event(&mut bench.around.context(), token, ready);
    }
    let frames = bench.around.sink.take();
    assert!(
        frames
            .iter()
            .all(|f| parse(&f.bytes).0.network.transport().unwrap().0 != 17)
    );
}

#[test]
fn flows_beyond_the_limit_take_the_place_of_the_oldest_unanswered() {
    let mut bench = Bench::with(
        Surroundings::new(),
        UdpConfig {
            max_flows: 4,
            ..config()
        },
    );
    let (peer, port) = peer("127.0.0.1");
    let src = guest(ip("127.0.0.1"), free_port());
    bench.send(src, host_seen(src.ip(), port), b"x");
    let (_, from) = take(&peer);
    peer.send_to(b"y", from).unwrap();
    bench.receive(1);
    // Eight new flows in one burst: the later ones displace the earlier.
    let others: Vec<_> = (0..8).map(|_| self::peer("127.0.0.1")).collect();
    let frames: Vec<_> = others
        .iter()
        .map(|(_, port)| udp_frame(src, host_seen(src.ip(), *port), 64, b"z"))
        .collect();
    bench.send_frames(&frames, None);
    assert_eq!(bench.flows.len(), 4);
    assert_eq!(bench.dropped(DropReason::FlowLimit), 5);
    for (socket, _) in &others[5..] {
        assert_eq!(take(socket).0, b"z");
    }
    peer.send_to(b"answered flows stay", from).unwrap();
    bench.turn();
    let frames = bench.around.sink.take();
    assert_eq!(udp_datagram(frames.last().unwrap()).2, b"answered flows stay");
}

#[test]
fn a_resolver_that_has_asked_more_than_there_is_room_for_asks_on() {
    const MOST: usize = 16;
    let mut bench = Bench::with(
        Surroundings::new(),
        UdpConfig {
            max_flows: MOST,
            ..config()
        },
    );
    let (server, port) = peer("127.0.0.1");
    let dst = host_seen(ip("127.0.0.1"), port);
    // Each query has its own port, as those of a resolver do. Some are pending at the same time.
    for round in 0..5_u8 {
        bench.around.now = bench.around.now + Duration::from_millis(10);
        let asked: Vec<_> = (0..4_u8).map(|n| (guest(dst.ip(), free_port()), [round, n])).collect();
        let frames: Vec<_> = asked.iter().map(|(src, q)| udp_frame(*src, dst, 64, q)).collect();
        bench.send_frames(&frames, None);
        for _ in &asked {
            let (question, from) = take(&server);
            server.send_to(&question, from).unwrap();
        }
        let mut answers: Vec<_> = bench
            .receive(asked.len())
            .into_iter()
            .map(|(_, to, a)| (to, a))
            .collect();
        answers.sort_by_key(|(_, answer)| answer[1]);
        let want: Vec<_> = asked.iter().map(|(src, q)| (*src, q.to_vec())).collect();
        assert_eq!(answers, want);
    }
    assert_eq!(bench.flows.len(), MOST);
    assert_eq!(bench.dropped(DropReason::FlowLimit), 0);
}
