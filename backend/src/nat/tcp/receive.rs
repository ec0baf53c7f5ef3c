//! The direction from the guest: segments in, bytes out to the host socket.
//!
//! All segments of one connection in a burst become one `sendmsg` directly from guest memory and one acknowledgment.
//! RCV.NXT advances by the bytes that the kernel accepted. The offered window is what the kernel is expected to accept
//! (its send queue is the only buffer), so normally nothing that the guest sends is refused.

use super::clock;
use super::connection::{Connection, Progress, Readable, Receiving, Sending, State};
use super::seq::Seq;
use super::stream::HostStream;
use super::timer::Timer;
use crate::counters::{Count, DropReason};
use crate::frame::{Gather, GatherList, GuestBurst};
use crate::nat::context::Context;
use crate::packet::{TcpFlags, TcpHeader};
use crate::sys::stream::MAX_SLICES;
use std::io;
use std::time::Duration;

/// A parsed TCP segment of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Index of the segment's frame in the burst.
    pub frame: usize,
    /// TCP header.
    pub header: TcpHeader,
    /// Offset of the payload in the frame.
    pub payload_offset: usize,
    /// Length of the payload in bytes.
    pub payload_len: usize,
}

impl Segment {
    const fn has(&self, flag: TcpFlags) -> bool {
        self.header.flags.has(flag)
    }

    /// SEG.LEN: payload plus SYN and FIN.
    pub(super) fn sequence_len(&self) -> u32 {
        let payload = u32::try_from(self.payload_len).unwrap_or(u32::MAX);
        payload + u32::from(self.has(TcpFlags::SYN)) + u32::from(self.has(TcpFlags::FIN))
    }
}

/// Totals over a run of segments.
struct Intake<'l, 'g> {
    /// Bytes to be sent to the host socket.
    run: Gather<'l, 'g>,
    /// RCV.NXT once these bytes are accepted.
    next: Seq,
    /// True if the guest's FIN follows these bytes.
    fin: bool,
    /// True if the guest has probed its peer.
    keepalive: bool,
    /// Acknowledgment number of a segment that a guest could only send in the past: it acknowledges less than the guest
    /// has acknowledged, or is older than what the guest has sent.
    past: Option<Seq>,
}

/// Runs in a row with a segment from the past, and their time, after which the guest counts as one that went back in
/// time. Fewer may have been overtaken on the way from another queue.
const RUNS_FROM_THE_PAST: u8 = 3;
const TIME_OF_THE_PAST: Duration = Duration::from_millis(500);

/// The number of runs after a reset of the device: nothing from before it is on the way, so the first segment decides.
pub(super) const AFTER_RESET: u8 = u8::MAX;

/// Divisor for the part of a send queue that is left for the kernel's overhead.
const OVERHEAD: u32 = 16;
/// A window that grew by this many bytes is announced regardless of the MSS, because a jumbo segment may be larger than
/// a host socket's queue. Growth by a quarter of that queue is announced too (RFC 9293 3.8.6.2.2). It is less than the
/// third that the kernel waits for before it reports room.
const WORTHWHILE: u32 = 8 * 1024;

/// The host socket failed, so the connection must be aborted.
struct Broken;

impl Connection {
    /// Handles segments of the guest, in the order in which they were sent.
    pub(super) fn on_segments<'s, S: HostStream>(
        &mut self,
        ctx: &mut Context<'_>,
        stream: Option<&mut S>,
        burst: &GuestBurst<'_>,
        segments: impl Iterator<Item = &'s Segment>,
        gather: &mut GatherList,
    ) -> Progress {
        let Some(stream) = stream else {
            segments.for_each(|segment| self.on_segment_without_stream(ctx, segment));
            return Progress::Done;
        };
        let mut intake = Intake {
            run: gather.start(),
            next: self.rcv_nxt,
            fin: false,
            keepalive: false,
            past: None,
        };
        for segment in segments {
            match self.state {
                State::SynSent => {
                    self.on_segment_in_syn_sent(ctx, segment);
                    intake.next = self.rcv_nxt;
                }
                State::SynReceived | State::Established => {
                    self.on_segment(ctx, segment, burst, &mut intake);
                }
                State::Connecting => self.on_segment_without_stream(ctx, segment),
                State::TimeWait | State::Closed | State::Aborted => break,
            }
            if intake.run.slices().len() > MAX_SLICES / 2 && self.hand_over(ctx, stream, &mut intake).is_err() {
                return Progress::Done;
            }
        }
        if self.hand_over(ctx, stream, &mut intake).is_err() || self.is_over() {
            return Progress::Done;
        }
        if intake.fin && self.receiving == Receiving::Open {
            self.rcv_nxt += 1;
            self.receiving = Receiving::Draining;
            self.ack_due = true;
            if matches!(self.timer, Timer::Keepalive(_)) {
                self.wait_idle(ctx.now);
            }
            if self.flush_spill(ctx, stream).is_err() {
                return Progress::Done;
            }
        }
        if intake.keepalive {
            self.on_keepalive(ctx, stream);
        }
        match intake.past {
            None => self.runs_from_the_past = 0,
            Some(ack) => self.on_past(ctx, ack),
        }
        self.answer(ctx, stream)
    }

    /// Handles a run with a segment from the past. A guest that continues from an older snapshot (`loadvm`) knows less
    /// than hawser: neither side accepts what the other one sends, and no acknowledgment changes that. The connection
    /// ends on both sides.
    fn on_past(&mut self, ctx: &mut Context<'_>, ack: Seq) {
        if self.runs_from_the_past == 0 {
            self.past_since = ctx.now;
        }
        let is_certain = if self.runs_from_the_past == AFTER_RESET {
            true
        } else {
            self.runs_from_the_past = (self.runs_from_the_past + 1).min(RUNS_FROM_THE_PAST);
            self.runs_from_the_past == RUNS_FROM_THE_PAST && ctx.now.since(self.past_since) >= TIME_OF_THE_PAST
        };
        if !is_certain || self.state != State::Established {
            return;
        }
        ctx.counters.add(Count::TcpRewound, 1);
        self.reset_at(ctx, ack);
        self.give_up(ctx);
    }

    /// Handles a segment while there is no host socket to write to. While the host connects, the guest may only abort.
    /// In TIME-WAIT its FIN is acknowledged again.
    fn on_segment_without_stream(&mut self, ctx: &mut Context<'_>, segment: &Segment) {
        match self.state {
            // RFC 5961 3.2: any other number may belong to an earlier connection.
            State::Connecting if segment.has(TcpFlags::RST) && Seq(segment.header.seq) == self.rcv_nxt => {
                self.give_up(ctx);
            }
            State::TimeWait if segment.has(TcpFlags::RST) => self.end(State::Closed),
            State::TimeWait if segment.sequence_len() > 0 => {
                self.ack_due = true;
                self.send_ack_if_due(ctx);
            }
            _ => {}
        }
    }

    /// Handles a segment in state SYN-SENT (RFC 9293 3.10.7.3).
    fn on_segment_in_syn_sent(&mut self, ctx: &mut Context<'_>, segment: &Segment) {
        let header = &segment.header;
        let has_ack = segment.has(TcpFlags::ACK);
        if has_ack && Seq(header.ack) != self.snd_nxt {
            self.disown(ctx, segment);
            return;
        }
        if segment.has(TcpFlags::RST) {
            if has_ack {
                self.give_up(ctx);
            }
            return;
        }
        if !segment.has(TcpFlags::SYN) {
            return;
        }
        self.take_syn(header);
        if has_ack {
            self.establish(ctx, Seq(header.ack));
            self.ack_due = true;
        } else {
            // Both sides have opened the connection at the same time.
            self.state = State::SynReceived;
            self.send_syn(ctx);
        }
    }

    /// While the connection opens, a segment that acknowledges anything but hawser's SYN belongs to an earlier
    /// connection in the guest. RST ends that connection (RFC 9293 3.5.1).
    fn disown(&self, ctx: &mut Context<'_>, segment: &Segment) {
        ctx.counters.count_drop(DropReason::TcpOutOfWindow);
        if !segment.has(TcpFlags::RST) {
            self.reset_at(ctx, Seq(segment.header.ack));
        }
    }

    /// Sends RST with the number that the guest expects next, as it says in an acknowledgment.
    fn reset_at(&self, ctx: &mut Context<'_>, ack: Seq) {
        let header = TcpHeader {
            seq: ack.0,
            flags: TcpFlags::RST,
            ..self.ports()
        };
        // If the guest has no buffer, its next segment is answered in the same way.
        let _ = self.emit_control(ctx, &header);
    }

    fn establish(&mut self, ctx: &Context<'_>, ack: Seq) {
        self.state = State::Established;
        self.syn_due = false;
        self.snd_una = ack;
        self.snd_wl2 = ack;
        self.retries = 0;
        self.rtt.acknowledged(ctx.now, ack);
        self.rtt.forget_back_off();
        self.wait_idle(ctx.now);
    }

    /// Follows RFC 9293 3.10.7.4 in its order: sequence number (after the timestamp of RFC 7323 5.3), RST, SYN, ACK,
    /// data, FIN.
    fn on_segment<'g>(
        &mut self,
        ctx: &mut Context<'_>,
        segment: &Segment,
        burst: &GuestBurst<'g>,
        intake: &mut Intake<'_, 'g>,
    ) {
        let header = &segment.header;
        let seq = Seq(header.seq);
        let end = seq + segment.sequence_len();
        if seq + 1 == intake.next && self.is_keepalive(segment) {
            intake.keepalive = true;
            return;
        }
        if end.before(intake.next) || seq.after(self.rcv_edge) || !self.take_timestamp(segment) {
            // The sequence number of a window probe is one less than expected, and the probe must be answered (RFC 9293
            // 3.8.6.1).
            if end + 1 != intake.next || segment.sequence_len() > 0 {
                ctx.counters.count_drop(DropReason::TcpOutOfWindow);
            }
            self.ack_due |= !segment.has(TcpFlags::RST);
            if segment.has(TcpFlags::ACK) && !segment.has(TcpFlags::RST) && self.is_from_the_past(segment) {
                intake.past = Some(Seq(header.ack));
            }
            return;
        }
        if segment.has(TcpFlags::RST) {
            // RFC 5961 3.2: only the exact number resets; others get a challenge ACK.
            if seq == intake.next {
                self.on_reset(ctx);
            } else {
                self.ack_due = true;
            }
            return;
        }
        if segment.has(TcpFlags::SYN) {
            if self.state == State::SynReceived {
                self.send_syn(ctx);
            } else {
                self.ack_due = true;
            }
            return;
        }
        if !segment.has(TcpFlags::ACK) {
            return;
        }
        if self.state == State::SynReceived {
            if Seq(header.ack) != self.snd_max {
                self.disown(ctx, segment);
                return;
            }
            self.establish(ctx, Seq(header.ack));
        }
        if segment.has(TcpFlags::URG) {
            self.on_urgent_pointer(segment, intake.next);
        }
        if Seq(header.ack).before(self.snd_una) {
            intake.past = Some(Seq(header.ack));
        }
        if self.on_ack(ctx, segment) {
            self.take_payload(ctx, segment, burst, intake);
        }
    }

    fn is_from_the_past(&self, segment: &Segment) -> bool {
        let stamp = segment.header.options.timestamps.zip(self.ts_recent);
        Seq(segment.header.ack).before(self.snd_una)
            || stamp.is_some_and(|(stamp, recent)| clock::is_older(stamp.value, recent))
    }

    /// RFC 7323 5.3: returns false for a segment older than the newest known timestamp. The echoed timestamp is that of
    /// the first segment that is not yet acknowledged (4.3).
    fn take_timestamp(&mut self, segment: &Segment) -> bool {
        let (Some(recent), Some(stamp)) = (&mut self.ts_recent, segment.header.options.timestamps) else {
            return true;
        };
        if clock::is_older(stamp.value, *recent) {
            return segment.has(TcpFlags::RST);
        }
        if !self.ack_due && !Seq(segment.header.seq).after(self.rcv_nxt) {
            *recent = stamp.value;
        }
        true
    }

    /// Handles a reset by the guest. Once both sides have sent FIN it is not an error (RFC 9293
    /// 3.10.7.4, CLOSING and LAST-ACK): a guest that has closed answers late segments with RST, and
    /// its bytes before FIN are still sent.
    ///
    /// It is also not an error if a guest that has sent FIN answers a probe with RST: its program has closed the
    /// connection and its kernel has dropped the state. The remote peer receives everything that the guest sent. After
    /// that, as from a Linux host, it receives RST only if it sends more.
    fn on_reset(&mut self, ctx: &mut Context<'_>) {
        let was_asked = self.retries > 0 && matches!(self.timer, Timer::Keepalive(_));
        match (self.sending, self.receiving) {
            (_, Receiving::Open) => self.give_up(ctx),
            (Sending::Open, _) if !was_asked => self.give_up(ctx),
            (Sending::Open, Receiving::Closed) => self.end(State::Closed),
            _ => {
                self.sending = Sending::Closed;
                self.readable = Readable::No;
                self.snd_una = self.snd_max;
                self.snd_nxt = self.snd_max;
                self.wait_idle(ctx.now);
                self.finish_if_closed(ctx.now);
            }
        }
    }

    fn take_payload<'g>(
        &mut self,
        ctx: &Context<'_>,
        segment: &Segment,
        burst: &GuestBurst<'g>,
        intake: &mut Intake<'_, 'g>,
    ) {
        if segment.sequence_len() == 0 {
            return;
        }
        self.ack_due = true;
        let seq = Seq(segment.header.seq);
        if self.receiving != Receiving::Open || intake.fin {
            ctx.counters.count_drop(DropReason::TcpOutOfWindow);
            return;
        }
        if seq.after(intake.next) {
            ctx.counters.count_drop(DropReason::TcpOutOfOrder);
            return;
        }
        let known = (intake.next.since(seq) as usize).min(segment.payload_len);
        let new = segment.payload_len - known;
        let fits = new.min(self.rcv_edge.since(intake.next) as usize);
        if fits > 0 {
            let frame = &burst[segment.frame];
            frame.gather(segment.payload_offset + known, fits, &mut intake.run);
            intake.next += u32::try_from(fits).unwrap_or(u32::MAX);
        }
        if fits < new {
            ctx.counters.count_drop(DropReason::TcpOutOfWindow);
        } else if segment.has(TcpFlags::FIN) {
            intake.fin = true;
        }
    }

    /// Writes the gathered bytes to the host socket. Bytes that the socket does not accept are kept, up to the limit.
    /// The guest retransmits the rest.
    fn hand_over(
        &mut self,
        ctx: &mut Context<'_>,
        stream: &mut impl HostStream,
        intake: &mut Intake<'_, '_>,
    ) -> Result<(), Broken> {
        let bytes = intake.run.bytes();
        if bytes == 0 || self.is_over() {
            return Ok(());
        }
        self.flush_spill(ctx, stream)?;
        if let Some(place) = self.take_urgent_among(bytes) {
            return self.hand_over_urgent(ctx, stream, intake, place);
        }
        let mut taken = 0;
        if self.spill.is_empty() {
            taken = match stream.send(intake.run.slices()) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.abort(ctx);
                    return Err(Broken);
                }
            };
        }
        if taken < bytes {
            self.window_tight = true;
            if self.spill.keep(intake.run.slices(), taken, bytes - taken) {
                ctx.counters.add(Count::TcpSpilled, (bytes - taken) as u64);
                taken = bytes;
            } else {
                // The later segments now follow a gap, so the guest sends them again.
                ctx.counters.count_drop(DropReason::TcpSocketFull);
                intake.fin = false;
            }
        }
        intake.run.clear();
        self.rcv_nxt += u32::try_from(taken).unwrap_or(u32::MAX);
        intake.next = self.rcv_nxt;
        Ok(())
    }

    /// Does the same for bytes that include an urgent byte. That byte is sent separately.
    fn hand_over_urgent(
        &mut self,
        ctx: &mut Context<'_>,
        stream: &mut impl HostStream,
        intake: &mut Intake<'_, '_>,
        place: usize,
    ) -> Result<(), Broken> {
        let bytes = intake.run.bytes();
        if self.spill.keep_urgent(intake.run.slices(), bytes, place) {
            self.rcv_nxt += u32::try_from(bytes).unwrap_or(u32::MAX);
        } else {
            ctx.counters.count_drop(DropReason::TcpSocketFull);
            intake.fin = false;
        }
        intake.run.clear();
        intake.next = self.rcv_nxt;
        self.flush_spill(ctx, stream)
    }

    /// Writes the kept bytes, followed by FIN if the guest has sent it.
    fn flush_spill(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Result<(), Broken> {
        match self.spill.flush(stream) {
            Err(_) => {
                self.abort(ctx);
                return Err(Broken);
            }
            Ok(0) => {}
            Ok(_) if self.sending == Sending::Closed => self.wait_idle(ctx.now),
            Ok(_) => {}
        }
        if self.receiving == Receiving::Draining && self.spill.is_empty() {
            self.receiving = Receiving::Closed;
            stream.shutdown_write();
            self.finish_if_closed(ctx.now);
        }
        Ok(())
    }

    /// Offers the guest the window that the host socket will accept. The right edge never moves back (RFC 9293
    /// 3.8.6.2.1 advises against it), and small increases are not offered (3.8.6.2.2, silly window).
    pub(super) fn refresh_window(&mut self, stream: &mut impl HostStream) {
        if self.receiving != Receiving::Open {
            self.window_tight = !self.spill.is_empty();
            return;
        }
        let room = stream.send_room();
        // The kernel counts overhead in addition to the payload, so part of the room is left for that.
        let bytes = if self.spill.is_empty() {
            room.bytes - room.bytes / OVERHEAD
        } else {
            0
        };
        let largest = u32::from(u16::MAX) << self.rcv_scale;
        let edge = self.rcv_nxt + bytes.min(largest);
        let step = u32::from(self.mss).min(WORTHWHILE).min(room.limit / 4);
        if edge.since(self.rcv_edge) >= step || bytes >= largest {
            self.rcv_edge = self.rcv_edge.max(edge);
        }
        self.window_tight = room.is_tight() || self.window_field() == 0 || !self.spill.is_empty();
    }

    /// Handles new room in the host socket. Sends a window update if the guest's window had been small.
    pub(super) fn on_writable(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) {
        if self.state != State::Established || !self.window_tight || self.flush_spill(ctx, stream).is_err() {
            return;
        }
        let before = self.rcv_edge;
        self.refresh_window(stream);
        self.ack_due |= self.rcv_edge != before;
    }

    /// Ends a run of segments: discards acknowledged bytes, sends what may be sent, and acknowledges the run if no sent
    /// segment has done so.
    pub(super) fn answer(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Progress {
        if self.to_discard > 0 {
            // Bytes that are not in the queue yet are still on their way from another process.
            let dropped = stream.discard(self.to_discard);
            self.to_discard -= dropped.min(self.to_discard);
        }
        if self.ack_due {
            self.refresh_window(stream);
        }
        if self.syn_due {
            self.send_syn(ctx);
        }
        let progress = self.pump(ctx, stream);
        self.send_ack_if_due(ctx);
        match self.progress() {
            Progress::Done => progress,
            starved => starved,
        }
    }

    pub(super) fn send_ack_if_due(&mut self, ctx: &mut Context<'_>) {
        if !self.ack_due || self.is_over() || self.state == State::Connecting {
            return;
        }
        let header = self.acknowledgment(ctx.now, self.snd_nxt);
        self.ack_due = self.emit_control(ctx, &header).is_err();
    }

    /// Records that the peer has closed its side, so that the stream is read to its end.
    pub(super) fn on_read_closed(&mut self) {
        if self.state != State::TimeWait && !self.is_over() {
            self.readable = Readable::UntilEnd;
        }
    }

    /// Records that bytes have arrived at the host socket.
    pub(super) fn on_readable(&mut self) {
        if self.readable == Readable::No {
            self.readable = Readable::Yes;
        }
    }
}
