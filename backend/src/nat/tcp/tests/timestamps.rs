//! Tests of timestamps (RFC 7323). They are negotiated in SYNs and then present in every segment. Segments older than
//! the newest timestamp are dropped.

use super::pair::{Conditions, Pair};
use super::states::{ISS, Steps, header};
use crate::counters::DropReason;
use crate::packet::{TcpFlags, TcpHeader, TcpOptions, Timestamps};
use std::time::Duration;

const ACK: TcpFlags = TcpFlags::ACK;
/// The guest's clock when it sends SYN, close to the wrap.
const START: u32 = u32::MAX - 1;

fn stamped(flags: TcpFlags, seq: u32, ack: u32, value: u32) -> TcpHeader {
    TcpHeader {
        options: TcpOptions {
            timestamps: Some(Timestamps { value, echo: 0 }),
            ..TcpOptions::default()
        },
        ..header(flags, seq, ack)
    }
}

/// A connection whose SYNs both had the option, and hawser's next sequence number.
fn established() -> (Steps, u32) {
    let mut steps = Steps::nobody();
    let answers = steps.send(stamped(TcpFlags::SYN, ISS, 0, START), b"");
    let next = answers[0].seq.wrapping_add(1);
    assert_eq!(echo(&answers), START);
    assert_eq!(steps.send(stamped(ACK, ISS + 1, next, START), b""), []);
    (steps, next)
}

fn echo(answers: &[TcpHeader]) -> u32 {
    answers.last().unwrap().options.timestamps.unwrap().echo
}

#[test]
fn a_guest_that_does_not_ask_sees_none() {
    let mut steps = Steps::established();
    let next = steps.snd_nxt();
    let answers = steps.send(header(ACK, ISS + 1, next), b"hello");
    assert_eq!(answers[0].options, TcpOptions::default());
}

#[test]
fn a_syn_to_the_guest_asks_and_takes_no_for_an_answer() {
    let mut pair = Pair::idle(Conditions::default());
    pair.world_connects();
    let syn = pair.answers().remove(0);
    assert_eq!(syn.options.timestamps.map(|t| t.echo), Some(0));
    let mut steps = Steps { pair };
    let answers = steps.send(header(TcpFlags::SYN | ACK, ISS, syn.seq.wrapping_add(1)), b"");
    assert_eq!(answers[0].options.timestamps, None);
}

#[test]
fn every_segment_echoes_the_newest_and_tells_the_time() {
    let (mut steps, next) = established();
    let answers = steps.send(stamped(ACK, ISS + 1, next, START.wrapping_add(5)), b"abc");
    assert_eq!(echo(&answers), START.wrapping_add(5));
    let before = answers[0].options.timestamps.unwrap().value;
    steps.wait(Duration::from_millis(7));
    let answers = steps.world_sends(b"data");
    let stamp = answers[0].options.timestamps.unwrap();
    assert_eq!(stamp.value.wrapping_sub(before), 7);
    assert_eq!(stamp.echo, START.wrapping_add(5));
}

#[test]
fn the_first_segment_of_a_burst_is_the_one_that_is_echoed() {
    let (mut steps, next) = established();
    let first = stamped(ACK, ISS + 1, next, 7);
    let second = stamped(ACK, ISS + 4, next, 9);
    let answers = steps.send_all(&[(first, b"abc"), (second, b"def")]);
    assert_eq!(echo(&answers), 7);
    assert_eq!(steps.pair.stream.received, b"abcdef");
}

#[test]
fn what_is_older_than_the_newest_goes_nowhere_and_is_answered() {
    let (mut steps, next) = established();
    steps.send(stamped(ACK, ISS + 1, next, 7), b"abc");
    let answers = steps.send(stamped(ACK, ISS + 4, next, START), b"old");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ack, ISS + 4);
    assert_eq!(echo(&answers), 7);
    assert_eq!(steps.pair.stream.received, b"abc");
    assert_eq!(steps.dropped(DropReason::TcpOutOfWindow), 1);
}

#[test]
fn segments_are_shorter_by_the_option() {
    let (mut steps, _) = established();
    steps.pair.around.sink.caps.tso4 = false;
    let answers = steps.world_sends(&[7; 500]);
    assert_eq!(answers.len(), 1);
    let mss = steps.pair.connection.as_ref().unwrap().mss;
    // A SYN without the option implies an MSS of 536.
    assert_eq!(usize::from(mss), 536 - Timestamps::EMITTED_LEN);
}
