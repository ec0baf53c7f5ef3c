//! The direction to the guest: bytes of the host socket are peeked directly into the guest's receive buffers.
//!
//! SND.UNA is the front of the socket's receive queue, except for acknowledged bytes that have not arrived there (an
//! anchored connection), and SND.NXT - SND.UNA after it is the peek offset. Nothing is
//! copied or kept here: a retransmission peeks again (go back N). A guest that accepts TSO frames gets up to 64 KiB
//! under one header, whatever its MTU. The length is a multiple of the MSS, as if the guest's own stack had merged the
//! frame.

use super::connection::{Connection, Progress, Readable, Sending, State};
use super::emit::DataHeader;
use super::receive::Segment;
use super::seq::Seq;
use super::stream::HostStream;
use super::timer::Timer;
use crate::counters::{Count, DropReason};
use crate::frame::{GuestSliceMut, Layout};
use crate::nat::context::Context;
use crate::nat::link::Link;
use crate::packet::{EthernetHeader, TcpFlags, TcpHeader};
use crate::sys::stream::PeekAt;
use std::io;

/// Maximum frames per reservation.
const MAX_FRAMES: usize = 64;
/// Maximum bytes that one connection sends before others have their turn.
const TURN: usize = 256 * 1024;
/// Number of bytes to the guest from which a connection counts as bulk.
const BULK: u32 = 256 * 1024;
/// Length of the longest IP packet.
const MAX_PACKET: usize = 65_535;
/// Number of duplicate acknowledgments that indicate a lost segment (RFC 5681 3.2).
const DUP_ACK_THRESHOLD: u8 = 3;

/// The largest multiple of `mss` that is at most `bytes`, or `bytes` itself if it is less than `mss`.
const fn whole_segments(bytes: usize, mss: usize) -> usize {
    if bytes < mss { bytes } else { bytes - bytes % mss }
}

impl Connection {
    /// Processes the ACK field and window of an acceptable segment (RFC 9293 3.10.7.4, fifth step). False if the
    /// segment acknowledges bytes that were never sent. In that case the whole segment is ignored.
    pub(super) fn on_ack(&mut self, ctx: &Context<'_>, segment: &Segment) -> bool {
        let header = &segment.header;
        let ack = Seq(header.ack);
        if ack.after(self.snd_max) {
            ctx.counters.count_drop(DropReason::TcpOutOfWindow);
            self.ack_due = true;
            return false;
        }
        let window = u32::from(header.window) << self.snd_scale;
        if ack.after(self.snd_una) {
            self.on_new_ack(ctx, ack);
        } else if ack == self.snd_una
            && segment.payload_len == 0
            && window == self.snd_wnd
            && self.snd_una != self.snd_max
        {
            self.on_duplicate_ack();
        }
        let seq = Seq(header.seq);
        if !seq.before(self.snd_wl1) && !ack.before(self.snd_wl2) {
            self.snd_wnd = window;
            self.snd_wl1 = seq;
            self.snd_wl2 = ack;
            if self.is_window_taken_back() {
                self.go_back();
            }
        }
        self.on_sign_of_life(ctx);
        true
    }

    /// True if bytes are in flight beyond the window that the guest now offers. The guest drops them silently, as Linux
    /// does when a socket runs out of room. They are sent again when the guest next opens its window (RFC 9293 3.8.6),
    /// not after a time-out. A difference below the window scale's unit is rounding (RFC 7323 2.4).
    fn is_window_taken_back(&self) -> bool {
        let edge = self.snd_una + self.snd_wnd;
        self.snd_nxt.after(edge + (1 << self.snd_scale))
    }

    /// Records that the guest is alive. A guest that answers probes may keep its window closed indefinitely (RFC 9293
    /// 3.8.6.1).
    fn on_sign_of_life(&mut self, ctx: &Context<'_>) {
        match self.timer {
            Timer::Persist(_) if self.snd_wnd == 0 => self.retries = 0,
            Timer::Persist(_) | Timer::Keepalive(_) => {
                self.retries = 0;
                self.rtt.forget_back_off();
                self.wait_idle(ctx.now);
            }
            Timer::Off | Timer::Retransmit(_) | Timer::Answer { .. } | Timer::TimeWait(_) => {}
        }
    }

    fn on_new_ack(&mut self, ctx: &Context<'_>, ack: Seq) {
        let mut data = ack.since(self.snd_una);
        if self.fin_seq.is_some_and(|fin| ack.after(fin)) {
            data -= 1;
            self.sending = Sending::Closed;
        }
        self.to_discard += data;
        self.snd_una = ack;
        self.snd_nxt = self.snd_nxt.max(ack);
        self.dup_acks = 0;
        self.retries = 0;
        self.rtt.acknowledged(ctx.now, ack);
        if self.snd_una == self.snd_max {
            self.rtt.forget_back_off();
            self.wait_idle(ctx.now);
            self.finish_if_closed(ctx.now);
        } else {
            self.timer = Timer::Retransmit(ctx.now + self.rtt.timeout());
        }
    }

    fn on_duplicate_ack(&mut self) {
        self.dup_acks = self.dup_acks.saturating_add(1);
        if self.dup_acks == DUP_ACK_THRESHOLD && !self.snd_una.before(self.recover) {
            self.go_back();
        }
    }

    /// Marks everything in flight for retransmission. Segments that the guest already has cause
    /// duplicate acknowledgments, which must not start another retransmission (RFC 6582 3.2 and 4).
    fn go_back(&mut self) {
        self.recover = self.snd_max;
        self.snd_nxt = self.snd_una;
        self.rtt.retransmitted();
        if self.sending == Sending::FinSent {
            // The end of the stream appears again after the bytes before it.
            self.sending = Sending::Open;
            self.readable = Readable::UntilEnd;
        }
        self.on_readable();
    }

    /// Retransmits the bytes that are in flight.
    pub(super) fn retransmit(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Progress {
        self.go_back();
        self.timer = Timer::Retransmit(ctx.now + self.rtt.timeout());
        self.answer(ctx, stream)
    }

    /// Number of bytes that the guest's window permits now. Less than a segment is not worth sending while others are
    /// in flight (RFC 9293 3.8.6.2.1, silly window).
    fn usable_window(&self) -> usize {
        let window = (self.snd_una + self.snd_wnd).since(self.snd_nxt) as usize;
        let in_flight = self.snd_una != self.snd_nxt;
        if in_flight && window < usize::from(self.mss) {
            0
        } else {
            window
        }
    }

    /// Sends the bytes of the host socket that the guest's window permits and its buffers hold, up
    /// to the limit of a turn.
    pub(super) fn pump(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Progress {
        if self.state != State::Established {
            return Progress::Done;
        }
        if self.snd_nxt == self.snd_una && self.snd_nxt != self.snd_max {
            stream.seek_peek(self.to_discard);
        }
        if self.urgent.is_some() {
            self.seek_urgent(stream);
        }
        let mut sent = 0;
        let mut progress = Progress::More;
        while self.sending == Sending::Open && progress == Progress::More {
            if self.readable == Readable::No {
                progress = Progress::Done;
            } else if sent >= TURN {
                break;
            } else {
                progress = self.send_some(ctx, stream, &mut sent);
            }
        }
        self.arm_timer(ctx);
        if self.sending == Sending::Open {
            progress
        } else {
            Progress::Done
        }
    }

    /// True if bytes are waiting, nothing is in flight, and the guest's window is closed.
    fn is_stuck(&self) -> bool {
        self.sending == Sending::Open && self.readable != Readable::No && self.usable_window() == 0
    }

    fn arm_timer(&mut self, ctx: &Context<'_>) {
        if self.state != State::Established {
            return;
        }
        if self.snd_una != self.snd_nxt {
            if !matches!(self.timer, Timer::Retransmit(_)) {
                self.timer = Timer::Retransmit(ctx.now + self.rtt.timeout());
            }
        } else if self.is_stuck() && !matches!(self.timer, Timer::Persist(_)) {
            self.timer = Timer::Persist(ctx.now + self.rtt.timeout());
        }
    }

    /// Sends the result of one peek, at most [`MAX_FRAMES`] frames.
    fn send_some(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream, sent: &mut usize) -> Progress {
        let window = self.usable_window();
        let until_end = self.readable == Readable::UntilEnd;
        if window == 0 {
            // Only the end of the stream may pass a closed window, once no byte is left.
            return if until_end {
                self.look_for_end(ctx, stream)
            } else {
                Progress::Done
            };
        }
        let layout = self.layout(ctx, window);
        let Ok(granted) = ctx.sink.reserve(layout) else {
            return Progress::Starved;
        };
        let n = match stream.peek(self.peek_at(until_end), ctx.sink.payload_all()) {
            Ok(0) => return self.send_fin(ctx),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = Readable::No;
                return Progress::Done;
            }
            Err(_) => {
                self.abort(ctx);
                return Progress::Done;
            }
        };
        if self.urgent.is_some() {
            self.seek_urgent(stream);
        }
        let was_small = self.snd_max.since(self.iss) < BULK;
        let room = self.deliver(ctx, granted, n);
        if was_small && self.snd_max.since(self.iss) >= BULK {
            stream.widen();
        }
        *sent += n;
        if n < room && !until_end && self.urgent.is_none() {
            // The queue is empty. The poller will report new bytes.
            self.readable = Readable::No;
        }
        Progress::More
    }

    fn layout(&self, ctx: &Context<'_>, window: usize) -> Layout {
        let caps = ctx.sink.caps();
        let network = Link::header_len(self.id.remote);
        let header = network + self.acknowledgment(ctx.now, self.snd_nxt).emitted_len();
        let mss = usize::from(self.mss);
        let takes_tso = if self.id.remote.is_ipv4() { caps.tso4 } else { caps.tso6 };
        let largest = if takes_tso {
            whole_segments(MAX_PACKET + EthernetHeader::LEN - header, mss)
        } else {
            mss
        };
        let payload = whole_segments(window, mss).min(largest);
        Layout {
            header,
            payload,
            count: (window.min(TURN) / payload).clamp(1, MAX_FRAMES),
        }
    }

    /// Writes headers for the `n` bytes that the kernel wrote into `granted` frames. Returns the number of bytes for
    /// which there was room.
    fn deliver(&mut self, ctx: &mut Context<'_>, granted: usize, n: usize) -> usize {
        let mut lengths = [0; MAX_FRAMES];
        let (mut frames, mut left, mut asked) = (0, n, 0);
        for (i, length) in lengths.iter_mut().enumerate().take(granted) {
            let capacity: usize = ctx.sink.payload(i).iter().map(GuestSliceMut::len).sum();
            asked += capacity;
            if left > 0 {
                *length = capacity.min(left);
                left -= *length;
                frames = i + 1;
            }
        }
        let mut seq = self.snd_nxt;
        let data = DataHeader {
            link: ctx.link,
            src: self.id.remote,
            dst: self.id.guest,
            mss: self.mss,
            urgent: self.urgent_to_guest(),
            tcp: self.acknowledgment(ctx.now, seq),
        };
        ctx.sink.commit(&lengths[..frames], &mut |i, length, buf| {
            let is_last = i + 1 == frames && n < asked;
            let offload = data.emit(seq, length, is_last, buf);
            seq += u32::try_from(length).unwrap_or(0);
            offload
        });
        if self.snd_nxt.before(self.snd_max) {
            ctx.counters
                .add(Count::TcpRetransmits, u64::from(seq.since(self.snd_nxt)));
        } else {
            self.rtt.sent(ctx.now, seq);
        }
        self.snd_nxt = seq;
        self.snd_max = self.snd_max.max(seq);
        self.ack_due = false;
        asked
    }

    /// Checks whether the stream has ended, while the guest's window is closed.
    fn look_for_end(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Progress {
        let mut byte = [0];
        let mut room = [GuestSliceMut::from_bytes(&mut byte)];
        match stream.peek(self.peek_at(true), &mut room) {
            Ok(0) => return self.send_fin(ctx),
            // Some bytes are left, which wait for the window.
            Ok(_) => stream.seek_peek(self.to_discard + self.snd_nxt.since(self.snd_una)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.abort(ctx),
        }
        Progress::Done
    }

    fn send_fin(&mut self, ctx: &mut Context<'_>) -> Progress {
        let header = TcpHeader {
            flags: TcpFlags::FIN | TcpFlags::ACK,
            ..self.acknowledgment(ctx.now, self.snd_nxt)
        };
        if self.emit_control(ctx, &header).is_err() {
            // The end of the stream is reported again when there is room.
            self.readable = Readable::UntilEnd;
            return Progress::Starved;
        }
        self.ack_due = false;
        self.readable = Readable::No;
        self.sending = Sending::FinSent;
        self.fin_seq = Some(self.snd_nxt);
        self.snd_nxt += 1;
        if self.snd_nxt.after(self.snd_max) {
            self.rtt.sent(ctx.now, self.snd_nxt);
        }
        self.snd_max = self.snd_max.max(self.snd_nxt);
        self.timer = Timer::Retransmit(ctx.now + self.rtt.timeout());
        Progress::Done
    }

    fn peek_at(&self, peer_closed: bool) -> PeekAt {
        PeekAt {
            offset: (self.to_discard + self.snd_nxt.since(self.snd_una)) as usize,
            peer_closed,
        }
    }
}
