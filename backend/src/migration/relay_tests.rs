//! Tests of two ends of a channel with real sockets, both on one thread.

use super::*;
use crate::poller::EventBuffer;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

/// An end of a channel with its poller.
struct Side {
    relay: Relay,
    poller: Poller,
}

impl Side {
    fn turn(&mut self) -> Result<(), RelayError> {
        let relay = &mut self.relay;
        let mut events = EventBuffer::with_capacity(64);
        self.poller.wait(&mut events, Some(Duration::ZERO), |token, ready| {
            relay.on_event(token, ready);
        })?;
        let mut others = Vec::new();
        relay.read(&mut others)?;
        assert_eq!(others, []);
        relay.work()
    }
}

/// Two sides with `n` connections between them, and the sockets at both outer ends.
fn sides(n: u32) -> ([Side; 2], Vec<[TcpStream; 2]>) {
    let (a, b) = UnixStream::pair().unwrap();
    let mut sides = [a, b].map(|channel| {
        let poller = Poller::new().unwrap();
        let relay = Relay::new(channel, poller.clone()).unwrap();
        Side { relay, poller }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = (0..n).map(|number| {
        [0, 1].map(|side: usize| {
            let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (inner, _) = listener.accept().unwrap();
            sides[side].relay.add(number, inner.into()).unwrap();
            outer.set_nonblocking(true).unwrap();
            outer
        })
    });
    let outer = outer.collect();
    sides.iter_mut().for_each(|side| side.relay.start());
    (sides, outer)
}

fn until(sides: &mut [Side; 2], mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        sides.iter_mut().for_each(|side| side.turn().unwrap());
        assert!(started.elapsed() < PATIENCE);
    }
}

/// Sends all of `bytes` in one direction while the sides work, then the end, and compares what arrives.
fn transfer(sides: &mut [Side; 2], from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    let (mut sent, mut got, mut ended) = (0, Vec::new(), false);
    let mut piece = vec![0; 70_000];
    until(sides, || {
        if sent < bytes.len() {
            sent += from.write(&bytes[sent..]).unwrap_or(0);
            if sent == bytes.len() {
                from.shutdown(Shutdown::Write).unwrap();
            }
        }
        match to.read(&mut piece) {
            Ok(0) => ended = true,
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
        ended
    });
    assert!(got == bytes);
}

#[test]
fn bytes_cross_in_both_directions_and_each_ends_on_its_own() {
    let (mut sides, mut outer) = sides(1);
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2])
        .collect();
    let [near, far] = &mut outer[0];
    transfer(&mut sides, near, far, &bytes);
    assert_eq!(sides[0].relay.carried(), 1, "the other direction is open");
    transfer(&mut sides, far, near, &bytes);
    until_idle(&mut sides);
    assert_eq!(
        sides.each_ref().map(|side| (side.relay.carried(), side.relay.resets())),
        [(0, 0); 2]
    );
}

fn until_idle(sides: &mut [Side; 2]) {
    for _ in 0..20 {
        sides.iter_mut().for_each(|side| side.turn().unwrap());
    }
}

#[test]
fn a_socket_that_takes_nothing_holds_back_no_other() {
    let (mut sides, mut outer) = sides(2);
    let (stuck, rest) = outer.split_at_mut(1);
    let big = vec![7; 200_000];
    // The outer end is not read, so its connection fills up.
    until(&mut sides, || stuck[0][0].write(&big).is_err());
    for _ in 0..500 {
        sides.iter_mut().for_each(|side| side.turn().unwrap());
        let _ = stuck[0][0].write(&big);
    }
    let [near, far] = &mut rest[0];
    transfer(&mut sides, near, far, &big);
}

#[test]
fn a_reset_reaches_the_other_end() {
    let (mut sides, mut outer) = sides(2);
    let [near, mut far] = outer.remove(0);
    SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
    drop(near);
    let mut seen = None;
    until(&mut sides, || {
        seen = far.read(&mut [0]).err().map(|e| e.kind());
        seen == Some(io::ErrorKind::ConnectionReset)
    });
    assert_eq!(sides.each_ref().map(|side| side.relay.carried()), [1, 1]);
    // So does the end of the channel, to both ends of what is left.
    let [a, mut b] = sides;
    drop(a);
    assert!(matches!(b.turn(), Err(RelayError::Closed | RelayError::System(_))));
    drop(b);
    for outer in &mut outer[0] {
        outer.set_nonblocking(false).unwrap();
        assert_eq!(
            outer.read(&mut [0]).map_err(|e| e.kind()),
            Err(io::ErrorKind::ConnectionReset)
        );
    }
}

#[test]
fn a_peer_that_is_no_hawser_or_a_broken_one_ends_the_channel() {
    type Kind = fn(&RelayError) -> bool;
    let broken: [(&[u8], Kind); 2] = [
        (b"GET / HTTP/1.1\r\n\r\n", |e| matches!(e, RelayError::Wire(_))),
        (&[0, 0, 0, 9, 10, 0, 0, 0, 0, 0, 0, 0, 1], |e| {
            matches!(e, RelayError::Violation(_))
        }),
    ];
    for (bytes, is_expected) in broken {
        let (sides, _outer) = sides(1);
        let [mut side, peer] = sides;
        (&peer.relay.channel).write_all(bytes).unwrap();
        let error = side.turn().unwrap_err();
        assert!(is_expected(&error), "{error}");
    }
}

/// Two sides with a flow of datagrams between them, and the sockets at both outer ends.
fn datagram_sides() -> ([Side; 2], [Socket; 2]) {
    let (mut sides, _) = sides(0);
    let outer = [0, 1].map(|side: usize| {
        let (outer, inner) = super::super::loopback::Loopback::datagrams().unwrap();
        sides[side].relay.add(0, inner).unwrap();
        outer
    });
    (sides, outer)
}

#[test]
fn datagrams_cross_whole_in_order_and_in_both_directions() {
    let (mut sides, outer) = datagram_sides();
    let sent: Vec<Vec<u8>> = [0, 1, 700, 1400, 9000, 60_000].map(|len| vec![7; len]).into();
    for [from, to] in [[0, 1], [1, 0]] {
        for datagram in &sent {
            outer[from].send(datagram).unwrap();
        }
        let mut got = Vec::new();
        until(&mut sides, || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(len) = (&outer[to]).read(&mut buffer) {
                got.push(buffer[..len].to_vec());
            }
            got.len() >= sent.len()
        });
        assert!(
            got == sent,
            "from {from}: {:?}",
            got.iter().map(Vec::len).collect::<Vec<_>>()
        );
    }
    assert!(sides.iter_mut().all(|side| side.relay.take_lost() == 0));
}

#[test]
fn a_flow_of_datagrams_ends_on_both_sides_when_its_socket_has_gone_and_after_some_idle_checks() {
    let (mut sides, [kept, gone]) = datagram_sides();
    drop(gone);
    kept.send(b"nobody is there").unwrap();
    kept.send(b"and this shows it").unwrap();
    let started = Instant::now();
    while sides.iter().any(|side| side.relay.carried() > 0) {
        sides.iter_mut().for_each(|side| side.turn().unwrap());
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(sides.each_ref().map(|side| side.relay.resets()), [0, 0]);

    let (mut sides, _outer) = datagram_sides();
    let mut checks = 0;
    while sides.iter().any(|side| side.relay.carried() > 0) {
        sides[0].relay.end_idle();
        sides.iter_mut().for_each(|side| side.turn().unwrap());
        checks += 1;
        assert!(checks < 100);
    }
    assert!(checks > 3, "an idle flow ended after {checks} checks");
}

#[test]
fn a_connection_that_the_peer_refused_before_it_was_added_is_reset_when_it_is() {
    let (a, b) = UnixStream::pair().unwrap();
    let relays = [a, b].map(|channel| Relay::new(channel, Poller::new().unwrap()).unwrap());
    let [mut near, mut far] = relays;
    far.reset(0);
    far.flush().unwrap();
    near.read(&mut Vec::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.add(0, listener.accept().unwrap().0.into()).unwrap();
    assert_eq!((near.carried(), near.resets()), (0, 1));
    let read = outer.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
}
