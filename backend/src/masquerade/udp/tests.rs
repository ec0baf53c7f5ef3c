//! Real sockets on loopback: what is tested is what the kernel does with them.

use super::*;
use crate::config::{Forward, Transport};
use crate::counters::Count;
use crate::frame::Segmentation;
use crate::masquerade::test_support::{
    Surroundings, fragment_info, guest, host_seen, icmp_message, ip, parse, udp_datagram, udp_frame, with_burst,
};
use crate::packet::icmp::{v4, v6};
use crate::packet::{EthernetHeader, Headers, UdpHeader};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const BOTH: [&str; 2] = ["127.0.0.1", "::1"];
/// The server of the test network.
pub const SERVER: [&str; 2] = ["198.51.100.2", "fd00:2::2"];

pub struct Bench {
    pub around: Surroundings,
    pub flows: UdpFlows,
}

fn config() -> UdpConfig {
    UdpConfig {
        max_flows: 64,
        families: Families { ipv4: true, ipv6: true },
    }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Surroundings::new(), config())
    }

    fn with(around: Surroundings, config: UdpConfig) -> Self {
        Self {
            around,
            flows: UdpFlows::new(config),
        }
    }

    /// The guest sends frames in one burst; `segment_size` holds for all.
    pub fn send_frames(&mut self, frames: &[Vec<u8>], segment_size: Option<u16>) {
        with_burst(frames, |burst| {
            let datagrams: Vec<_> = burst
                .iter()
                .enumerate()
                .map(|(i, frame)| datagram(i, frame.head, frame.len, segment_size))
                .collect();
            self.flows.on_datagrams(&mut self.around.context(), burst, &datagrams);
        });
    }

    pub fn send(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) {
        self.send_frames(&[udp_frame(src, dst, 64, payload)], None);
    }

    /// Waits for events and hands them over.
    pub fn turn(&mut self) {
        for (token, ready) in self.around.events() {
            self.flows.on_event(&mut self.around.context(), token, ready);
        }
    }

    /// Payloads of `n` datagrams the guest gets.
    pub fn receive(&mut self, n: usize) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        while got.len() < n {
            self.turn();
            let frames = self.around.sink.take();
            assert!(!frames.is_empty(), "{} of {n} datagrams", got.len());
            got.extend(frames.iter().map(udp_datagram));
        }
        assert_eq!(got.len(), n);
        got
    }

    /// Time passes.
    fn wait_until(&mut self, then: crate::time::Instant) {
        self.around.now = then;
        self.flows.on_timer(then);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.around.counters.dropped(reason)
    }
}

fn datagram(frame: usize, head: &[u8], len: usize, segment_size: Option<u16>) -> Datagram {
    let headers = Headers::parse(head, len).unwrap();
    let (src, dst) = headers.network.addresses().unwrap();
    let (_, at, l4_len) = headers.network.transport().unwrap();
    let udp = UdpHeader::parse(&head[at..], l4_len, segment_size.is_some()).unwrap();
    Datagram {
        frame,
        src: SocketAddr::new(src, udp.src_port),
        dst: SocketAddr::new(dst, udp.dst_port),
        payload_offset: at + UdpHeader::LEN,
        payload_len: udp.payload_len,
        ttl: match src {
            IpAddr::V4(_) => head[EthernetHeader::LEN + 8],
            IpAddr::V6(_) => head[EthernetHeader::LEN + 7],
        },
        segment_size,
    }
}

/// A peer on the host's loopback, and its port.
fn peer(address: &str) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(SocketAddr::new(ip(address), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A port of the host that is free in both families, and that no other test gets: from
/// below the range the kernel chooses from.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = (std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = u16::try_from(20_000 + n).unwrap();
        if BOTH.iter().all(|a| UdpSocket::bind((*a, port)).is_ok()) {
            return port;
        }
    }
}

pub fn take(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (n, from) = loop {
        match socket.recv_from(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            result => break result.unwrap(),
        }
    };
    buffer.truncate(n);
    (buffer, from)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

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
    // Equal runs, a shorter last one, an empty one, a longer one: every edge of a run.
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
        // More segments than one call takes, the last one short.
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
            assert!(!bench.flows.has_backlog(), "waiting for the guest is no backlog");
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

/// Sends `payload` as datagrams of `size` in one call, the way GSO senders do.
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
        // The first run meets frames of one MTU and goes by copy, the second is expected.
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
            let mut reassembler = crate::masquerade::reassembly::Reassembler::default();
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

#[test]
fn a_closed_port_is_told_the_guest() {
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
        // What is quoted is the guest's own packet, checksum and all that the host changed aside.
        let sent = udp_frame(src, dst, 64, b"anybody?");
        assert_eq!(quoted, sent[EthernetHeader::LEN..]);
        // The next datagram is not lost to the error of the one before.
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
    let key = FlowKey {
        guest: src,
        peer: host_seen(src.ip(), port),
    };
    let flow = bench.flows.table.find(&key).unwrap();
    let flow = bench.flows.table.get(flow).unwrap();
    assert_eq!(flow.socket.ttl_v4().unwrap(), 9);
}

#[test]
fn a_name_server_of_the_other_family_answers_from_the_gateway() {
    let (server, port) = peer("::1");
    // The map sends port 53 of the gateway to port 53: no test may rely on that port
    // being free, so the flow is looked at, not its answer.
    drop((server, port));
    let around = Surroundings::with_config(|c| c.dns_forward = vec![ip("::1")]);
    let mut bench = Bench::with(around, config());
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), SocketAddr::new(ip("10.0.2.1"), 53));
    bench.send(src, dst, b"name?");
    let flow = bench.flows.table.find(&FlowKey { guest: src, peer: dst }).unwrap();
    let flow = bench.flows.table.get(flow).unwrap();
    let peer = flow.socket.peer_addr().unwrap().as_socket().unwrap();
    assert_eq!(peer, SocketAddr::new(ip("::1"), 53));
}

pub fn forward(host_port: u16, guest_port: u16, bind: Option<IpAddr>) -> Forward {
    Forward {
        transport: Transport::Udp,
        bind,
        host_port,
        guest_port,
        count: 1.try_into().unwrap(),
    }
}

pub fn listening(forwards: &[Forward]) -> Bench {
    let mut bench = Bench::new();
    bench.flows.listen(forwards, &bench.around.poller).unwrap();
    bench
}

#[test]
fn clients_reach_the_guest_and_are_answered_from_the_port_they_asked() {
    for address in BOTH {
        let host_port = free_port();
        let mut bench = listening(&[forward(host_port, 5353, None)]);
        let gateway = if ip(address).is_ipv4() {
            "10.0.2.1"
        } else {
            "fd10:0:2::1"
        };
        let clients = [peer(address), peer(address), peer(address)];
        let to = SocketAddr::new(ip(address), host_port);
        for (client, port) in &clients {
            client.send_to(b"one", to).unwrap();
            let seen = SocketAddr::new(ip(gateway), *port);
            let server = guest(ip(address), 5353);
            assert_eq!(bench.receive(1), [(seen, server, b"one".to_vec())]);
            bench.send(server, seen, b"answer");
            assert_eq!(take(client), (b"answer".to_vec(), to));
            client.send_to(b"two", to).unwrap();
            assert_eq!(bench.receive(1), [(seen, server, b"two".to_vec())]);
        }
        assert_eq!(bench.flows.len(), 3);
    }
}

#[test]
fn a_burst_of_many_new_clients_is_delivered_whole() {
    let host_port = free_port();
    let mut bench = listening(&[forward(host_port, 7, Some(ip("127.0.0.1")))]);
    let clients: Vec<_> = (0..10).map(|_| peer("127.0.0.1")).collect();
    for n in 0..3u8 {
        for (client, _) in &clients {
            client.send_to(&[n], ("127.0.0.1", host_port)).unwrap();
        }
    }
    let mut got = bench.receive(30);
    got.sort();
    let mut want: Vec<_> = clients
        .iter()
        .flat_map(|(_, port)| (0..3u8).map(|n| (*port, n)))
        .map(|(port, n)| {
            (
                SocketAddr::new(ip("10.0.2.1"), port),
                guest(ip("127.0.0.1"), 7),
                vec![n],
            )
        })
        .collect();
    want.sort();
    assert_eq!(got, want);
}

#[test]
fn a_flood_of_clients_does_not_push_out_what_the_guest_began() {
    let host_port = free_port();
    let mut bench = listening(&[forward(host_port, 7, None)]);
    let (server, port) = peer("127.0.0.1");
    let (src, dst) = (guest(ip("127.0.0.1"), free_port()), host_seen(ip("127.0.0.1"), port));
    bench.send(src, dst, b"x");
    let (_, from) = take(&server);
    for _ in 0..100 {
        let (client, _) = peer("127.0.0.1");
        client.send_to(b"flood", ("127.0.0.1", host_port)).unwrap();
        bench.receive(1);
    }
    assert_eq!(bench.flows.len(), 1 + 64 / 4);
    server.send_to(b"still here", from).unwrap();
    assert_eq!(bench.receive(1)[0].2, b"still here");
}

#[test]
fn a_busy_port_is_an_error_that_names_it() {
    let (_busy, port) = peer("127.0.0.1");
    let mut bench = Bench::new();
    let error = bench.flows.listen(&[forward(port, port, None)], &bench.around.poller);
    let text = error.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("--port udp:{port}: port {port} is in use")),
        "{text}"
    );
    // Two processes that both would share the port notice each other all the same.
    let port = free_port();
    let _first = listening(&[forward(port, port, None)]);
    let mut second = Bench::new();
    assert!(
        second
            .flows
            .listen(&[forward(port, port, None)], &second.around.poller)
            .is_err()
    );
}

#[test]
fn an_address_of_a_family_the_guest_has_not_is_an_error() {
    let mut bench = Bench::with(
        Surroundings::new(),
        UdpConfig {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..config()
        },
    );
    let forwards = [forward(free_port(), 1, Some(ip("::1")))];
    let error = bench.flows.listen(&forwards, &bench.around.poller).unwrap_err();
    assert!(
        matches!(error, crate::masquerade::ListenError::FamilyOff { .. }),
        "{error}"
    );
}

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
    // The slot's next user has the same index.
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
    // Eight new flows in one burst, of which the later push out the earlier.
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
