//! Tests of connections whose guest was reset, was suspended, or never came back.

use super::sockets::Bench;
use super::states::{ACK, ISS, Steps};
use crate::nat::tcp::connection::{Progress, State};
use crate::nat::tcp::driver::AT_ONCE;
use crate::nat::test_support::{guest, host_seen};
use crate::packet::FlowId;
use crate::packet::TcpFlags;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The seconds, of the next `within`, at which the guest is probed, and the second at which the connection ends.
fn asked(steps: &mut Steps, within: u64) -> (Vec<u64>, Option<u64>) {
    let mut at = Vec::new();
    for second in 0..within {
        let answers = steps.wait(if second == 0 { Duration::ZERO } else { SECOND });
        if steps.state() == State::Closed {
            return (at, Some(second));
        }
        at.extend(answers.iter().map(|_| second));
    }
    (at, None)
}

fn doubted(times: Option<u8>) -> Steps {
    let mut steps = Steps::established();
    steps.wait(Duration::from_secs(3600));
    steps.pair.call(|c, ctx, _| {
        c.probe_from(ctx.now, times);
        Progress::Done
    });
    steps
}

#[test]
fn a_guest_that_does_not_answer_is_asked_again_soon() {
    let mut steps = doubted(None);
    assert_eq!(asked(&mut steps, 130), (vec![0, 2, 6, 14, 30, 62, 122], None));
    // The guest has its address by now.
    let nxt = steps.snd_nxt();
    steps.segment(TcpFlags::RST, ISS + 1, nxt, b"");
    assert!(steps.pair.stream.broken);
    let mut reset = doubted(Some(4));
    assert_eq!(asked(&mut reset, 130), (vec![0, 2, 6, 14], Some(30)));
    assert!(reset.pair.stream.broken);
}

#[test]
fn a_guest_that_slept_answers_and_keeps_its_connections() {
    for times in [None, Some(4)] {
        let mut steps = doubted(times);
        assert_eq!(asked(&mut steps, 2).0, [0]);
        let nxt = steps.snd_nxt();
        assert_eq!(steps.segment(ACK, ISS + 1, nxt, b""), []);
        assert_eq!(asked(&mut steps, 7200), (vec![], None));
        assert_eq!(steps.world_sends(b"good morning").len(), 1);
    }
}

#[test]
fn what_is_in_flight_is_sent_at_once_to_a_new_driver() {
    let mut steps = Steps::established();
    steps.world_sends(b"lost");
    for _ in 0..5 {
        steps.wait(Duration::from_secs(40));
    }
    steps.pair.call(|c, ctx, _| {
        c.probe_from(ctx.now, Some(4));
        Progress::Done
    });
    assert_eq!(asked(&mut steps, 130), (vec![0, 2, 6, 14], Some(30)));
}

/// A guest with `n` idle connections, and their peers.
fn idle(n: u16) -> (Bench, Vec<(FlowId, TcpStream)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new(listener.local_addr().unwrap().port());
    let mut all = Vec::new();
    for i in 0..n {
        let remote = host_seen(bench.key.remote, listener.local_addr().unwrap().port());
        bench.key = FlowId::tcp(guest(remote.ip(), 40_000 + i), remote);
        bench.next = ISS;
        bench.send_syn();
        let (peer, _) = listener.accept().unwrap();
        bench.handle_ready();
        bench.take();
        bench.send(ACK, b"");
        all.push((bench.key, peer));
    }
    pass(&mut bench, 3600 * SECOND);
    assert_eq!(bench.take().len(), 0);
    (bench, all)
}

/// Advances time second by second.
fn pass(bench: &mut Bench, time: Duration) {
    run_timers(bench);
    for _ in 0..time.as_secs() {
        bench.around.now = bench.around.now + SECOND;
        run_timers(bench);
    }
}

fn run_timers(bench: &mut Bench) {
    while bench.flows.deadline().is_some_and(|at| at <= bench.around.now) {
        bench.flows.on_timer(&mut bench.around.context());
    }
}

fn is_reset(mut peer: &TcpStream) -> bool {
    peer.write(b"x").is_err()
}

#[test]
fn every_connection_of_a_guest_that_was_reset_ends_within_half_a_minute() {
    let (mut bench, peers) = idle(3);
    bench.flows.on_reset();
    bench.flows.on_link_up(&bench.around.context());
    assert_eq!(bench.flows.deadline(), Some(bench.around.now));
    pass(&mut bench, Duration::ZERO);
    assert_eq!(bench.take().len(), 3);
    // The guest knows this connection.
    bench.send(ACK, b"");
    pass(&mut bench, 29 * SECOND);
    assert_eq!(bench.flows.count(), 3);
    pass(&mut bench, SECOND);
    assert_eq!(bench.flows.count(), 1);
    assert!(bench.flows.has(&bench.key));
    let reset: Vec<_> = peers.iter().map(|(_, peer)| is_reset(peer)).collect();
    assert_eq!(reset, [true, true, false]);
}

#[test]
fn many_connections_are_asked_for_one_after_the_other() {
    let (mut bench, _peers) = idle(u16::try_from(2 * AT_ONCE).unwrap() + 2);
    bench.flows.on_link_up(&bench.around.context());
    for expected in [AT_ONCE, AT_ONCE, 2, 0] {
        pass(&mut bench, Duration::ZERO);
        assert_eq!(bench.take().len(), expected);
        bench.around.now = bench.around.now + Duration::from_millis(1);
    }
}

#[test]
fn connections_wait_for_a_front_end_for_two_minutes() {
    let (mut bench, peers) = idle(3);
    let gone = bench.around.now;
    bench.flows.on_front_end_gone(gone);
    // Another reset makes no difference.
    pass(&mut bench, 60 * SECOND);
    bench.flows.on_front_end_gone(bench.around.now);
    pass(&mut bench, 59 * SECOND);
    assert_eq!(bench.flows.count(), 3);
    pass(&mut bench, SECOND);
    assert_eq!(bench.flows.count(), 0);
    assert!(peers.iter().all(|(_, peer)| is_reset(peer)));
    assert_eq!(
        bench.flows.deadline().map(|at| at > bench.around.now),
        Some(true),
        "timers of ended connections only"
    );

    let (mut bench, _peers) = idle(3);
    bench.flows.on_front_end_gone(bench.around.now);
    pass(&mut bench, 60 * SECOND);
    bench.flows.on_link_up(&bench.around.context());
    pass(&mut bench, 61 * SECOND);
    assert_eq!(bench.flows.count(), 3);
}
