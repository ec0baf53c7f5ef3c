//! Tests of delivery to the guest: room, runs and fragments.

use super::*;

#[test]
fn many_datagrams_of_the_world_arrive_in_order_whatever_room_there_is() {
    for (checksum, uso) in [(true, true), (true, false), (false, false)] {
        let mut bench = Bench::new();
        bench.around.sink.caps.checksum = checksum;
        bench.around.sink.caps.uso4 = uso;
        let (peer, port) = peer("127.0.0.1");
        let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
        bench.send(src, dst, b"x");
        let (_, from) = take(&peer);
        let sent: Vec<_> = (0..100).map(|n| pattern(n * 13)).collect();
        for payload in &sent {
            peer.send_to(payload, from).unwrap();
        }
        bench.around.sink.room = 10;
        let mut got = Vec::new();
        bench.turn();
        while got.len() < sent.len() {
            let frames = bench.around.sink.take();
            assert!(!frames.is_empty());
            got.extend(frames.iter().map(|f| udp_datagram(f).2));
            assert!(bench.around.sink.room == 0 || got.len() == sent.len());
            assert!(!bench.flows.has_backlog(), "waiting for the guest is not a backlog");
            bench.around.sink.room = 10;
            bench.flows.on_room(&mut bench.around.context());
        }
        assert!(got == sent, "checksum {checksum}, uso {uso}");
        assert_eq!(bench.dropped(DropReason::NoRoom), 0);
    }
}

#[test]
fn what_waited_for_room_in_a_guest_that_went_away_reaches_the_next() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    peer.send_to(b"kept", from).unwrap();
    bench.around.sink.room = 0;
    bench.turn();
    assert!(!bench.flows.has_backlog());
    bench.flows.on_link_up();
    assert!(bench.flows.has_backlog());
    bench.around.sink.room = 1;
    bench.flows.on_room(&mut bench.around.context());
    let got: Vec<_> = bench.around.sink.take().iter().map(udp_datagram).collect();
    assert_eq!(got, [(dst, src, b"kept".to_vec())]);
    assert!(!bench.flows.has_backlog());
}

/// Sends `payload` as datagrams of `size` in one call, as GSO senders do.
fn send_segmented(socket: &UdpSocket, to: SocketAddr, payload: &[u8], size: u16) {
    socket.connect(to).unwrap();
    let mut batch = crate::sys::send_batch::SendBatch::default();
    let mut out = batch.start();
    out.push(Some(size), |g| g.push(crate::frame::GuestSlice::from_bytes(payload)));
    assert_eq!(out.transmit(socket, 0).unwrap(), 1);
}

#[test]
fn a_run_of_datagrams_reaches_a_guest_with_uso_as_one_frame() {
    for address in BOTH {
        let mut bench = Bench::new();
        let (peer, port) = peer(address);
        let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
        bench.send(src, dst, b"x");
        let (_, from) = take(&peer);
        let payload = pattern(20 * 1000 + 1);
        // The first run exceeds the reserved frames and is copied. The second is expected.
        for _ in 0..2 {
            send_segmented(&peer, from, &payload, 1000);
            bench.turn();
            let frames = bench.around.sink.take();
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].offload.segmentation, Segmentation::Udp { size: 1000 });
            assert_eq!(udp_datagram(&frames[0]), (dst, src, payload.clone()));
        }
    }
}

#[test]
fn a_guest_that_lost_uso_gets_a_run_as_datagrams() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    bench.around.sink.caps.uso4 = false;
    let payload = pattern(10 * 1000 + 1);
    send_segmented(&peer, from, &payload, 1000);
    let got = bench.receive(11);
    let want: Vec<_> = payload.chunks(1000).map(|p| (dst, src, p.to_vec())).collect();
    assert!(got == want);
}

#[test]
fn a_datagram_above_the_mtu_arrives_in_fragments_that_make_it_whole() {
    for address in BOTH {
        for mtu in [1280, 1500, 1501, 9000] {
            let mut bench = Bench::new();
            bench.around.link.mtu = mtu;
            let (peer, port) = peer(address);
            let (src, dst) = (guest(ip(address), free_port()), host_seen(ip(address), port));
            bench.send(src, dst, b"x");
            let (_, from) = take(&peer);
            let sent = [pattern(30_000), b"small".to_vec(), pattern(65_507 - 20)];
            for payload in &sent {
                peer.send_to(payload, from).unwrap();
            }
            bench.turn();
            let mut reassembler = crate::nat::reassembly::Reassembler::default();
            let mut got = Vec::new();
            for mut frame in bench.around.sink.take() {
                assert!(frame.bytes.len() <= 14 + usize::from(mtu));
                let headers = parse(&frame.bytes).0;
                if fragment_info(&headers).is_some() {
                    let (now, counters) = (bench.around.now, &bench.around.counters);
                    let whole = with_burst(std::slice::from_ref(&frame.bytes), |burst| {
                        reassembler
                            .on_fragment(now, counters, &headers, &burst[0])
                            .map(<[u8]>::to_vec)
                    });
                    let Some(whole) = whole else { continue };
                    frame.bytes = whole;
                }
                got.push(udp_datagram(&frame));
            }
            let want: Vec<_> = sent.iter().map(|p| (dst, src, p.clone())).collect();
            assert!(got == want, "{address} mtu {mtu}");
        }
    }
}

/// Lets the guest post `step` buffers at a time until it has received `n` datagrams or runs.
fn receive_by_and_by(bench: &mut Bench, step: usize, n: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    bench.around.sink.room = step;
    bench.turn();
    loop {
        let frames = bench.around.sink.take();
        got.extend(frames.iter().map(|f| udp_datagram(f).2));
        if got.len() >= n {
            return got;
        }
        assert!(!frames.is_empty(), "{} of {n}", got.len());
        bench.around.sink.room = step;
        bench.flows.on_room(&mut bench.around.context());
    }
}

#[test]
fn a_burst_that_goes_by_copy_waits_for_room_and_loses_nothing() {
    const SEGMENTS: usize = 42;
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    // The kernel delivers runs that this guest no longer accepts.
    bench.around.sink.caps.uso4 = false;
    let payload = pattern(SEGMENTS * 1400);
    for _ in 0..10 {
        send_segmented(&peer, from, &payload, 1400);
    }
    let got = receive_by_and_by(&mut bench, 16, 10 * SEGMENTS);
    let want: Vec<_> = (0..10).flat_map(|_| payload.chunks(1400)).collect();
    assert!(got == want);
    assert_eq!(bench.dropped(DropReason::NoRoom), 0);
    assert!(!bench.flows.has_backlog());
}

#[test]
fn a_burst_of_a_new_client_waits_for_room_and_loses_nothing() {
    const MANY: usize = 100;
    let host_port = free_port();
    let mut bench = listening(&[forward(host_port, 7, None)]);
    let (client, _) = peer("127.0.0.1");
    let sent: Vec<_> = (0..MANY).map(|n| pattern(n + 1)).collect();
    for payload in &sent {
        client.send_to(payload, ("127.0.0.1", host_port)).unwrap();
    }
    let got = receive_by_and_by(&mut bench, 3, MANY);
    assert!(got == sent, "in order, without duplicates");
    assert_eq!(bench.dropped(DropReason::NoRoom), 0);
}

#[test]
fn a_run_larger_than_the_guests_ring_goes_in_parts() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    let payload = pattern(20 * 1000);
    bench.around.sink.largest = 1500;
    send_segmented(&peer, from, &payload, 1000);
    let got = receive_by_and_by(&mut bench, 3, 20);
    assert!(got.concat() == payload);
    assert_eq!(bench.dropped(DropReason::NoRoom), 0);
}

#[test]
fn a_datagram_that_never_fits_does_not_hold_up_what_follows() {
    let mut bench = Bench::new();
    let (peer, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&peer);
    // Twenty fragments need room, and there are never more than four buffers.
    peer.send_to(&pattern(20 * 1480), from).unwrap();
    peer.send_to(b"next", from).unwrap();
    bench.around.sink.room = 4;
    bench.turn();
    for _ in 0..20 {
        bench.around.sink.room = 4;
        bench.flows.on_room(&mut bench.around.context());
    }
    let frames = bench.around.sink.take();
    assert_eq!(udp_datagram(frames.last().unwrap()).2, b"next");
    assert_eq!(bench.dropped(DropReason::NoRoom), 1);
}
