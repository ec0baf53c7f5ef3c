//! Tests that keepalives from the guest are answered only once its peer has answered.

use super::states::{ACK, ISS, Steps};
use crate::nat::tcp::timer::KEEPALIVE;
use crate::packet::TcpHeader;
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(5);

/// A guest whose peer has been silent for [`IDLE`].
fn idle() -> Steps {
    let mut steps = Steps::established();
    steps.pair.around.now = steps.pair.around.now + IDLE;
    steps.pair.stream.silence = IDLE;
    steps
}

/// Sends a probe from the guest, as Linux does.
fn probe(steps: &mut Steps) -> Vec<TcpHeader> {
    let next = steps.snd_nxt();
    steps.segment(ACK, ISS, next, b"")
}

fn deadline(steps: &Steps) -> Duration {
    let at = steps.pair.connection.as_ref().unwrap().deadline().unwrap();
    at.since(steps.pair.around.now)
}

/// Runs timers for this time, during which the peer stays silent. Returns the number of timers, and what the guest
/// received.
fn wait_in_silence(steps: &mut Steps, time: Duration) -> (usize, Vec<TcpHeader>) {
    let (mut left, mut timers, mut answers) = (time, 0, vec![]);
    while deadline(steps) <= left {
        let step = deadline(steps);
        left -= step;
        timers += 1;
        steps.pair.stream.silence += step;
        answers.extend(steps.wait(step));
    }
    steps.pair.stream.silence += left;
    steps.pair.around.now = steps.pair.around.now + left;
    (timers, answers)
}

#[test]
fn a_probe_is_passed_on_and_answered_once_the_peer_is_heard() {
    let mut steps = idle();
    assert_eq!(probe(&mut steps), []);
    assert_eq!(steps.pair.stream.probes, [IDLE]);
    let (_, answers) = wait_in_silence(&mut steps, Duration::from_millis(100));
    assert_eq!(answers, []);
    steps.pair.stream.silence = Duration::from_millis(10);
    let wait = deadline(&steps);
    let answers = steps.wait(wait);
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].flags, answers[0].ack), (ACK, ISS + 1));
    assert_eq!(deadline(&steps), KEEPALIVE);
}

#[test]
fn a_guest_whose_peer_is_gone_hears_nothing_however_often_it_asks() {
    let mut steps = idle();
    for n in 1..=9 {
        assert_eq!(probe(&mut steps), []);
        assert_eq!(steps.pair.stream.probes.len(), n);
        assert_eq!(wait_in_silence(&mut steps, IDLE).1, []);
    }
    // The checks stop after a few attempts.
    let (timers, answers) = wait_in_silence(&mut steps, KEEPALIVE / 2);
    assert!((1..10).contains(&timers) && answers.is_empty(), "{timers}");
    assert!(steps.pair.connection.is_some(), "the guest decides");
}

#[test]
fn a_peer_that_was_just_heard_is_not_asked_again() {
    let mut steps = idle();
    steps.pair.stream.silence = Duration::from_millis(999);
    assert_eq!(probe(&mut steps).len(), 1);
    assert!(steps.pair.stream.probes.is_empty());
}

#[test]
fn a_probe_with_a_byte_of_garbage_is_one_too() {
    let mut steps = idle();
    let next = steps.snd_nxt();
    assert_eq!(steps.segment(ACK, ISS, next, b"\0"), []);
    assert_eq!(steps.pair.stream.probes, [IDLE]);
    assert!(steps.pair.stream.received.is_empty());
}

#[test]
fn a_probe_of_a_closed_window_is_answered_at_once() {
    let mut steps = idle();
    let connection = steps.pair.connection.as_mut().unwrap();
    connection.rcv_edge = connection.rcv_nxt;
    // The host socket has no room either.
    steps.pair.stream.limit = 0;
    assert_eq!(probe(&mut steps).len(), 1);
    assert!(steps.pair.stream.probes.is_empty());
}

#[test]
fn a_probe_while_bytes_are_under_way_to_the_guest_is_answered_at_once() {
    let mut steps = idle();
    assert_eq!(steps.world_sends(b"unanswered").len(), 1);
    assert_eq!(probe(&mut steps).len(), 1);
    assert!(steps.pair.stream.probes.is_empty());
}

#[test]
fn bytes_of_the_peer_answer_a_probe_by_themselves() {
    let mut steps = idle();
    assert_eq!(probe(&mut steps), []);
    let answers = steps.world_sends(b"here");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ack, ISS + 1);
}
