//! Tests of how a connection begins, step by step, and of everything that may prevent it.

use super::pair::{Conditions, Opener, Pair};
use super::states::{ACK, ISS, Steps};
use crate::nat::tcp::connection::{Progress, State};
use crate::packet::TcpFlags;
use std::time::Duration;

#[test]
fn a_repeated_syn_gets_the_same_answer() {
    let mut steps = Steps::nobody();
    let first = steps.open();
    let again = steps.segment(TcpFlags::SYN, ISS, 0, b"");
    assert_eq!((again[0].seq, again[0].ack), (first.seq, first.ack));
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let mut pair = Pair::new(
        Conditions {
            lost: 100,
            ..Conditions::default()
        },
        Opener::World,
    );
    pair.run(Duration::from_secs(300), |pair| pair.connection.is_none());
    assert!(pair.stream.broken, "the client is reset");
}

#[test]
fn both_open_at_once() {
    let mut steps = Steps {
        pair: Pair::idle_client(Conditions::default()),
    };
    let syn = steps.pair.answers();
    assert_eq!(syn[0].flags, TcpFlags::SYN);
    let answer = steps.segment(TcpFlags::SYN, ISS, 0, b"");
    assert_eq!(
        (answer[0].flags, answer[0].ack, answer[0].seq),
        (TcpFlags::SYN | ACK, ISS + 1, syn[0].seq)
    );
    steps.segment(TcpFlags::SYN | ACK, ISS, syn[0].seq.wrapping_add(1), b"");
    steps.segment(ACK, ISS + 1, syn[0].seq.wrapping_add(1), b"");
    assert_eq!(steps.state(), State::Established);
}

#[test]
fn a_refused_client_is_reset() {
    let mut steps = Steps {
        pair: Pair::idle_client(Conditions::default()),
    };
    let syn = steps.pair.answers();
    steps.segment(TcpFlags::RST | ACK, 0, syn[0].seq.wrapping_add(1), b"");
    assert!(steps.pair.connection.is_none());
    assert!(steps.pair.stream.broken);
}

#[test]
fn a_syn_that_meets_no_room_is_sent_as_soon_as_there_is_some() {
    let mut pair = Pair::idle(Conditions::default());
    pair.set_room(0);
    pair.world_connects();
    let mut steps = Steps { pair };
    assert_eq!(steps.pair.answers(), []);
    assert_eq!(steps.pair.connection.as_ref().unwrap().progress(), Progress::Starved);
    steps.pair.set_room(1);
    steps.pair.call(|c, ctx, stream| c.answer(ctx, stream));
    let syn = steps.pair.answers();
    assert_eq!((syn.len(), syn[0].flags), (1, TcpFlags::SYN));
    assert_eq!(steps.pair.connection.as_ref().unwrap().progress(), Progress::Done);
}

#[test]
fn a_syn_that_met_no_room_is_forgotten_once_the_guest_has_answered_an_earlier_one() {
    let mut steps = Steps::nobody();
    let syn_ack = steps.open();
    steps.pair.set_room(0);
    assert_eq!(steps.segment(TcpFlags::SYN, ISS, 0, b""), []);
    steps.pair.set_room(10);
    assert_eq!(steps.segment(ACK, ISS + 1, syn_ack.seq.wrapping_add(1), b""), []);
    assert_eq!(steps.state(), State::Established);
}

#[test]
fn a_guest_that_answers_the_fifth_syn_is_not_taken_for_a_slow_one() {
    let mut steps = Steps {
        pair: Pair::idle_client(Conditions::default()),
    };
    let syn = steps.pair.answers()[0];
    for _ in 0..4 {
        assert_eq!(steps.wait(Duration::from_secs(16)).len(), 1);
    }
    steps.segment(TcpFlags::SYN | ACK, ISS, syn.seq.wrapping_add(1), b"");
    assert_eq!(steps.world_sends(b"lost").len(), 1);
    assert_eq!(steps.wait(Duration::from_millis(1100)).len(), 1);
}
