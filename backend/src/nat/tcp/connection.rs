//! A TCP connection of the guest: its state and variables, and how it opens and closes.
//!
//! Hawser is the guest's peer. Towards the guest it is a full RFC 9293 endpoint; towards the network it is an
//! application with a socket. The two directions are independent. Bytes from the guest are acknowledged when the host
//! socket has accepted them (`receive.rs`). Bytes for the guest stay in the host socket until the guest acknowledges
//! them (`transmit.rs`).
//!
//! RFC 9293 states map to [`State`], [`Sending`] and [`Receiving`]:
//! ESTABLISHED = (Open, Open); CLOSE-WAIT = (Open, Closed); FIN-WAIT-1 = (FinSent,
//! Open); FIN-WAIT-2 = (Closed, Open); CLOSING and LAST-ACK = (FinSent, Closed);
//! TIME-WAIT = [`State::TimeWait`]. LISTEN has no connection.

use super::clock::Clock;
use super::rtt::RttEstimator;
use super::seq::Seq;
use super::spill::{Spill, SpillPool};
use super::timer::Timer;
use super::urgent::{self, Urgent};
use crate::frame::NoRoom;
use crate::nat::context::Context;
use crate::packet::{FlowId, TcpFlags, TcpHeader, TcpOptions, Timestamps};
use crate::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

/// Phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The guest has sent SYN and waits while the host socket connects.
    Connecting,
    /// SYN-RECEIVED: hawser has answered the guest's SYN.
    SynReceived,
    /// SYN-SENT: a client of the host was accepted, and the guest has not answered SYN yet.
    SynSent,
    /// Data may flow; see [`Sending`] and [`Receiving`].
    Established,
    /// Both directions are closed. Late segments of the guest are still answered.
    TimeWait,
    /// The connection has ended. The host socket must be closed.
    Closed,
    /// The connection has ended. The host socket must be reset, so that its peer sees RST.
    Aborted,
}

/// The direction to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// More bytes may follow.
    Open,
    /// FIN was sent but not acknowledged.
    FinSent,
    /// FIN was acknowledged.
    Closed,
}

/// The direction from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// More bytes may follow.
    Open,
    /// The guest's FIN was accepted. It is forwarded after the bytes that the host socket has not accepted yet.
    Draining,
    /// The guest's FIN was accepted and forwarded.
    Closed,
}

/// Result of a call that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    /// Everything that can be sent now has been sent.
    Done,
    /// There is more to send, once other connections have had their turn.
    More,
    /// The guest has no receive buffers.
    Starved,
}

/// What is known about bytes in the host socket's receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    /// There are none until the poller reports some.
    No,
    /// There may be some.
    Yes,
    /// The peer has closed its side: read until the end of the stream.
    UntilEnd,
}

/// Duration of TIME-WAIT. The link to the guest is memory, so no segment stays on it for long.
const TIME_WAIT: Duration = Duration::from_secs(2);
/// Number of SYN retransmissions, after 1 s and 3 s, during which the guest may merely be slow.
const SLOW_TO_OPEN: u8 = 2;
/// Window scale of hawser (RFC 7323 2.2). It allows windows up to 8 MiB, above the kernel's default limit of 4.
const WINDOW_SCALE: u8 = 7;
/// MSS of a peer that does not send one (RFC 9293 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// One connection. Field names are those of RFC 9293 where it has one.
///
/// A state machine that owns no socket, registers nothing and reads no clock. Its owner, [`TcpFlows`](super::TcpFlows),
/// reports events to it, lends it the host socket ([`HostStream`](super::stream::HostStream)) and carries out its
/// requests. There are five kinds of calls:
///
/// 1. Creation: [`from_guest`](Self::from_guest) for a SYN of the guest. The owner connects the host socket, then calls
///    [`on_connected`](Self::on_connected), or [`abort`](Self::abort) or [`refuse`](Self::refuse) if that fails.
///    [`to_guest`](Self::to_guest) for an accepted client, which sends the SYN itself.
/// 2. Segments of the guest: [`on_segments`](Self::on_segments) with a run of them in order, which
///    it answers as a whole.
/// 3. Events of the host socket: [`on_readable`](Self::on_readable),
///    [`on_read_closed`](Self::on_read_closed), [`on_writable`](Self::on_writable) only record the
///    event; [`answer`](Self::answer) then moves bytes.
/// 4. Time: [`on_timer`](Self::on_timer), once [`deadline`](Self::deadline) is reached. There is
///    one timer.
/// 5. Room: a call that returned [`Progress::More`] or [`Progress::Starved`] is continued by
///    `answer`, in the first case after other connections had their turn, in the second once the
///    guest has posted buffers.
///
/// After each call the owner reads [`state`](Self::state) ([`State::Closed`]: close the host
/// socket; [`State::Aborted`]: reset it, so that its peer sees RST) and the deadline. No call
/// blocks, and none allocates, except for bytes that the host socket does not accept ([`Spill`]).
#[derive(Debug)]
pub(super) struct Connection {
    /// The two endpoints, as the guest sees them.
    pub id: FlowId,
    pub(super) state: State,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,

    pub(super) iss: Seq,
    pub(super) snd_una: Seq,
    pub(super) snd_nxt: Seq,
    /// Highest sequence number ever sent. A retransmission moves `snd_nxt` back behind it.
    pub(super) snd_max: Seq,
    /// Sequence number of hawser's FIN, once it has been sent.
    pub(super) fin_seq: Option<Seq>,
    pub(super) snd_wnd: u32,
    pub(super) snd_wl1: Seq,
    pub(super) snd_wl2: Seq,
    pub(super) snd_scale: u8,
    /// Payload bytes per segment that the guest accepts, not counting the options.
    pub(super) mss: u16,
    pub(super) clock: Clock,
    /// The guest's timestamp to echo (TS.Recent), if both SYNs had the option.
    pub(super) ts_recent: Option<u32>,

    pub(super) rcv_nxt: Seq,
    /// Right edge of the last offered window (RCV.NXT + RCV.WND). It never moves back.
    pub(super) rcv_edge: Seq,
    pub(super) rcv_scale: u8,
    /// Bytes before RCV.NXT that the host socket has not accepted yet.
    pub(super) spill: Spill,

    pub(super) readable: Readable,
    /// True once either side has used urgent data. A short read may then have stopped at the urgent mark instead of the
    /// end of the queue.
    pub(super) urgent: Option<Box<Urgent>>,
    /// True if the offered window is small because the host socket is nearly full.
    pub(super) window_tight: bool,
    /// True if an acknowledgment must be sent.
    pub(super) ack_due: bool,
    /// True if a SYN could not be sent because the guest had no buffer.
    pub(super) syn_due: bool,
    /// Bytes that the guest has acknowledged and that are still in the host socket's queue.
    pub(super) to_discard: u32,
    pub(super) dup_acks: u8,
    /// No further fast retransmission takes place until this is acknowledged (RFC 6582 recover).
    pub(super) recover: Seq,
    pub(super) rtt: RttEstimator,
    pub(super) retries: u8,
    /// Runs of segments in a row that a guest could only send in the past.
    pub(super) runs_from_the_past: u8,
    /// Time of the first of them.
    pub(super) past_since: Instant,
    pub(super) timer: Timer,
}

/// Parameters of a new connection.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// The two endpoints, as the guest sees them.
    pub id: FlowId,
    /// Initial sequence number of hawser.
    pub iss: Seq,
    /// Clock of hawser's timestamps.
    pub clock: Clock,
    /// MTU of the guest's link.
    pub mtu: u16,
    /// Pool for bytes that the host socket does not accept immediately.
    pub spill: SpillPool,
}

impl Connection {
    fn new(opening: &Opening, state: State) -> Self {
        let iss = opening.iss;
        Self {
            id: opening.id,
            state,
            sending: Sending::Open,
            receiving: Receiving::Open,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            fin_seq: None,
            snd_wnd: 0,
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            snd_scale: 0,
            mss: our_mss(opening.id.guest, opening.mtu),
            clock: opening.clock,
            ts_recent: None,
            rcv_nxt: Seq(0),
            rcv_edge: Seq(0),
            rcv_scale: 0,
            spill: Spill::new(opening.spill.clone()),
            readable: Readable::No,
            urgent: None,
            window_tight: false,
            ack_due: false,
            syn_due: false,
            to_discard: 0,
            dup_acks: 0,
            recover: iss,
            rtt: RttEstimator::default(),
            retries: 0,
            runs_from_the_past: 0,
            past_since: Instant::default(),
            timer: Timer::Off,
        }
    }

    /// Creates a connection for the guest's SYN. It is answered once the host socket is connected.
    pub(super) fn from_guest(opening: &Opening, syn: &TcpHeader) -> Self {
        let mut connection = Self::new(opening, State::Connecting);
        connection.take_syn(syn);
        connection
    }

    /// Creates a connection for an accepted client of the host, and sends SYN to the guest.
    pub(super) fn to_guest(opening: &Opening, ctx: &mut Context<'_>) -> Self {
        let mut connection = Self::new(opening, State::SynSent);
        connection.rcv_scale = WINDOW_SCALE;
        connection.send_syn(ctx);
        connection
    }

    /// State of the connection.
    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// True if the connection has ended and its slot may be freed.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Aborted)
    }

    /// True if the guest has finished its stream, and the host socket has all of it.
    pub(super) const fn has_forwarded_fin(&self) -> bool {
        matches!(self.receiving, Receiving::Closed)
    }

    /// True if at least one direction has ended and the host socket is still open.
    pub(super) const fn is_half_closed(&self) -> bool {
        let is_open = matches!((self.sending, self.receiving), (Sending::Open, Receiving::Open));
        matches!(self.state, State::Established) && !is_open
    }

    /// True if the guest has not answered a retransmission or a probe.
    pub(super) const fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Established) && self.retries > 0
    }

    /// True if the guest has not answered SYN for seconds: the third one has been sent.
    pub(super) fn is_slow_to_open(&self) -> bool {
        self.state == State::SynSent && self.retries >= SLOW_TO_OPEN
    }

    /// True if an acknowledgment or SYN could not be sent because the guest had no buffer. The table schedules the
    /// connection when buffers are available; no timer is involved.
    pub(super) const fn progress(&self) -> Progress {
        if self.ack_due || self.syn_due {
            Progress::Starved
        } else {
            Progress::Done
        }
    }

    /// True if the poller must report when the host socket has room again.
    pub(super) const fn is_window_tight(&self) -> bool {
        self.window_tight
    }

    /// Adopts the values of a SYN: sequence number, MSS, window scale, timestamps.
    pub(super) fn take_syn(&mut self, syn: &TcpHeader) {
        self.rcv_nxt = Seq(syn.seq) + 1;
        self.rcv_edge = self.rcv_nxt + u32::from(SYN_WINDOW);
        let ours = self.mss;
        self.mss = syn.options.mss.unwrap_or(DEFAULT_MSS).clamp(MIN_MSS, ours);
        // RFC 7323 1.3: scaling is used only if both SYNs have the option.
        if let Some(shift) = syn.options.window_scale {
            self.snd_scale = shift;
            self.rcv_scale = WINDOW_SCALE;
        } else {
            self.snd_scale = 0;
            self.rcv_scale = 0;
        }
        self.ts_recent = syn.options.timestamps.map(|t| t.value);
        if self.ts_recent.is_some() {
            // The MSS of a SYN does not account for options (RFC 6691).
            self.mss -= u16::try_from(Timestamps::EMITTED_LEN).unwrap_or_default();
        }
        self.snd_wnd = u32::from(syn.window);
        self.snd_wl1 = Seq(syn.seq);
    }

    /// Answers the guest's SYN once the host socket is connected. Sockets are watched from the start, so waiting bytes
    /// have already raised an event, as after [`to_guest`](Self::to_guest).
    pub(super) fn on_connected(&mut self, ctx: &mut Context<'_>) {
        debug_assert_eq!(self.state, State::Connecting);
        self.state = State::SynReceived;
        self.send_syn(ctx);
    }

    /// Sends or retransmits SYN, or SYN and ACK.
    pub(super) fn send_syn(&mut self, ctx: &mut Context<'_>) {
        let (flags, ack, echo) = match self.state {
            State::SynReceived => (TcpFlags::SYN | TcpFlags::ACK, self.rcv_nxt.0, self.ts_recent),
            _ => (TcpFlags::SYN, 0, Some(0)),
        };
        let options = TcpOptions {
            mss: Some(our_mss(self.id.guest, ctx.link.mtu)),
            window_scale: (self.rcv_scale != 0).then_some(self.rcv_scale),
            timestamps: echo.map(|echo| self.clock.stamp(ctx.now, echo)),
        };
        let header = TcpHeader {
            seq: self.iss.0,
            ack,
            flags,
            window: SYN_WINDOW,
            options,
            ..self.ports()
        };
        self.syn_due = self.emit_control(ctx, &header).is_err();
        self.snd_nxt = self.iss + 1;
        self.snd_max = self.snd_max.max(self.snd_nxt);
        if self.retries == 0 {
            self.rtt.sent(ctx.now, self.snd_nxt);
        } else {
            self.rtt.retransmitted();
        }
        self.timer = Timer::Retransmit(ctx.now + self.rtt.timeout());
    }

    /// Sends RST to the guest because the host socket failed or the connection is dropped.
    pub(super) fn abort(&mut self, ctx: &mut Context<'_>) {
        if self.is_over() {
            return;
        }
        let header = TcpHeader {
            // RFC 9293 3.10.7.1: a reset that answers SYN has sequence number 0.
            seq: if self.state == State::Connecting {
                0
            } else {
                self.snd_nxt.0
            },
            ack: self.rcv_nxt.0,
            flags: TcpFlags::RST | TcpFlags::ACK,
            ..self.ports()
        };
        // If the guest has no buffer, RST is the answer to its next segment.
        let _ = self.emit_control(ctx, &header);
        self.give_up(ctx);
    }

    /// Ends the connection without a segment to the guest, which has reset it or no longer answers.
    pub(super) fn give_up(&mut self, ctx: &Context<'_>) {
        ctx.counters.add(crate::counters::Count::TcpResets, 1);
        self.end(State::Aborted);
    }

    /// Ends a connection for which the host could not connect. The guest has received an ICMP error, or it gets no
    /// answer.
    pub(super) fn refuse(&mut self) {
        self.end(State::Closed);
    }

    pub(super) fn end(&mut self, state: State) {
        self.state = state;
        self.timer = Timer::Off;
        self.ack_due = false;
        self.syn_due = false;
        self.readable = Readable::No;
    }

    /// Enters TIME-WAIT when both directions are closed.
    pub(super) fn finish_if_closed(&mut self, now: Instant) {
        if self.sending == Sending::Closed && self.receiving == Receiving::Closed {
            self.state = State::TimeWait;
            self.readable = Readable::No;
            self.window_tight = false;
            self.timer = Timer::TimeWait(now + TIME_WAIT);
        }
    }

    /// The guest's SYN, rebuilt from the connection's variables to be quoted in an ICMP error.
    pub(super) fn syn(&self) -> [u8; TcpHeader::LEN] {
        let header = TcpHeader {
            src_port: self.id.guest_port,
            dst_port: self.id.remote_port,
            seq: (self.rcv_nxt - 1).0,
            flags: TcpFlags::SYN,
            ..TcpHeader::default()
        };
        let mut bytes = [0; TcpHeader::LEN];
        header.emit(&mut bytes, 0);
        bytes
    }

    pub(super) fn ports(&self) -> TcpHeader {
        TcpHeader {
            src_port: self.id.remote_port,
            dst_port: self.id.guest_port,
            ..TcpHeader::default()
        }
    }

    /// A segment with sequence number `seq` that acknowledges everything received so far.
    pub(super) fn acknowledgment(&self, now: Instant, seq: Seq) -> TcpHeader {
        let urgent = self.urgent_to_guest().and_then(|byte| urgent::pointer(byte, seq));
        TcpHeader {
            seq: seq.0,
            ack: self.rcv_nxt.0,
            flags: if urgent.is_some() {
                TcpFlags::ACK | TcpFlags::URG
            } else {
                TcpFlags::ACK
            },
            urgent: urgent.unwrap_or_default(),
            window: self.window_field(),
            options: TcpOptions {
                timestamps: self.ts_recent.map(|echo| self.clock.stamp(now, echo)),
                ..TcpOptions::default()
            },
            ..self.ports()
        }
    }

    /// The window field for a segment that is sent now.
    pub(super) fn window_field(&self) -> u16 {
        let window = self.rcv_edge.since(self.rcv_nxt) >> self.rcv_scale;
        u16::try_from(window).unwrap_or(u16::MAX)
    }

    /// Sends a segment without data.
    pub(super) fn emit_control(&self, ctx: &mut Context<'_>, header: &TcpHeader) -> Result<(), NoRoom> {
        super::emit::control(ctx, self.id.remote, self.id.guest, header)
    }
}

/// Smallest MSS accepted from a guest: the minimum MTU of RFC 791 minus headers and options.
pub(super) const MIN_MSS: u16 = 88;
/// Window in a SYN. It is never scaled, and is below the queue size of any host socket.
pub(super) const SYN_WINDOW: u16 = u16::MAX;

/// The MSS that hawser announces: the payload that fits into the guest's MTU.
pub(super) fn our_mss(guest: IpAddr, mtu: u16) -> u16 {
    const IPV4_AND_TCP: u16 = 40;
    const IPV6_AND_TCP: u16 = 60;
    let headers = if guest.is_ipv4() { IPV4_AND_TCP } else { IPV6_AND_TCP };
    mtu.saturating_sub(headers).max(MIN_MSS)
}
