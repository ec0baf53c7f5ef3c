//! Tests of connections whose guest was reset, was suspended, or never came back.

use super::sockets::Bench;
use super::states::{ACK, ISS, Steps};
use crate::counters::Count;
use crate::mode::Departure;
use crate::nat::tcp::connection::{Progress, State};
use crate::nat::tcp::driver::AT_ONCE;
use crate::nat::test_support::{guest, host_seen};
use crate::packet::FlowId;
use crate::packet::TcpFlags;
use std::io::{ErrorKind, Read as _, Write};
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
    let expected = bench.expected;
    assert_eq!(bench.take().len(), 3);
    // The probes of the other connections count differently.
    bench.expected = expected;
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
    bench.flows.on_front_end_gone(gone, Departure::Disconnected);
    // Another reset makes no difference.
    pass(&mut bench, 60 * SECOND);
    bench.flows.on_front_end_gone(bench.around.now, Departure::Disconnected);
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
    bench.flows.on_front_end_gone(bench.around.now, Departure::Disconnected);
    pass(&mut bench, 60 * SECOND);
    bench.flows.on_link_up(&bench.around.context());
    pass(&mut bench, 61 * SECOND);
    assert_eq!(bench.flows.count(), 3);
}

#[test]
fn after_a_migration_connections_wait_for_seconds_only() {
    let (mut bench, peers) = idle(3);
    bench.flows.on_front_end_gone(bench.around.now, Departure::Migrated);
    pass(&mut bench, SECOND);
    assert_eq!(bench.flows.count(), 3, "the guest may come back within this process");
    pass(&mut bench, SECOND);
    assert_eq!(bench.flows.count(), 0);
    assert!(peers.iter().all(|(_, peer)| is_reset(peer)));
}

#[test]
fn peers_of_unfinished_streams_get_a_reset_when_the_process_ends() {
    let (mut bench, mut peers) = idle(2);
    // The guest has finished one of its streams.
    bench.send(ACK | TcpFlags::FIN, b"");
    drop(bench);
    let (_, unfinished) = peers.remove(0);
    let read = |mut peer: &TcpStream| peer.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(read(&unfinished), Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&peers[0].1), Ok(0));
}

/// A connection on which both sides have sent and acknowledged something, and the numbers before that.
fn grown() -> (Steps, [u32; 2]) {
    let mut steps = Steps::established();
    let before = [ISS + 1, steps.snd_nxt()];
    steps.segment(ACK, before[0], before[1], b"from the guest");
    steps.world_sends(b"to the guest");
    let nxt = steps.snd_nxt();
    assert_eq!(steps.segment(ACK, ISS + 15, nxt, b""), []);
    (steps, before)
}

#[test]
fn a_guest_that_went_back_in_time_is_reset_and_so_is_its_peer() {
    // An upload is repeated, and a guest that downloads acknowledges less than before.
    for (payload, has_sent) in [(&b"from the guest"[..], true), (b"", false)] {
        let (mut steps, [seq, ack]) = grown();
        let seq = if has_sent { seq } else { ISS + 15 };
        for run in 1..=3 {
            steps.wait(Duration::from_millis(250));
            let answers = steps.segment(ACK, seq, ack, payload);
            if run < 3 {
                assert!(answers.iter().all(|answer| answer.flags == ACK), "{answers:?}");
                continue;
            }
            assert_eq!((answers[0].flags, answers[0].seq), (TcpFlags::RST, ack), "{answers:?}");
        }
        assert!(steps.pair.stream.broken);
        assert_eq!(steps.pair.around.counters.count(Count::TcpRewound), 1);

        // After a reset of the device its first segment suffices.
        let (mut steps, _) = grown();
        steps.wait(Duration::from_secs(3600));
        steps.pair.call(|c, ctx, _| {
            c.probe_from(ctx.now, Some(4));
            Progress::Done
        });
        assert_eq!(steps.segment(ACK, seq, ack, payload)[0].flags, TcpFlags::RST);
        assert!(steps.pair.stream.broken);
    }
}

#[test]
fn segments_that_were_overtaken_on_the_way_do_no_harm() {
    let (mut steps, [seq, ack]) = grown();
    let nxt = steps.snd_nxt();
    for _ in 0..10 {
        for _ in 0..2 {
            steps.segment(ACK, seq, ack, b"from the guest");
        }
        steps.segment(ACK, ISS + 15, nxt, b"");
    }
    assert_eq!(steps.state(), State::Established);
    // The guest repeats what was acknowledged, because it has lost the acknowledgment.
    for _ in 0..10 {
        steps.segment(ACK, seq, nxt, b"from the guest");
    }
    assert_eq!(steps.state(), State::Established);
    assert_eq!(steps.pair.around.counters.count(Count::TcpRewound), 0);
}
