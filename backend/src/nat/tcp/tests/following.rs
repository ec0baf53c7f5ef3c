//! Tests of connections that follow their guest while their host sockets stay in another process.

use super::sockets::Bench;
use crate::nat::saved::{from_bytes, to_bytes};
use crate::nat::tcp::{SavedTcpFlow, TcpFlows};
use crate::nat::test_support::Surroundings;
use crate::packet::TcpFlags;
use crate::time::Instant;
use socket2::Socket;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const ACK: TcpFlags = TcpFlags::ACK;

/// The socket of a connection in the target, and its other end, to which a test carries the bytes.
fn pair() -> (Socket, TcpStream) {
    let listener = crate::nat::tcp::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    let far = TcpStream::connect(at).unwrap();
    (listener.accept().unwrap().0, far)
}

/// Moves the only connection of a guest to another table. Returns the host socket, and the end of its replacement.
fn move_away(bench: &mut Bench) -> (TcpStream, TcpStream) {
    let values = bench.flows.freeze(bench.around.now);
    let mut parted = bench.flows.part(&bench.around.poller).unwrap();
    assert_eq!((values.len(), parted.len(), bench.flows.count()), (1, 1, 0));
    let anchor: TcpStream = parted.remove(0).1.unwrap().into();
    anchor.set_nonblocking(false).unwrap();
    let mut around = Surroundings::new();
    around.now = Instant::from_nanos(1 << 40);
    bench.around = around;
    bench.flows = TcpFlows::new(10).unwrap();
    bench.flows.expect();
    let saved: Vec<SavedTcpFlow> = from_bytes(&to_bytes(&values)).unwrap();
    let (near, far) = pair();
    bench
        .flows
        .load(&mut bench.around.context(), &saved[0], Some(near))
        .unwrap();
    bench.flows.complete();
    bench.flows.on_link_up(&bench.around.context());
    (anchor, far)
}

#[test]
fn bytes_that_the_guest_has_acknowledged_may_arrive_after_it() {
    let (mut bench, mut peer) = Bench::connected();
    peer.write_all(b"sent, not acknowledged").unwrap();
    bench.handle_events();
    assert_eq!(bench.take_bytes().0, b"sent, not acknowledged");
    let (mut anchor, mut far) = move_away(&mut bench);
    // The guest acknowledges them, and the anchor's socket still has them.
    bench.send(ACK, b"");
    bench.handle_events();
    peer.write_all(b", and more").unwrap();
    let mut carried = [0; 32];
    anchor.read_exact(&mut carried).unwrap();
    for piece in carried.chunks(5) {
        far.write_all(piece).unwrap();
        bench.handle_events();
    }
    assert_eq!(bench.take_bytes().0, b", and more");
    bench.send(ACK, b"answer");
    bench.handle_events();
    let mut answer = [0; 6];
    far.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn nothing_happens_to_frozen_connections_until_the_guest_runs_again() {
    let (mut bench, mut peer) = Bench::connected();
    let saved = bench.flows.freeze(bench.around.now);
    peer.write_all(b"meanwhile").unwrap();
    bench.handle_events();
    assert!(bench.take_bytes().0.is_empty());
    assert_eq!(bench.flows.deadline(), None);
    assert_eq!(bench.flows.freeze(bench.around.now), saved);
    // It runs here: what has happened is reported, and the sockets are no longer given up.
    bench.flows.on_link_up(&bench.around.context());
    bench.handle_events();
    assert_eq!(bench.take_bytes().0, b"meanwhile");
    assert!(bench.flows.part(&bench.around.poller).is_none());
    assert_eq!(bench.flows.count(), 1);
}

#[test]
fn clients_wait_while_connections_are_frozen() {
    let mut bench = Bench::new(1);
    bench.flows.freeze(bench.around.now);
    let _clients = bench.clients(3);
    bench.handle_events();
    assert_eq!(bench.flows.count(), 0);
    bench.flows.on_link_up(&bench.around.context());
    bench.flows.on_timer(&mut bench.around.context());
    assert_eq!(bench.flows.count(), 3);
}

#[test]
fn a_segment_of_a_connection_that_is_on_its_way_is_not_answered_with_a_reset() {
    let (mut bench, _peer) = Bench::connected();
    bench.flows = TcpFlows::new(10).unwrap();
    bench.flows.expect();
    bench.flows.on_link_up(&bench.around.context());
    bench.send(ACK, b"early");
    assert!(bench.take().is_empty());
    // They do not come.
    bench.around.now = Instant::from_nanos(10_000_000_000);
    bench.send(ACK, b"late");
    assert!(bench.take()[0].header.flags.has(TcpFlags::RST));
}

#[test]
fn a_connection_that_waits_for_its_peer_does_not_follow() {
    // A backlog that is full leaves a connection without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    bench.send_syn();
    let states = bench.flows.count();
    let values = bench.flows.freeze(bench.around.now);
    assert_eq!((states, values.len()), (1, 0));
    bench.flows.forget();
    assert_eq!(bench.flows.count(), 0);
}
