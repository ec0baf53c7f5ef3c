//! Tests how long connections may stay in each state in which one side still waits. docs/masquerade.md lists each time
//! beside Linux's own.

use super::pair::{Conditions, Pair};
use super::states::{ACK, ISS, Steps};
use crate::nat::tcp::connection::{Receiving, Sending, State};
use crate::packet::TcpFlags;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const FIN: TcpFlags = TcpFlags::FIN;

/// A connection on which the guest has sent FIN and the remote peer has not.
fn closed_by_guest() -> (Steps, u32) {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.segment(ACK | FIN, ISS + 1, nxt, b"");
    assert_eq!(steps.halves(), (Sending::Open, Receiving::Closed), "CLOSE-WAIT");
    (steps, nxt)
}

/// Number of seconds until the connection ends, if the guest stays silent.
fn seconds_of_silence(mut steps: Steps) -> usize {
    const AT_MOST: usize = 10_000;
    (1..AT_MOST)
        .find(|_| {
            steps.wait(SECOND);
            matches!(steps.state(), State::Closed)
        })
        .unwrap()
}

#[test]
fn a_guest_that_is_done_is_asked_and_its_connection_closed() {
    let (mut steps, nxt) = closed_by_guest();
    assert_eq!(steps.wait(74 * SECOND), []);
    let probe = steps.wait(SECOND);
    assert_eq!((probe.len(), probe[0].seq, probe[0].flags), (1, nxt - 1, ACK));
    // A Linux guest has dropped its state after 60 s.
    steps.segment(TcpFlags::RST, probe[0].ack, 0, b"");
    assert!(steps.pair.connection.is_none());
    assert!(!steps.pair.stream.broken, "the guest's earlier bytes are still sent");
}

#[test]
fn a_guest_that_closed_one_direction_on_purpose_keeps_the_other() {
    let (mut steps, nxt) = closed_by_guest();
    for _ in 0..100 {
        let probe = steps.wait(75 * SECOND);
        assert_eq!((probe.len(), probe[0].seq), (1, nxt - 1));
        assert_eq!(steps.segment(ACK, ISS + 2, nxt, b""), []);
    }
    assert_eq!(steps.world_sends(b"at last").len(), 1);
}

#[test]
fn the_last_bytes_of_a_guest_that_is_done_are_waited_for() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.pair.stream.limit = 2;
    steps.segment(ACK | FIN, ISS + 1, nxt, b"last words");
    assert_eq!(steps.halves(), (Sending::Open, Receiving::Draining));
    let probe = steps.wait(75 * SECOND);
    steps.segment(TcpFlags::RST, probe[0].ack, 0, b"");
    assert_eq!(steps.halves(), (Sending::Closed, Receiving::Draining));
    for expected in ["last", "last w", "last wor"] {
        // The guest cannot be probed any longer.
        assert_eq!(steps.wait(119 * SECOND), []);
        steps.pair.stream.drain(2);
        steps.pair.call(|c, ctx, stream| {
            c.on_writable(ctx, stream);
            c.answer(ctx, stream)
        });
        assert_eq!(steps.pair.stream.received, expected.as_bytes());
    }
    assert_eq!(seconds_of_silence(steps), 120);
}

#[test]
fn a_reset_that_was_not_requested_goes_out_to_the_world() {
    let (mut steps, nxt) = closed_by_guest();
    steps.segment(TcpFlags::RST, ISS + 2, nxt, b"");
    assert!(steps.pair.connection.is_none());
    assert!(steps.pair.stream.broken);
}

#[test]
fn a_silent_guest_is_given_up_in_every_state() {
    let established = Steps::established();
    assert_eq!(seconds_of_silence(established), 7200 + 62 + 10 * 60, "ESTABLISHED");

    let (close_wait, _) = closed_by_guest();
    assert_eq!(seconds_of_silence(close_wait), 75 + 62 + 10 * 60, "CLOSE-WAIT");

    let mut in_flight = Steps::established();
    in_flight.world_sends(b"unanswered");
    assert_eq!(seconds_of_silence(in_flight), 63 + 10 * 60, "ESTABLISHED, in flight");

    let mut fin_wait_1 = Steps::established();
    fin_wait_1.world_closes();
    assert_eq!(seconds_of_silence(fin_wait_1), 63 + 10 * 60, "FIN-WAIT-1");

    let mut fin_wait_2 = Steps::established();
    let nxt = fin_wait_2.snd_nxt();
    fin_wait_2.world_closes();
    fin_wait_2.segment(ACK, ISS + 1, nxt + 1, b"");
    assert_eq!(fin_wait_2.halves(), (Sending::Closed, Receiving::Open));
    assert_eq!(seconds_of_silence(fin_wait_2), 75 + 62 + 10 * 60, "FIN-WAIT-2");

    let (mut last_ack, _) = closed_by_guest();
    last_ack.world_closes();
    assert_eq!(seconds_of_silence(last_ack), 63 + 3 * 60, "LAST-ACK");

    let mut closing = Steps::established();
    let nxt = closing.snd_nxt();
    closing.world_closes();
    closing.segment(ACK | FIN, ISS + 1, nxt, b"");
    assert_eq!(closing.halves(), (Sending::FinSent, Receiving::Closed));
    assert_eq!(seconds_of_silence(closing), 63 + 3 * 60, "CLOSING");

    let mut time_wait = Steps::established();
    let nxt = time_wait.snd_nxt();
    time_wait.world_closes();
    time_wait.segment(ACK | FIN, ISS + 1, nxt + 1, b"");
    assert_eq!(time_wait.state(), State::TimeWait);
    assert_eq!(seconds_of_silence(time_wait), 2, "TIME-WAIT");

    let mut syn_received = Steps::nobody();
    syn_received.open();
    assert_eq!(seconds_of_silence(syn_received), 63, "SYN-RECEIVED");

    let syn_sent = Steps {
        pair: Pair::idle_client(Conditions::default()),
    };
    assert_eq!(seconds_of_silence(syn_sent), 63, "SYN-SENT");
}
