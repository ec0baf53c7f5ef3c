//! Tests of single steps: closing, resets, windows. The guest is a list of segments, and each test examines the
//! answers.

use super::pair::{Conditions, GUEST, Pair, REMOTE};
use crate::counters::{Count, DropReason};
use crate::frame::testing::OwnedFrame;
use crate::nat::tcp::connection::{Progress, Receiving, Sending, State};
use crate::packet::{EtherType, EthernetHeader, Ipv4Header, MacAddr, TcpFlags, TcpHeader, TcpOptions, protocol};
use std::time::Duration;

pub(super) const ISS: u32 = 1000;
pub(super) const ACK: TcpFlags = TcpFlags::ACK;

/// A guest that sends single segments, its connection and the answers.
pub(super) struct Steps {
    pub(super) pair: Pair,
}

impl Steps {
    pub(super) fn nobody() -> Self {
        Self {
            pair: Pair::idle(Conditions::default()),
        }
    }

    /// A connection opened by the guest, established.
    pub(super) fn established() -> Self {
        let mut steps = Self::nobody();
        let syn_ack = steps.open();
        let answers = steps.segment(TcpFlags::ACK, ISS + 1, syn_ack.seq.wrapping_add(1), b"");
        assert_eq!(answers, []);
        assert_eq!(steps.state(), State::Established);
        steps
    }

    pub(super) fn open(&mut self) -> TcpHeader {
        let options = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            timestamps: None,
        };
        let answers = self.send(
            TcpHeader {
                options,
                window: 65_535,
                ..header(TcpFlags::SYN, ISS, 0)
            },
            b"",
        );
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].flags, TcpFlags::SYN | ACK);
        assert_eq!(answers[0].ack, ISS + 1);
        answers[0]
    }

    pub(super) fn segment(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) -> Vec<TcpHeader> {
        self.send(header(flags, seq, ack), payload)
    }

    pub(super) fn send(&mut self, header: TcpHeader, payload: &[u8]) -> Vec<TcpHeader> {
        self.send_all(&[(header, payload)])
    }

    /// Sends a burst.
    pub(super) fn send_all(&mut self, segments: &[(TcpHeader, &[u8])]) -> Vec<TcpHeader> {
        let frames: Vec<_> = segments
            .iter()
            .map(|(header, payload)| frame(header, payload))
            .collect();
        self.pair.take_burst(&frames);
        self.pair.answers()
    }

    pub(super) fn state(&self) -> State {
        self.pair.connection.as_ref().map_or(State::Closed, |c| c.state())
    }

    pub(super) fn halves(&self) -> (Sending, Receiving) {
        let c = self.pair.connection.as_ref().unwrap();
        (c.sending, c.receiving)
    }

    pub(super) fn snd_nxt(&self) -> u32 {
        self.pair.connection.as_ref().unwrap().snd_nxt.0
    }

    pub(super) fn world_sends(&mut self, bytes: &[u8]) -> Vec<TcpHeader> {
        self.pair.world_sends(bytes);
        self.pair.answers()
    }

    pub(super) fn world_closes(&mut self) -> Vec<TcpHeader> {
        self.pair.world_closes();
        self.pair.answers()
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<TcpHeader> {
        self.pair.around.now = self.pair.around.now + time;
        self.pair.call(|c, ctx, stream| c.on_timer(ctx, Some(stream)));
        self.pair.answers()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.pair.around.counters.dropped(reason)
    }
}

pub(super) fn header(flags: TcpFlags, seq: u32, ack: u32) -> TcpHeader {
    TcpHeader {
        src_port: 40_000,
        dst_port: 80,
        seq,
        ack,
        flags,
        window: 500,
        ..TcpHeader::default()
    }
}

/// An acknowledgment with a window of `window` units of 128 bytes.
fn granting(ack: u32, window: u16) -> TcpHeader {
    TcpHeader {
        window,
        ..header(ACK, ISS + 1, ack)
    }
}

fn frame(header: &TcpHeader, payload: &[u8]) -> OwnedFrame {
    let tcp_len = header.emitted_len() + payload.len();
    let mut bytes = vec![0; EthernetHeader::LEN + Ipv4Header::LEN + header.emitted_len()];
    EthernetHeader {
        dst: MacAddr::default(),
        src: MacAddr::default(),
        ethertype: EtherType::Ipv4,
    }
    .emit(&mut bytes);
    Ipv4Header {
        src: GUEST,
        dst: REMOTE,
        protocol: protocol::TCP,
        ttl: 64,
        tos: 0,
        dont_fragment: true,
        fragment: None,
        header_len: Ipv4Header::LEN,
        payload_len: tcp_len,
    }
    .emit(&mut bytes[EthernetHeader::LEN..]);
    header.emit(&mut bytes[EthernetHeader::LEN + Ipv4Header::LEN..], 0);
    bytes.extend(payload);
    OwnedFrame::new(bytes)
}

#[test]
fn bytes_are_acknowledged_once_the_host_took_them() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK, ISS + 1, nxt, b"hello");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ack, ISS + 6);
    assert_eq!(steps.pair.stream.received, b"hello");
}

#[test]
fn what_the_host_does_not_take_is_kept_and_goes_first() {
    let mut steps = Steps::established();
    steps.pair.stream.limit = 3;
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK | TcpFlags::FIN, ISS + 1, nxt, b"hello");
    assert_eq!(answers[0].ack, ISS + 7, "five bytes and FIN are accepted now");
    assert_eq!(steps.pair.around.counters.count(Count::TcpSpilled), 2);
    assert_eq!(steps.halves().1, Receiving::Draining);
    steps.pair.stream.limit = 10_000;
    steps.pair.call(|c, ctx, stream| {
        c.on_writable(ctx, stream);
        c.answer(ctx, stream)
    });
    assert_eq!(steps.pair.stream.received, b"hello");
    assert!(steps.pair.stream.write_closed, "FIN follows the bytes");
    assert_eq!(steps.halves().1, Receiving::Closed);
}

#[test]
fn a_hole_is_answered_with_what_is_missing() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK, ISS + 10, nxt, b"later");
    assert_eq!(answers[0].ack, ISS + 1);
    assert_eq!(steps.dropped(DropReason::TcpOutOfOrder), 1);
    assert_eq!(steps.pair.stream.received, b"");
}

#[test]
fn the_guest_half_closes_and_still_receives() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK | TcpFlags::FIN, ISS + 1, nxt, b"bye");
    assert_eq!(answers[0].ack, ISS + 5, "three bytes and FIN");
    assert!(steps.pair.stream.write_closed);
    assert_eq!(steps.halves(), (Sending::Open, Receiving::Closed));
    let data = steps.world_sends(b"still here");
    assert_eq!(data.len(), 1);
    assert_eq!(steps.segment(ACK, ISS + 5, nxt + 10, b""), []);
    let fin = steps.world_closes();
    assert!(fin[0].flags.has(TcpFlags::FIN));
    assert_eq!(steps.segment(ACK, ISS + 5, nxt + 11, b""), []);
    assert_eq!(steps.state(), State::TimeWait);
}

#[test]
fn the_world_half_closes_and_still_receives() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let fin = steps.world_closes();
    assert_eq!((fin.len(), fin[0].flags), (1, ACK | TcpFlags::FIN));
    assert_eq!(steps.segment(ACK, ISS + 1, nxt + 1, b"more")[0].ack, ISS + 5);
    assert_eq!(steps.halves(), (Sending::Closed, Receiving::Open));
    assert_eq!(steps.pair.stream.received, b"more");
    assert_eq!(
        steps.segment(ACK | TcpFlags::FIN, ISS + 5, nxt + 1, b"")[0].ack,
        ISS + 6
    );
    assert_eq!(steps.state(), State::TimeWait);
}

#[test]
fn both_close_at_once() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.world_closes();
    let answers = steps.segment(ACK | TcpFlags::FIN, ISS + 1, nxt, b"");
    assert_eq!(answers[0].ack, ISS + 2);
    assert_eq!(steps.halves(), (Sending::FinSent, Receiving::Closed), "CLOSING");
    steps.segment(ACK, ISS + 2, nxt + 1, b"");
    assert_eq!(steps.state(), State::TimeWait);
}

#[test]
fn time_wait_answers_a_late_fin_and_ends() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.world_closes();
    let fin = ACK | TcpFlags::FIN;
    steps.segment(fin, ISS + 1, nxt + 1, b"");
    assert_eq!(steps.state(), State::TimeWait);
    steps.pair.has_stream = false;
    assert_eq!(steps.segment(fin, ISS + 1, nxt + 1, b"")[0].ack, ISS + 2);
    steps.wait(Duration::from_secs(3));
    assert!(steps.pair.connection.is_none());
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let first = steps.world_closes();
    let again = steps.wait(Duration::from_secs(2));
    assert_eq!((again[0].flags, again[0].seq), (first[0].flags, first[0].seq));
    // The acknowledgment of the first FIN is late, but it still covers FIN.
    steps.segment(ACK, ISS + 1, nxt + 1, b"");
    assert_eq!(steps.halves().0, Sending::Closed);
}

#[test]
fn the_guest_resets_and_the_world_sees_it() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    assert_eq!(steps.segment(TcpFlags::RST, ISS + 1, nxt, b""), []);
    assert!(steps.pair.connection.is_none());
    assert!(steps.pair.stream.broken, "the host socket is reset, not closed");
}

#[test]
fn a_blind_reset_or_syn_is_only_challenged() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let challenge = steps.segment(TcpFlags::RST, ISS + 50, nxt, b"");
    assert_eq!(
        (challenge.len(), challenge[0].flags, challenge[0].ack),
        (1, ACK, ISS + 1)
    );
    let challenge = steps.segment(TcpFlags::SYN, ISS + 60, 0, b"");
    assert_eq!((challenge.len(), challenge[0].flags), (1, ACK));
    assert_eq!(steps.state(), State::Established);
}

#[test]
fn the_world_resets_and_the_guest_sees_it() {
    let mut steps = Steps::established();
    steps.pair.call(|c, ctx, _| {
        c.abort(ctx);
        Progress::Done
    });
    let answers = steps.pair.answers();
    assert!(answers[0].flags.has(TcpFlags::RST));
    assert_eq!(answers[0].ack, ISS + 1);
    assert_eq!(steps.pair.around.counters.count(Count::TcpResets), 1);
}

#[test]
fn a_keepalive_of_the_guest_is_answered() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK, ISS, nxt, b"");
    assert_eq!((answers.len(), answers[0].ack, answers[0].seq), (1, ISS + 1, nxt));
    assert_eq!(steps.dropped(DropReason::TcpOutOfWindow), 0);
}

#[test]
fn a_silent_guest_is_probed_after_two_hours() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    assert_eq!(steps.wait(Duration::from_secs(7000)), []);
    let probe = steps.wait(Duration::from_secs(300));
    assert_eq!((probe.len(), probe[0].seq, probe[0].flags), (1, nxt - 1, ACK));
}

#[test]
fn a_closed_window_is_probed_and_then_used() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.send(granting(nxt, 0), b"");
    assert_eq!(steps.world_sends(b"waiting"), []);
    let probe = steps.wait(Duration::from_secs(2));
    assert_eq!((probe.len(), probe[0].seq), (1, nxt - 1));
    let data = steps.send(granting(nxt, 10), b"");
    assert_eq!((data.len(), data[0].seq), (1, nxt));
}

#[test]
fn a_full_window_is_offered_again_when_the_world_reads() {
    let mut steps = Steps::established();
    steps.pair.stream.limit = 4;
    let nxt = steps.snd_nxt();
    let full = steps.segment(ACK, ISS + 1, nxt, b"1234");
    assert_eq!((full[0].ack, steps.pair.stream.received.len()), (ISS + 5, 4));
    steps.pair.stream.limit = 1_000_000;
    steps.pair.call(|c, ctx, stream| {
        c.on_writable(ctx, stream);
        c.answer(ctx, stream)
    });
    let update = steps.pair.answers();
    assert_eq!(update.len(), 1);
    assert!(update[0].window > full[0].window);
}

#[test]
fn a_probe_of_our_closed_window_is_answered() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let edge = steps.pair.connection.as_ref().unwrap().rcv_edge.0;
    let answers = steps.segment(ACK, edge, nxt, b"x");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ack, ISS + 1);
    assert_eq!(steps.pair.stream.received, b"");
}

#[test]
fn three_duplicate_acknowledgments_bring_a_segment_back_at_once() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    assert_eq!(steps.world_sends(&[7; 4000]).len(), 1, "one frame above the MTU");
    // The window is the same in each segment, which makes the segment a duplicate.
    assert_eq!(steps.segment(ACK, ISS + 1, nxt, b""), []);
    assert_eq!(steps.segment(ACK, ISS + 1, nxt, b""), []);
    let again = steps.segment(ACK, ISS + 1, nxt, b"");
    assert_eq!(again[0].seq, nxt);
    assert_eq!(steps.pair.around.counters.count(Count::TcpRetransmits), 4000);
}

#[test]
fn what_lay_beyond_a_window_that_was_taken_back_goes_with_the_next_one() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    assert_eq!(steps.world_sends(&[7; 8000]).len(), 1);
    let mut kept = nxt.wrapping_add(1460);
    assert_eq!(steps.send(granting(kept, 0), b""), [], "the rest was dropped");
    for sent in [2920, 2 * 2920] {
        let again = steps.send(granting(kept, 23), b"");
        assert_eq!(again.iter().map(|segment| segment.seq).collect::<Vec<_>>(), [kept]);
        assert_eq!(steps.pair.around.counters.count(Count::TcpRetransmits), sent);
        kept = kept.wrapping_add(2920);
    }
}

#[test]
fn a_window_that_was_rounded_down_was_not_taken_back() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.world_sends(&[7; 8000]);
    // 6540 bytes are in flight.
    assert_eq!(steps.send(granting(nxt.wrapping_add(1460), 51), b""), []);
    assert_eq!(steps.pair.around.counters.count(Count::TcpRetransmits), 0);
}

#[test]
fn urgent_bytes_stay_in_the_stream() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.segment(ACK | TcpFlags::URG, ISS + 1, nxt, b"now");
    assert_eq!(steps.pair.stream.received, b"now");
}

#[test]
fn a_guest_that_answers_may_keep_its_window_closed() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.send(granting(nxt, 0), b"");
    assert_eq!(steps.world_sends(b"waiting"), []);
    for _ in 0..100 {
        let probe = steps.wait(Duration::from_secs(61));
        assert_eq!((probe.len(), probe[0].seq), (1, nxt - 1));
        assert_eq!(steps.send(granting(nxt, 0), b""), []);
    }
    assert_eq!(steps.send(granting(nxt, 10), b"").len(), 1);
    let again = steps.wait(Duration::from_secs(2));
    assert_eq!(
        again.len(),
        1,
        "the pause between probes says nothing about the round trip"
    );
}

#[test]
fn a_pipe_that_never_runs_dry_is_measured_all_the_same() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.world_sends(&[7; 1000]);
    for i in 1..200 {
        steps.world_sends(&[7; 1000]);
        assert_eq!(steps.wait(Duration::from_millis(100)), []);
        assert_eq!(steps.segment(ACK, ISS + 1, nxt.wrapping_add(i * 1000), b""), []);
    }
    assert_eq!(steps.segment(ACK, ISS + 1, nxt.wrapping_add(200_000), b""), []);
    assert_eq!(steps.world_sends(b"lost").len(), 1);
    let again = steps.wait(Duration::from_secs(1));
    assert_eq!(again.len(), 1, "five round trips are enough to wait");
}

#[test]
fn duplicates_of_what_was_sent_again_do_not_start_it_all_over() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.world_sends(&[7; 4000]);
    steps.wait(Duration::from_secs(2));
    assert_eq!(steps.pair.around.counters.count(Count::TcpRetransmits), 4000);
    // The guest had all segments but the first. Each segment that it already had causes a duplicate acknowledgment.
    for _ in 0..5 {
        assert_eq!(steps.segment(ACK, ISS + 1, nxt.wrapping_add(1460), b""), []);
    }
    assert_eq!(steps.pair.around.counters.count(Count::TcpRetransmits), 4000);
}

#[test]
fn an_old_connection_of_the_guest_is_reset_so_that_a_new_one_can_open() {
    let mut steps = Steps {
        pair: Pair::idle_client(Conditions::default()),
    };
    steps.pair.answers();
    let answers = steps.segment(ACK, 77, 12_345, b"");
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].flags, answers[0].seq), (TcpFlags::RST, 12_345));
    assert_eq!(steps.state(), State::SynSent);
    assert_eq!(steps.segment(TcpFlags::RST | ACK, 77, 12_345, b""), [], "never for RST");
}

#[test]
fn what_acknowledges_bytes_never_sent_is_not_taken() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    let answers = steps.segment(ACK, ISS + 1, nxt + 1, b"wrong");
    assert_eq!((answers.len(), answers[0].ack), (1, ISS + 1));
    assert_eq!(steps.pair.stream.received, b"");
}

#[test]
fn a_queue_smaller_than_a_segment_is_offered_all_the_same() {
    const SMALL: usize = 1550;
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.pair.stream.limit = SMALL;
    let mut seq = ISS + 1;
    let mut window = u32::from(u16::MAX);
    while window > 0 {
        let n = window.min(1000);
        let answers = steps.segment(ACK, seq, nxt, &vec![7; n as usize]);
        seq += n;
        assert_eq!(answers[0].ack, seq);
        window = u32::from(answers[0].window) << 7;
        if seq < ISS + 65_000 {
            steps.pair.stream.drain(SMALL);
        }
    }
    steps.pair.stream.drain(SMALL);
    steps.pair.call(|c, ctx, stream| {
        c.on_writable(ctx, stream);
        c.answer(ctx, stream)
    });
    let update = steps.pair.answers();
    assert_eq!(update.len(), 1);
    assert!(update[0].window > 0);
}

#[test]
fn a_reset_after_both_fins_loses_nothing_of_what_the_guest_sent() {
    let mut steps = Steps::established();
    let nxt = steps.snd_nxt();
    steps.pair.stream.limit = 2;
    steps.world_closes();
    steps.segment(ACK | TcpFlags::FIN, ISS + 1, nxt + 1, b"last words");
    assert_eq!(steps.halves(), (Sending::Closed, Receiving::Draining));
    steps.segment(TcpFlags::RST, ISS + 12, nxt + 1, b"");
    assert!(!steps.pair.stream.broken, "the remote peer is not reset");
    steps.pair.stream.limit = 10_000;
    steps.pair.call(|c, ctx, stream| {
        c.on_writable(ctx, stream);
        c.answer(ctx, stream)
    });
    assert_eq!(steps.pair.stream.received, b"last words");
    assert!(steps.pair.stream.write_closed);
    assert_eq!(steps.state(), State::TimeWait);
}
