//! The timer of a connection, for retransmission, probes of the window and of an idle guest, and TIME-WAIT.
//!
//! A connection waits for one thing at a time, so it has one timer, whose kind states what the connection waits for.

use super::connection::{Connection, Progress, Receiving, Sending, State};
use super::receive::AFTER_RESET;
use super::stream::HostStream;
use crate::nat::context::Context;
use crate::time::Instant;
use std::time::Duration;

/// The only timer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// No timer is set.
    Off,
    /// A SYN, data or a FIN is in flight.
    Retransmit(Instant),
    /// The guest's window is closed and bytes are waiting.
    Persist(Instant),
    /// The connection is idle.
    Keepalive(Instant),
    /// The guest probed its peer at `asked`, and the peer has not answered yet.
    Answer { at: Instant, asked: Instant },
    /// TIME-WAIT ends.
    TimeWait(Instant),
}

/// Time of silence on both sides after which the guest is probed (RFC 9293 3.8.4): Linux's net.ipv4.tcp_keepalive_time.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// The same time once one side has closed. A guest whose program has closed the socket waits 60 s for the other side
/// (net.ipv4.tcp_fin_timeout), and answers the next segment with RST. A guest that has closed only one direction on
/// purpose answers with an acknowledgment.
const HALF_CLOSED: Duration = Duration::from_secs(75);
/// How long the host socket may make no progress with the last bytes of a guest that has closed. This is Linux's time
/// for an orphaned socket (net.ipv4.tcp_orphan_retries).
const DRAINING: Duration = Duration::from_secs(120);
/// Retransmissions of a segment before the connection is dropped (RFC 9293 3.8.3, R2), from net.ipv4.tcp_retries2.
pub(super) const MAX_RETRIES: u8 = 15;
/// Retransmissions of a SYN, from net.ipv4.tcp_synack_retries.
const MAX_SYN_RETRIES: u8 = 5;
/// Retransmissions of a FIN to a guest that has sent its own, from net.ipv4.tcp_orphan_retries.
const MAX_LAST_RETRIES: u8 = 8;

impl Connection {
    /// Time without activity; `None` if the connection is not idle.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        match self.timer {
            Timer::Keepalive(at) => Some(self.keepalive_delay().saturating_sub(at.since(now))),
            _ => None,
        }
    }

    /// Number of retransmissions or probes before the connection ends.
    const fn max_retries(&self) -> u8 {
        match (self.state, self.sending, self.receiving) {
            (State::SynSent | State::SynReceived, ..) => MAX_SYN_RETRIES,
            (_, Sending::FinSent, Receiving::Draining | Receiving::Closed) => MAX_LAST_RETRIES,
            _ => MAX_RETRIES,
        }
    }

    /// Time of silence after which the guest is probed.
    const fn keepalive_delay(&self) -> Duration {
        if self.is_forgotten_by_guest() {
            DRAINING
        } else if self.is_half_closed() {
            HALF_CLOSED
        } else {
            KEEPALIVE
        }
    }

    /// Sets only the keepalive timer, because nothing is in flight.
    pub(super) fn wait_idle(&mut self, now: Instant) {
        self.timer = Timer::Keepalive(now + self.keepalive_delay());
    }

    /// The time of the next [`on_timer`](Self::on_timer).
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.timer {
            Timer::Off => None,
            Timer::Retransmit(at)
            | Timer::Persist(at)
            | Timer::Keepalive(at)
            | Timer::Answer { at, .. }
            | Timer::TimeWait(at) => Some(at),
        }
    }

    /// True if the guest has closed both directions, so that probes cannot reach it.
    const fn is_forgotten_by_guest(&self) -> bool {
        matches!((self.sending, self.receiving), (Sending::Closed, Receiving::Draining))
    }

    /// Handles the expired timer. `stream` is the host socket, if it is still open.
    pub(super) fn on_timer(&mut self, ctx: &mut Context<'_>, stream: Option<&mut impl HostStream>) -> Progress {
        if self.deadline().is_none_or(|at| at > ctx.now) {
            return Progress::Done;
        }
        match (self.timer, stream) {
            (Timer::Retransmit(_), Some(stream)) => return self.on_retransmit_timer(ctx, stream),
            (Timer::Persist(_) | Timer::Keepalive(_), Some(_)) => self.on_probe_timer(ctx),
            (Timer::Answer { asked, .. }, Some(stream)) => return self.look_for_answer(ctx, stream, asked),
            (Timer::Off, _) => {}
            (Timer::TimeWait(_), _) | (_, None) => self.end(State::Closed),
        }
        Progress::Done
    }

    fn on_retransmit_timer(&mut self, ctx: &mut Context<'_>, stream: &mut impl HostStream) -> Progress {
        if self.retries >= self.max_retries() {
            self.abort(ctx);
            return Progress::Done;
        }
        self.retries += 1;
        self.rtt.back_off();
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.send_syn(ctx);
            return self.progress();
        }
        self.retransmit(ctx, stream)
    }

    /// Probes the guest with a segment from before its window. The guest must answer with an acknowledgment (RFC 9293
    /// 3.8.4), which also contains its window.
    fn on_probe_timer(&mut self, ctx: &mut Context<'_>) {
        if self.retries >= self.max_retries() || self.is_forgotten_by_guest() {
            self.abort(ctx);
            return;
        }
        self.retries += 1;
        self.rtt.back_off();
        self.probe(ctx);
        let at = ctx.now + self.rtt.timeout();
        self.timer = match self.timer {
            Timer::Persist(_) => Timer::Persist(at),
            _ => Timer::Keepalive(at),
        };
    }

    /// Sends one probe. A guest that does not have the connection answers with RST.
    fn probe(&mut self, ctx: &mut Context<'_>) {
        if self.state != State::Established {
            return;
        }
        let header = self.acknowledgment(ctx.now, self.snd_una - 1);
        let _ = self.emit_control(ctx, &header);
    }

    /// Probes, beginning at `at`, whether the guest still has the connection: at most `times` times, or as often as
    /// usual. A guest that has just started has no address yet and receives nothing. So the second probe follows soon,
    /// and the delay doubles with each further probe.
    pub(super) fn probe_from(&mut self, at: Instant, times: Option<u8>) {
        self.timer = match self.timer {
            _ if self.is_forgotten_by_guest() => return,
            Timer::Retransmit(_) => Timer::Retransmit(at),
            Timer::Persist(_) => Timer::Persist(at),
            Timer::Keepalive(_) | Timer::Answer { .. } => Timer::Keepalive(at),
            Timer::Off | Timer::TimeWait(_) => return,
        };
        self.rtt.forget_back_off();
        self.runs_from_the_past = times.map_or(0, |_| AFTER_RESET);
        if self.state == State::Established {
            self.retries = times.map_or(0, |times| self.max_retries().saturating_sub(times));
        }
    }
}
