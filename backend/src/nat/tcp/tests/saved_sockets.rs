//! Tests of the table of connections that moves between processes, with real host sockets.

use super::sockets::Bench;
use crate::nat::saved::{LoadError, from_bytes, to_bytes};
use crate::nat::tcp::ahead::Since;
use crate::nat::tcp::{SavedTcpFlow, TcpFlows};
use crate::nat::test_support::Surroundings;
use crate::packet::TcpFlags;
use crate::time::Instant;
use socket2::Socket;
use std::io::{Read, Write};

const ACK: TcpFlags = TcpFlags::ACK;

fn values(bench: &Bench) -> (Vec<SavedTcpFlow>, Vec<Option<Socket>>) {
    let saved = bench.flows.save(bench.around.now);
    saved
        .map(|(value, socket)| (value, socket.map(|socket| socket.try_clone().unwrap())))
        .unzip()
}

/// Lets another process take over, whose clock shows `now`.
fn replace(bench: &mut Bench, now: Instant) {
    let (values, sockets) = values(bench);
    let secret = to_bytes(&bench.flows.save_secret(bench.around.now));
    let mut around = Surroundings::new();
    around.now = now;
    // The old process ends. Its poller and descriptors are closed, but the sockets stay open.
    bench.around = around;
    bench.flows = TcpFlows::new(2000).unwrap();
    bench.flows.load_secret(&from_bytes(&secret).unwrap(), now);
    for (value, socket) in from_bytes::<Vec<_>>(&to_bytes(&values)).unwrap().iter().zip(sockets) {
        bench.flows.load(&mut bench.around.context(), value, socket).unwrap();
    }
}

#[test]
fn a_connection_and_what_is_on_its_way_change_processes_with_the_host_socket() {
    let (mut bench, mut peer) = Bench::connected();
    peer.write_all(b"peeked").unwrap();
    bench.handle_events();
    assert_eq!(bench.take_bytes().0, b"peeked");
    // These bytes are not acknowledged yet, and more arrive while no process runs.
    peer.write_all(b", not read").unwrap();
    replace(&mut bench, Instant::from_nanos(3));
    bench.handle_events();
    assert_eq!(bench.take_bytes().0, b", not read");
    bench.send(ACK, b"answer");
    bench.handle_events();
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    replace(&mut bench, Instant::from_nanos(1 << 50));
    drop(peer);
    bench.handle_events();
    assert_eq!(bench.take_bytes(), (vec![], true), "the end of the stream");
    bench.send(ACK | TcpFlags::FIN, b"");
    bench.next += 1;
    // TIME-WAIT has no socket.
    let (values, sockets) = values(&bench);
    assert_eq!((values.len(), sockets.iter().flatten().count()), (1, 0));
    replace(&mut bench, Instant::from_nanos(9));
    assert_eq!(bench.flows.count(), 1);
    bench.around.now = Instant::from_nanos(2_000_000_009);
    bench.flows.on_timer(&mut bench.around.context());
    assert_eq!(bench.flows.count(), 0);
}

#[test]
fn an_unacknowledged_byte_is_sent_again_by_the_next_process() {
    let (mut bench, mut peer) = Bench::connected();
    peer.write_all(b"lost in the guest").unwrap();
    bench.handle_events();
    bench.take();
    let sent = bench.expected;
    replace(&mut bench, Instant::from_nanos(0));
    bench.around.now = Instant::from_nanos(1_000_000_000);
    bench.flows.on_timer(&mut bench.around.context());
    let again = bench.take();
    assert_eq!((again.len(), &again[0].payload[..]), (1, &b"lost in the guest"[..]));
    assert_eq!(bench.expected, sent);
}

#[test]
fn a_connection_is_not_loaded_twice_nor_beyond_the_limit_nor_without_its_socket() {
    let (mut bench, _peer) = Bench::connected();
    let (values, mut sockets) = values(&bench);
    let socket = sockets.remove(0);
    let clone = || socket.as_ref().map(|socket| socket.try_clone().unwrap());
    let twice = bench.flows.load(&mut bench.around.context(), &values[0], clone());
    assert!(matches!(twice, Err(LoadError::Duplicate)), "{twice:?}");
    let mut next = TcpFlows::new(1).unwrap();
    let without = next.load(&mut bench.around.context(), &values[0], None);
    assert!(matches!(without, Err(LoadError::Contradiction(_))), "{without:?}");
    let mut full = TcpFlows::new(0).unwrap();
    let beyond = full.load(&mut bench.around.context(), &values[0], clone());
    assert!(matches!(beyond, Err(LoadError::Full { limit: 0 })), "{beyond:?}");
    assert_eq!((next.count(), full.count(), bench.flows.count()), (0, 0, 1));
}

/// Lets another process take over, to which the connections of `bench` have gone ahead at `then`. Returns the numbers of
/// those that have not changed since, of those that have, and of new ones.
fn replace_since(bench: &mut Bench, ahead: &[SavedTcpFlow], sockets: Vec<Option<Socket>>, now: Instant) -> [usize; 3] {
    let Since {
        elapsed,
        unchanged,
        changed,
        new,
    } = bench.flows.save_since(bench.around.now);
    let new: Vec<_> = new
        .into_iter()
        .map(|(value, socket)| (value, socket.map(|socket| socket.try_clone().unwrap())))
        .collect();
    let numbers = [unchanged.len(), changed.len(), new.len()];
    bench.around = Surroundings::new();
    bench.around.now = now;
    bench.flows = TcpFlows::new(2000).unwrap();
    let ctx = &mut bench.around.context();
    let mut sockets = sockets;
    let then = Instant::from_nanos(now.as_nanos() - u64::try_from(elapsed.as_nanos()).unwrap());
    for number in unchanged {
        let socket = sockets[number as usize].take();
        bench
            .flows
            .load_as_of(then, ctx, &ahead[number as usize], socket)
            .unwrap();
    }
    for (number, value) in changed {
        let socket = sockets[number as usize].take();
        bench.flows.load(ctx, &value, socket).unwrap();
    }
    for (value, socket) in new {
        bench.flows.load(ctx, &value, socket).unwrap();
    }
    numbers
}

#[test]
fn connections_that_went_ahead_go_on_as_they_are_at_the_end() {
    let mut bench = Bench::new(0);
    let mut peers = bench.clients(4);
    bench.handle_events();
    let mut copies = Vec::new();
    let sent = bench.flows.save_ahead(bench.around.now, |socket| {
        copies.push(Some(socket.try_clone()?));
        Ok(())
    });
    let sent = sent.unwrap();
    assert_eq!((sent.len(), copies.len()), (4, 4));
    // One receives bytes, one ends, and one is new.
    peers[1].write_all(b"later").unwrap();
    drop(peers.remove(3));
    bench.around.now = Instant::from_nanos(bench.around.now.as_nanos() + 7_000_000);
    bench.handle_events();
    let more = bench.clients(1);
    bench.handle_events();
    let plain = values(&bench).0;
    let now = Instant::from_nanos(5_000_000_000);
    let [unchanged, changed, new] = replace_since(&mut bench, &sent, copies, now);
    assert_eq!(new, 1);
    assert!(
        unchanged >= 2 && changed >= 1,
        "{unchanged} unchanged, {changed} changed"
    );
    // They are what they would be if nothing had gone ahead.
    let by_end = |mut values: Vec<SavedTcpFlow>| {
        values.sort_by_key(|value| value.connection().id().remote_port);
        values
    };
    assert_eq!(by_end(values(&bench).0), by_end(plain));
    drop(more);
}
