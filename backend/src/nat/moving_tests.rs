//! Tests with two workers of a port, and peers on the host's loopback. Flows move to pairs that are enabled, and to
//! pairs on which the guest sends them.

use crate::config::{GATEWAY_MAC, Ipv4Link};
use crate::counters::{Count, Counters, DropReason};
use crate::frame::testing::{Delivered, OwnedFrame, TestSink};
use crate::mode::FlowCount;
use crate::nat::address_map::AddressMap;
use crate::nat::engine::{Engine, EngineConfig, NoServices};
use crate::nat::link::{GuestAddresses, Link};
use crate::nat::moving::{OFTEN, SETTLED};
use crate::nat::steering::Directory;
use crate::nat::test_support::{GUEST_MAC, guest, host_seen, ip, packet, parse, udp_datagram, udp_frame};
use crate::packet::{EthernetHeader, TcpFlags, TcpHeader, protocol};
use crate::poller::{EventBuffer, Poller};
use crate::time::Instant;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

struct Worker {
    engine: Engine,
    poller: Poller,
    counters: Arc<Counters>,
    sink: TestSink,
}

/// The workers of a port with two queue pairs, both enabled.
struct Port {
    workers: [Worker; 2],
    now: Instant,
}

impl Port {
    fn new() -> Self {
        let directory = Directory::new(2).unwrap();
        let ipv4 = Some(Ipv4Link {
            network: "10.0.2.0/24".parse().unwrap(),
            gateway: [10, 0, 2, 1].into(),
            guest: [10, 0, 2, 2].into(),
        });
        let now = Instant::from_nanos(1_000_000_000);
        let workers = [0, 1].map(|worker| {
            let (poller, counters) = (Poller::new().unwrap(), Arc::new(Counters::default()));
            let config = EngineConfig {
                link: Link {
                    gateway_mac: GATEWAY_MAC,
                    guest_mac: GUEST_MAC,
                    mtu: 1500,
                    gateway_ipv4: ipv4.map(|link| link.gateway),
                    gateway_ipv6: None,
                    guest: GuestAddresses::of_links(ipv4, None),
                },
                map: AddressMap {
                    ipv4,
                    host_loopback: vec![ip("10.0.2.9")],
                    ..AddressMap::default()
                },
                poller: poller.clone(),
                counters: Arc::clone(&counters),
                worker,
                directory: directory.clone(),
                flow_limit: 16,
            };
            let mut worker = Worker {
                engine: Engine::new(config).unwrap(),
                poller,
                counters,
                sink: TestSink::default(),
            };
            worker.engine.on_link_up(now, &mut worker.sink);
            worker
        });
        Self { workers, now }
    }

    /// Sends a frame from the guest on a pair.
    fn send(&mut self, worker: usize, bytes: Vec<u8>) {
        let Worker { engine, sink, .. } = &mut self.workers[worker];
        OwnedFrame::new(bytes).with(|frame| engine.on_packets(self.now, &[*frame], &mut NoServices, sink));
    }

    /// Handles events of a worker. True if there were any.
    fn turn(&mut self, worker: usize, timeout: Duration) -> bool {
        let Worker {
            engine, sink, poller, ..
        } = &mut self.workers[worker];
        let mut events = Vec::new();
        let mut buffer = EventBuffer::with_capacity(16);
        poller
            .wait(&mut buffer, Some(timeout), |token, ready| events.push((token, ready)))
            .unwrap();
        for &(token, ready) in &events {
            engine.on_event(self.now, token, ready, sink);
        }
        !events.is_empty()
    }

    /// Handles events of a worker until there is a frame of a flow for the guest.
    fn wait_frame(&mut self, worker: usize) -> Delivered {
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(frame) = self.workers[worker].sink.take().pop() {
                return frame;
            }
            self.turn(worker, PATIENCE);
        }
        panic!("no frame for the guest on pair {worker}");
    }

    fn drain(&mut self, worker: usize) {
        while self.turn(worker, Duration::ZERO) {}
    }

    /// Disables a pair and lets time pass.
    fn switch_off(&mut self, worker: usize) {
        self.workers[worker].engine.on_link_down(self.now);
        self.workers[worker].sink.room = 0;
        self.pass(worker);
    }

    fn pass(&mut self, worker: usize) {
        self.now = self.now + SETTLED;
        let Worker { engine, sink, .. } = &mut self.workers[worker];
        if engine.deadline().is_some_and(|at| at <= self.now) {
            engine.on_timer(self.now, sink);
        }
    }

    fn switch_on(&mut self, worker: usize) {
        let Worker { engine, sink, .. } = &mut self.workers[worker];
        sink.room = usize::MAX;
        engine.on_link_up(self.now, sink);
    }

    fn flows(&self) -> [FlowCount; 2] {
        [0, 1].map(|worker| self.workers[worker].engine.flow_count())
    }

    fn count(&self, worker: usize, count: Count) -> u64 {
        self.workers[worker].counters.count(count)
    }

    fn dropped(&self) -> u64 {
        let all = self
            .workers
            .iter()
            .flat_map(|w| DropReason::ALL.iter().map(|r| w.counters.dropped(*r)));
        all.sum()
    }
}

const fn flows(tcp: usize, udp: usize) -> FlowCount {
    FlowCount { tcp, udp, echo: 0 }
}

/// Creates a UDP flow of the guest through a pair. Returns the peer's socket, and the guest's address as the peer sees
/// it.
struct Udp {
    server: UdpSocket,
    client: SocketAddr,
    guest: SocketAddr,
    remote: SocketAddr,
}

impl Udp {
    fn open(port: &mut Port, worker: usize) -> Self {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let remote = host_seen(ip("10.0.2.9"), server.local_addr().unwrap().port());
        let guest = guest(remote.ip(), 40_000);
        port.send(worker, udp_frame(guest, remote, 64, b"question"));
        let (_, client) = server.recv_from(&mut [0; 64]).unwrap();
        Self {
            server,
            client,
            guest,
            remote,
        }
    }

    fn answer(&self, bytes: &[u8]) {
        self.server.send_to(bytes, self.client).unwrap();
    }

    fn send(&self, port: &mut Port, worker: usize) {
        port.send(worker, udp_frame(self.guest, self.remote, 64, b"more"));
    }

    fn hear(&self) {
        let (n, from) = self.server.recv_from(&mut [0; 64]).unwrap();
        assert_eq!((n, from), (4, self.client), "by the same socket");
    }
}

#[test]
fn a_udp_flow_of_a_disabled_pair_continues_on_another() {
    let mut port = Port::new();
    let flow = Udp::open(&mut port, 1);
    assert_eq!(port.flows(), [flows(0, 0), flows(0, 1)]);
    flow.answer(b"first");
    assert_eq!(udp_datagram(&port.wait_frame(1)).2, b"first");
    // The answer arrives while no worker can deliver it.
    port.workers[1].engine.on_link_down(port.now);
    port.workers[1].sink.room = 0;
    flow.answer(b"second");
    while !port.turn(1, PATIENCE) {}
    port.pass(1);
    assert_eq!(
        udp_datagram(&port.wait_frame(0)),
        (flow.remote, flow.guest, b"second".to_vec())
    );
    assert_eq!(port.flows(), [flows(0, 1), flows(0, 0)]);
    assert_eq!(port.count(1, Count::FlowsMoved), 1);
    flow.send(&mut port, 0);
    flow.hear();
    assert_eq!((port.dropped(), port.count(0, Count::Handovers)), (0, 0));
}

#[test]
fn a_device_that_stops_moves_nothing_until_a_pair_is_back() {
    let mut port = Port::new();
    let flow = Udp::open(&mut port, 1);
    for worker in [0, 1] {
        port.workers[worker].engine.on_link_down(port.now);
    }
    port.pass(1);
    assert_eq!(port.flows(), [flows(0, 0), flows(0, 1)]);
    // The guest is back, with one pair.
    port.switch_on(0);
    port.drain(1);
    port.drain(0);
    assert_eq!(port.flows(), [flows(0, 1), flows(0, 0)]);
    flow.answer(b"still");
    assert_eq!(udp_datagram(&port.wait_frame(0)).2, b"still");
}

#[test]
fn a_device_that_stops_and_starts_at_once_moves_nothing() {
    let mut port = Port::new();
    let _flow = Udp::open(&mut port, 1);
    port.workers[1].engine.on_link_down(port.now);
    port.switch_on(1);
    port.pass(1);
    port.drain(1);
    assert_eq!(port.flows(), [flows(0, 0), flows(0, 1)]);
}

#[test]
fn a_flow_follows_the_guest_to_the_pair_it_sends_on() {
    let mut port = Port::new();
    let flow = Udp::open(&mut port, 1);
    for _ in 0..OFTEN {
        assert_eq!(port.flows(), [flows(0, 0), flows(0, 1)], "a few frames are no habit");
        flow.send(&mut port, 0);
        port.drain(1);
        flow.hear();
    }
    port.drain(0);
    assert_eq!(port.flows(), [flows(0, 1), flows(0, 0)]);
    flow.answer(b"here");
    assert_eq!(udp_datagram(&port.wait_frame(0)).2, b"here");
    flow.send(&mut port, 0);
    flow.hear();
    assert_eq!(
        port.count(0, Count::Handovers),
        u64::from(OFTEN),
        "it is on its own pair"
    );
    assert_eq!(port.dropped(), 0);
}

#[test]
fn a_frame_that_is_faster_than_its_flow_finds_it() {
    let mut port = Port::new();
    let flow = Udp::open(&mut port, 1);
    port.switch_off(1);
    // Worker 0 has not read its mailbox yet.
    flow.send(&mut port, 0);
    flow.hear();
    assert_eq!(port.flows(), [flows(0, 1), flows(0, 0)]);
    assert_eq!(port.count(0, Count::UdpFlows), 0, "it is the original flow");
}

/// The guest's end of a TCP connection.
struct Tcp {
    peer: TcpStream,
    guest: SocketAddr,
    remote: SocketAddr,
    next: u32,
    expected: u32,
}

impl Tcp {
    fn open(port: &mut Port, worker: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = host_seen(ip("10.0.2.9"), listener.local_addr().unwrap().port());
        let guest = guest(remote.ip(), 40_000);
        port.send(worker, segment(guest, remote, TcpFlags::SYN, 1000, 0, b""));
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let (header, _) = tcp_segment(&port.wait_frame(worker));
        assert!(header.flags.has(TcpFlags::SYN));
        let mut made = Self {
            peer,
            guest,
            remote,
            next: 1001,
            expected: header.seq.wrapping_add(1),
        };
        made.send(port, worker, b"");
        made
    }

    fn send(&mut self, port: &mut Port, worker: usize, payload: &[u8]) {
        let frame = segment(
            self.guest,
            self.remote,
            TcpFlags::ACK,
            self.next,
            self.expected,
            payload,
        );
        self.next += u32::try_from(payload.len()).unwrap();
        port.send(worker, frame);
    }

    /// The next segment with bytes for the guest.
    fn receive(&mut self, port: &mut Port, worker: usize) -> Vec<u8> {
        loop {
            let (header, payload) = tcp_segment(&port.wait_frame(worker));
            if !payload.is_empty() {
                assert_eq!(header.seq, self.expected);
                self.expected += u32::try_from(payload.len()).unwrap();
                return payload;
            }
        }
    }
}

fn segment(src: SocketAddr, dst: SocketAddr, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let header = TcpHeader {
        src_port: src.port(),
        dst_port: dst.port(),
        seq,
        ack,
        flags,
        window: 65_535,
        ..TcpHeader::default()
    };
    let mut bytes = vec![0; TcpHeader::LEN];
    header.emit(&mut bytes, 0);
    bytes.extend_from_slice(payload);
    packet(src.ip(), dst.ip(), protocol::TCP, 64, &bytes)
}

fn tcp_segment(delivered: &Delivered) -> (TcpHeader, Vec<u8>) {
    let (headers, _) = parse(&delivered.bytes);
    let (_, at, len) = headers.network.transport().unwrap();
    assert!(at >= EthernetHeader::LEN);
    let bytes = &delivered.bytes[at..at + len];
    let header = TcpHeader::parse(bytes, len).unwrap();
    (header, bytes[header.header_len..].to_vec())
}

#[test]
fn a_connection_of_a_disabled_pair_continues_on_another_and_loses_nothing() {
    let mut port = Port::new();
    let mut flow = Tcp::open(&mut port, 1);
    flow.peer.write_all(b"first").unwrap();
    assert_eq!(flow.receive(&mut port, 1), b"first");
    flow.send(&mut port, 1, b"");
    // Bytes arrive while there is no ring to the guest.
    port.workers[1].engine.on_link_down(port.now);
    port.workers[1].sink.room = 0;
    flow.peer.write_all(b"second").unwrap();
    while !port.turn(1, PATIENCE) {}
    port.pass(1);
    assert_eq!(flow.receive(&mut port, 0), b"second");
    flow.send(&mut port, 0, b"third");
    let mut got = [0; 5];
    flow.peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"third");
    assert_eq!(port.flows(), [flows(1, 0), flows(0, 0)]);
    assert_eq!((port.count(1, Count::FlowsMoved), port.dropped()), (1, 0));
}

#[test]
fn a_connection_follows_the_guest_too() {
    let mut port = Port::new();
    let mut flow = Tcp::open(&mut port, 1);
    for _ in 0..OFTEN {
        flow.send(&mut port, 0, b"x");
        port.drain(1);
    }
    let mut got = [0; OFTEN as usize];
    flow.peer.read_exact(&mut got).unwrap();
    port.drain(0);
    assert_eq!(port.flows(), [flows(1, 0), flows(0, 0)]);
    flow.peer.write_all(b"answer").unwrap();
    assert_eq!(flow.receive(&mut port, 0), b"answer");
    assert_eq!(port.dropped(), 0);
}
