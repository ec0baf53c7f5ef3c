//! Tests of ending connections to make room for others, with loopback sockets.

use super::sockets::{Arrived, Bench};
use crate::counters::DropReason;
use crate::nat::tcp::TcpFlows;
use crate::nat::test_support::{guest, host_seen, ip};
use crate::packet::FlowId;
use crate::packet::TcpFlags;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const ISS: u32 = 1000;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

const EVICTIONS: [DropReason; 4] = [
    DropReason::TcpHalfClosedEvicted,
    DropReason::TcpUnansweredEvicted,
    DropReason::TcpOpeningEvicted,
    DropReason::FlowLimit,
];

/// A table for `limit` connections and a listener of the host.
fn bench(limit: usize) -> (Bench, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    bench.flows = TcpFlows::new(limit).unwrap();
    (bench, listener)
}

/// One of the guest's connections, as the guest knows it.
#[derive(Clone, Copy)]
struct Known {
    key: FlowId,
    next: u32,
    expected: u32,
}

/// Opens a connection from the guest's port `from` to `port` of the host.
fn ask(bench: &mut Bench, from: u16, port: u16) -> FlowId {
    bench.key = FlowId::tcp(guest(ip("10.0.2.2"), from), host_seen(ip("10.0.2.9"), port));
    bench.next = ISS;
    bench.send_syn();
    bench.key
}

/// Waits until the guest gets a segment with SYN, FIN or bytes: a busy kernel reports events late.
fn await_segment(bench: &mut Bench) {
    let started = Instant::now();
    let is_awaited = |segment: &Arrived| {
        let flags = segment.header.flags;
        flags.has(TcpFlags::SYN) || flags.has(FIN) || !segment.payload.is_empty()
    };
    while !bench.take().iter().any(is_awaited) {
        assert!(started.elapsed() < PATIENCE, "the guest gets no segment");
        bench.handle_events();
    }
}

fn connect(bench: &mut Bench, listener: &TcpListener, from: u16) -> (Known, TcpStream) {
    let key = ask(bench, from, listener.local_addr().unwrap().port());
    let (peer, _) = listener.accept().unwrap();
    // Until then, the guest may get RST of a connection that was ended to make room.
    await_segment(bench);
    bench.send(ACK, b"");
    let known = Known {
        key,
        next: bench.next,
        expected: bench.expected,
    };
    (known, peer)
}

fn send(bench: &mut Bench, known: &mut Known, flags: TcpFlags) {
    (bench.key, bench.next, bench.expected) = (known.key, known.next, known.expected);
    bench.send(flags, b"");
    bench.take();
    known.next += u32::from(flags.has(FIN));
}

fn pass(bench: &mut Bench, time: Duration) {
    bench.around.now = bench.around.now + time;
    bench.flows.on_timer(&mut bench.around.context());
}

fn counted(bench: &Bench) -> [u64; 4] {
    EVICTIONS.map(|reason| bench.around.counters.dropped(reason))
}

/// True if RST arrives, before or after FIN. A busy kernel delivers it late, so this waits. It does not write, because
/// that would provoke RST from a socket that was only closed.
fn is_reset(peer: &TcpStream) -> bool {
    const PATIENCE_MS: i32 = 10_000;
    let mut poll = libc::pollfd {
        fd: peer.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid pollfd, for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
    ready == 1 && poll.revents & libc::POLLHUP != 0
}

#[test]
fn in_a_full_table_the_oldest_half_closed_connection_gives_way_first() {
    let (mut bench, listener) = bench(4);
    let mut peers = Vec::new();
    for from in 40_000..40_004 {
        peers.push(connect(&mut bench, &listener, from));
    }
    // The guest closes the second connection and then the first. The peer closes the third.
    for i in [1, 0] {
        send(&mut bench, &mut peers[i].0, FIN | ACK);
        pass(&mut bench, SECOND);
    }
    peers[2].1.shutdown(std::net::Shutdown::Write).unwrap();
    await_segment(&mut bench);
    peers[2].0.expected += 1;
    send(&mut bench, &mut peers[2].0, ACK);
    pass(&mut bench, SECOND);
    for (from, gone) in [(40_100, 1), (40_101, 0), (40_102, 2)] {
        let (new, _) = connect(&mut bench, &listener, from);
        assert!(bench.flows.has(&new.key) && !bench.flows.has(&peers[gone].0.key));
    }
    assert!(is_reset(&peers[1].1));
    assert_eq!(counted(&bench), [3, 0, 0, 0]);
    // Connections that are open in both directions stay, so there is no room.
    ask(&mut bench, 40_103, listener.local_addr().unwrap().port());
    assert_eq!(counted(&bench), [3, 0, 0, 1]);
    assert!(bench.flows.has(&peers[3].0.key));
}

#[test]
fn a_half_closed_connection_in_use_is_passed_over() {
    let (mut bench, listener) = bench(2);
    let (mut busy, mut peer) = connect(&mut bench, &listener, 40_000);
    send(&mut bench, &mut busy, FIN | ACK);
    let (mut idle, _other) = connect(&mut bench, &listener, 40_001);
    send(&mut bench, &mut idle, FIN | ACK);
    pass(&mut bench, SECOND);
    peer.write_all(b"an answer").unwrap();
    await_segment(&mut bench);
    let (new, _) = connect(&mut bench, &listener, 40_002);
    assert!(bench.flows.has(&busy.key) && bench.flows.has(&new.key));
    assert!(!bench.flows.has(&idle.key));
}

#[test]
fn without_descriptors_a_half_closed_connection_gives_way_too() {
    let (mut bench, listener) = bench(1000);
    let (mut old, _peer) = connect(&mut bench, &listener, 40_000);
    let (mut older, _) = connect(&mut bench, &listener, 40_001);
    send(&mut bench, &mut older, FIN | ACK);
    send(&mut bench, &mut old, FIN | ACK);
    pass(&mut bench, SECOND);
    let taken = super::sockets::exhaust_descriptors(0);
    let key = ask(&mut bench, 40_002, listener.local_addr().unwrap().port());
    assert!(bench.flows.has(&key) && bench.flows.has(&old.key) && !bench.flows.has(&older.key));
    // The same holds for a client.
    drop(taken);
    assert_eq!(counted(&bench), [1, 0, 0, 0]);
    let clients = bench.clients(1);
    let taken = super::sockets::exhaust_descriptors(0);
    bench.handle_events();
    assert!(!bench.flows.has(&old.key));
    assert_eq!(counted(&bench), [2, 0, 0, 0]);
    drop((taken, clients));
}

#[test]
fn a_connection_the_guest_does_not_answer_on_gives_way_after_those() {
    let (mut bench, listener) = bench(3);
    let (silent, mut peer) = connect(&mut bench, &listener, 40_000);
    let (_open, _peer) = connect(&mut bench, &listener, 40_001);
    let (mut closed, _other) = connect(&mut bench, &listener, 40_002);
    send(&mut bench, &mut closed, FIN | ACK);
    peer.write_all(b"hello?").unwrap();
    await_segment(&mut bench);
    pass(&mut bench, SECOND);
    assert_eq!(bench.take().len(), 1, "sent again");
    connect(&mut bench, &listener, 40_003);
    assert_eq!(counted(&bench), [1, 0, 0, 0]);
    connect(&mut bench, &listener, 40_004);
    assert_eq!(counted(&bench), [1, 1, 0, 0]);
    assert!(!bench.flows.has(&silent.key));
    assert!(is_reset(&peer));
}

/// A listener that answers no SYN because its queue is full.
fn silent() -> (Socket, TcpStream, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    let first = TcpStream::connect(at).unwrap();
    (socket, first, at)
}

#[test]
fn a_scan_of_silent_ports_takes_its_share_and_stops_no_other_flow() {
    const LIMIT: usize = 40;
    const SHARE: usize = LIMIT / 4;
    const SCAN: u16 = 100;
    let (mut bench, listener) = bench(LIMIT);
    let (_queue, _first, at) = silent();
    let scanned: Vec<_> = (0..SCAN).map(|i| ask(&mut bench, 30_000 + i, at.port())).collect();
    assert_eq!(bench.flows.count(), SHARE);
    assert_eq!(counted(&bench), [0, 0, u64::from(SCAN) - SHARE as u64, 0]);
    let (gone, left) = scanned.split_at(scanned.len() - SHARE);
    assert!(left.iter().all(|key| bench.flows.has(key)), "the youngest are there");
    assert!(!gone.iter().any(|key| bench.flows.has(key)));
    assert_eq!(bench.take().len(), 0, "the guest does not learn of a refusal");
    let (new, _peer) = connect(&mut bench, &listener, 40_000);
    assert!(bench.flows.has(&new.key));
}

#[test]
fn a_connection_the_world_has_accepted_does_not_give_way_to_a_scan() {
    const LIMIT: usize = 40;
    const SCAN: u16 = 100;
    let (mut bench, listener) = bench(LIMIT);
    let (_queue, _first, at) = silent();
    let key = ask(&mut bench, 40_000, listener.local_addr().unwrap().port());
    let (peer, _) = listener.accept().unwrap();
    bench.handle_events();
    bench.take();
    let (next, expected) = (bench.next, bench.expected);
    for i in 0..SCAN {
        ask(&mut bench, 30_000 + i, at.port());
    }
    // The guest's ACK arrives after the SYNs of its scan.
    (bench.key, bench.next, bench.expected) = (key, next, expected);
    bench.send(ACK, b"x");
    assert!(bench.flows.has(&key));
    assert_eq!((&peer).read(&mut [0]).unwrap(), 1);
}

#[test]
fn clients_of_a_silent_guest_wait_for_a_moment_and_then_take_its_oldest_ones_place() {
    const LIMIT: usize = 40;
    const SHARE: usize = LIMIT / 4;
    const MORE: usize = 3;
    let (mut bench, _listener) = bench(LIMIT);
    let mut clients = bench.clients(SHARE + MORE);
    bench.handle_events();
    assert_eq!(bench.take().len(), SHARE);
    assert_eq!(counted(&bench), [0, 0, 0, 1]);
    pass(&mut bench, SECOND);
    assert_eq!(bench.flows.count(), SHARE);
    assert_eq!(counted(&bench), [0, 0, 0, 2]);
    pass(&mut bench, 2 * SECOND);
    bench.take();
    assert_eq!(counted(&bench), [0, 0, MORE as u64, 2]);
    assert_eq!(bench.flows.count(), SHARE);
    assert!(clients.drain(..MORE).all(|client| is_reset(&client)));
}

#[test]
fn clients_that_wait_for_their_share_take_no_other_connections_place() {
    const LIMIT: usize = 40;
    let (mut bench, listener) = bench(LIMIT);
    let (mut closed, _peer) = connect(&mut bench, &listener, 40_000);
    send(&mut bench, &mut closed, FIN | ACK);
    pass(&mut bench, 2 * SECOND);
    let _clients = bench.clients(LIMIT / 4 + 3);
    bench.handle_events();
    bench.take();
    assert_eq!(counted(&bench), [0, 0, 0, 1]);
    assert!(bench.flows.has(&closed.key));
}

#[test]
fn entries_that_mean_nothing_do_not_pile_up() {
    let (mut bench, mut peer) = Bench::connected();
    for _ in 0..500 {
        peer.write_all(b"x").unwrap();
        bench.handle_ready();
        bench.take();
        pass(&mut bench, SECOND);
        bench.take();
        bench.send(ACK, b"");
        pass(&mut bench, SECOND);
    }
    assert!(
        bench.flows.pressure.entries() < 100,
        "{}",
        bench.flows.pressure.entries()
    );
}
