//! Tests of urgent bytes in either direction.

use super::states::{ACK, ISS, Steps, header};
use crate::packet::{TcpFlags, TcpHeader};

const URG: TcpFlags = TcpFlags::URG;

/// Sends the guest's bytes, starting at `offset`, with an urgent pointer.
fn send(steps: &mut Steps, offset: u32, pointer: u16, payload: &[u8]) -> Vec<TcpHeader> {
    let next = steps.snd_nxt();
    let segment = TcpHeader {
        urgent: pointer,
        ..header(ACK | URG, ISS + 1 + offset, next)
    };
    steps.send(segment, payload)
}

/// Position, counted from `first`, of the byte that an answer points at.
fn points_at(answer: &TcpHeader, first: u32) -> Option<u32> {
    let byte = answer.seq.wrapping_add(answer.urgent.into()).wrapping_sub(first + 1);
    answer.flags.has(URG).then_some(byte)
}

#[test]
fn an_urgent_byte_of_the_guest_goes_by_itself_in_its_place() {
    let mut steps = Steps::established();
    let answers = send(&mut steps, 0, 3, b"12U34");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ack, ISS + 6);
    assert_eq!(steps.pair.stream.received, b"12U34");
    assert_eq!(steps.pair.stream.urgent, [2]);
    // A byte that was sent as urgent once is not urgent again.
    send(&mut steps, 2, 1, b"U34");
    send(&mut steps, 5, 0, b"no");
    assert_eq!(steps.pair.stream.received, b"12U34no");
    assert_eq!(steps.pair.stream.urgent, [2]);
}

#[test]
fn an_urgent_byte_may_be_announced_before_it_comes() {
    let mut steps = Steps::established();
    send(&mut steps, 0, 3, b"");
    send(&mut steps, 0, 3, b"12");
    assert!(steps.pair.stream.urgent.is_empty());
    // The segment with the byte need not repeat the pointer.
    let next = steps.snd_nxt();
    steps.segment(ACK, ISS + 3, next, b"U34");
    assert_eq!(steps.pair.stream.received, b"12U34");
    assert_eq!(steps.pair.stream.urgent, [2]);
}

#[test]
fn a_later_urgent_pointer_takes_the_place_of_one_that_was_not_reached() {
    let mut steps = Steps::established();
    send(&mut steps, 0, 9, b"1234");
    send(&mut steps, 4, 2, b"56");
    assert!(steps.pair.stream.urgent.is_empty(), "the pointer does not move back");
    send(&mut steps, 6, 5, b"78");
    send(&mut steps, 8, 3, b"9aU");
    assert_eq!(steps.pair.stream.received, b"123456789aU");
    assert_eq!(steps.pair.stream.urgent, [10]);
}

#[test]
fn an_urgent_byte_waits_with_others_for_a_host_socket_that_is_full() {
    let mut steps = Steps::established();
    steps.pair.stream.limit = 1;
    send(&mut steps, 0, 3, b"12U34");
    for _ in 0..10 {
        steps.pair.stream.drain(1);
        steps.pair.call(|connection, ctx, stream| {
            connection.on_writable(ctx, stream);
            connection.answer(ctx, stream)
        });
    }
    assert_eq!(steps.pair.stream.received, b"12U34");
    assert_eq!(steps.pair.stream.urgent, [2]);
}

/// Makes the remote peer send bytes, of which the byte at `place` is urgent.
fn world_sends_urgent(steps: &mut Steps, bytes: &[u8], place: usize) -> Vec<TcpHeader> {
    steps.pair.stream.mark = Some(place);
    steps.pair.connection.as_mut().unwrap().on_urgent();
    steps.world_sends(bytes)
}

#[test]
fn segments_up_to_an_urgent_byte_of_the_world_point_at_it() {
    let mut steps = Steps::established();
    let first = steps.snd_nxt();
    let answers = world_sends_urgent(&mut steps, b"12U34", 2);
    let seen: Vec<_> = answers.iter().map(|a| (a.seq - first, points_at(a, first))).collect();
    assert_eq!(seen, [(0, Some(2)), (2, Some(2))]);
    // Later segments have no pointer, even when they are retransmitted.
    let answers = steps.world_sends(b"56");
    assert_eq!(answers.len(), 1);
    assert_eq!(points_at(&answers[0], first), None);
    steps.segment(ACK, ISS + 1, first + 7, b"");
    let answers = steps.world_sends(b"78");
    assert_eq!((answers[0].flags.has(URG), answers[0].urgent), (false, 0));
}

#[test]
fn a_guest_that_takes_no_bytes_learns_of_an_urgent_one() {
    let mut steps = Steps::established();
    let first = steps.snd_nxt();
    let closed = TcpHeader {
        window: 0,
        ..header(ACK, ISS + 1, first)
    };
    steps.send(closed, b"");
    let answers = world_sends_urgent(&mut steps, b"12U34", 2);
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].seq, points_at(&answers[0], first)), (first, Some(2)));
}

#[test]
fn an_urgent_byte_that_arrives_between_two_reads_is_pointed_at() {
    let mut steps = Steps::established();
    let first = steps.snd_nxt();
    world_sends_urgent(&mut steps, b"U", 0);
    steps.pair.stream.arriving = b"U34".to_vec();
    // The event for these bytes does not report an urgent one.
    let answers = steps.world_sends(b"12");
    let seen: Vec<_> = answers.iter().map(|a| (a.seq - first, points_at(a, first))).collect();
    assert_eq!(seen, [(1, Some(3)), (3, Some(3))]);
}

#[test]
fn an_urgent_byte_that_was_sent_as_an_ordinary_one_is_not_pointed_at() {
    let mut steps = Steps::established();
    let first = steps.snd_nxt();
    steps.world_sends(b"12U34");
    steps.pair.stream.mark = Some(2);
    steps.pair.connection.as_mut().unwrap().on_urgent();
    let answers = steps.world_sends(b"56");
    assert_eq!(answers.len(), 1);
    assert_eq!(points_at(&answers[0], first), None);
}
