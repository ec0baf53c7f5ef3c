//! A connection as a plain value: the guest's half without the host socket. See [`saved`](crate::nat::saved).
//!
//! The sequence numbers show how much of the host socket's queue the guest has received: the queue begins at SND.UNA
//! minus [`unread`](SavedConnection), and the bytes up to SND.NXT have been peeked
//! ([`peek_offset`](SavedConnection::peek_offset)). Bytes that were acknowledged to the guest but not accepted by the
//! host socket are part of the value, because there is no other copy.
//!
//! `save` and `load` name every field of [`Connection`], so a new field does not compile until it
//! is either saved or left out on purpose.

use super::clock::Clock;
use super::connection::{Connection, MIN_MSS, Readable, Receiving, SYN_WINDOW, Sending, State, our_mss};
use super::receive::AFTER_RESET;
use super::rtt::SavedRtt;
use super::seq::Seq;
use super::spill::{SavedSpill, Spill, SpillPool};
use super::timer::{KEEPALIVE, MAX_RETRIES, Timer};
use super::urgent::SavedUrgent;
use crate::nat::saved::{LoadError, Nanos, ensure, within};
use crate::packet::FlowId;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A connection while it moves between two processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedConnection {
    guest: SocketAddr,
    remote: SocketAddr,
    #[serde(with = "SavedState")]
    state: State,
    #[serde(with = "SavedSending")]
    sending: Sending,
    #[serde(with = "SavedReceiving")]
    receiving: Receiving,

    iss: Seq,
    snd_una: Seq,
    snd_nxt: Seq,
    snd_max: Seq,
    fin_seq: Option<Seq>,
    snd_wnd: u32,
    snd_wl1: Seq,
    snd_wl2: Seq,
    snd_scale: u8,
    mss: u16,
    /// Reading of hawser's timestamp clock for the connection.
    timestamp: u32,
    ts_recent: Option<u32>,

    rcv_nxt: Seq,
    rcv_edge: Seq,
    rcv_scale: u8,
    spill: Option<SavedSpill>,

    #[serde(with = "SavedReadable")]
    readable: Readable,
    urgent: Option<SavedUrgent>,
    window_tight: bool,
    ack_due: bool,
    syn_due: bool,
    /// Bytes at the front of the host socket's queue that the guest has acknowledged.
    unread: u32,
    dup_acks: u8,
    recover: Seq,
    rtt: SavedRtt,
    retries: u8,
    /// New in version 2, as is the next one.
    #[serde(default)]
    runs_from_the_past: u8,
    /// Time since the first of them.
    #[serde(default)]
    past_for: Nanos,
    timer: SavedTimer,
}

/// [`State`] without the two states in which there is nothing to save.
#[derive(Deserialize, Serialize)]
#[serde(remote = "State", rename_all = "kebab-case")]
enum SavedState {
    Connecting,
    SynReceived,
    SynSent,
    Established,
    TimeWait,
    #[serde(skip)]
    Closed,
    #[serde(skip)]
    Aborted,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Sending", rename_all = "kebab-case")]
enum SavedSending {
    Open,
    FinSent,
    Closed,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Receiving", rename_all = "kebab-case")]
enum SavedReceiving {
    Open,
    Draining,
    Closed,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Readable", rename_all = "kebab-case")]
enum SavedReadable {
    No,
    Yes,
    UntilEnd,
}

/// [`Timer`] with times relative to the moment of saving.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum SavedTimer {
    Off,
    Retransmit(Nanos),
    Persist(Nanos),
    Keepalive(Nanos),
    Answer {
        after: Nanos,
        /// Time since the guest's probe.
        asked: Nanos,
    },
    TimeWait(Nanos),
}

impl SavedTimer {
    fn save(timer: Timer, now: Instant) -> Self {
        let until = |at| Nanos::until(at, now);
        match timer {
            Timer::Off => Self::Off,
            Timer::Retransmit(at) => Self::Retransmit(until(at)),
            Timer::Persist(at) => Self::Persist(until(at)),
            Timer::Keepalive(at) => Self::Keepalive(until(at)),
            Timer::Answer { at, asked } => Self::Answer {
                after: until(at),
                asked: Nanos::since(asked, now),
            },
            Timer::TimeWait(at) => Self::TimeWait(until(at)),
        }
    }

    fn load(self, now: Instant) -> Result<Timer, LoadError> {
        let at = |time: Nanos| Ok::<_, LoadError>(time.at_most("timer", KEEPALIVE)?.after(now));
        Ok(match self {
            Self::Off => Timer::Off,
            Self::Retransmit(time) => Timer::Retransmit(at(time)?),
            Self::Persist(time) => Timer::Persist(at(time)?),
            Self::Keepalive(time) => Timer::Keepalive(at(time)?),
            Self::Answer { after, asked } => Timer::Answer {
                at: at(after)?,
                asked: asked.before(now),
            },
            Self::TimeWait(time) => Timer::TimeWait(at(time)?),
        })
    }
}

/// The values of the worker that loading a connection needs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub now: Instant,
    /// MTU of the guest's link.
    pub mtu: u16,
    pub spill: SpillPool,
}

/// Largest distance between two sequence numbers of one direction: the largest possible window, plus one for FIN.
const MAX_FLIGHT: u32 = ((u16::MAX as u32) << MAX_SCALE) + 1;
/// Largest window scale (RFC 7323 2.3).
const MAX_SCALE: u8 = 14;
/// Largest MSS: an IPv4 packet without options.
const MAX_MSS: u16 = u16::MAX - 40;
/// Bytes of a segment that timestamps take from the MSS.
const TIMESTAMPS: u16 = 12;

impl SavedConnection {
    /// The two endpoints, as the guest sees them.
    pub const fn id(&self) -> FlowId {
        FlowId::tcp(self.guest, self.remote)
    }

    /// True if there is a host socket. Its descriptor is then passed with the value. Only a connection in TIME-WAIT has
    /// none.
    pub fn has_socket(&self) -> bool {
        self.state != State::TimeWait
    }

    /// Number of bytes in the host socket's queue that were peeked. This is the peek offset for a socket that is
    /// created for the connection, and the minimum number of bytes in its queue, minus a FIN.
    pub fn peek_offset(&self) -> u32 {
        if self.is_opening() {
            // SYN has a number, but is not in the queue.
            return 0;
        }
        let fin = self.fin_seq.is_some_and(|fin| self.snd_nxt.after(fin));
        self.unread + self.snd_nxt.since(self.snd_una).saturating_sub(u32::from(fin))
    }

    const fn is_opening(&self) -> bool {
        !matches!(self.state, State::Established | State::TimeWait)
    }

    /// Refuses numbers that a connection of hawser cannot have.
    fn check_numbers(&self) -> Result<(), LoadError> {
        let family = |end: &SocketAddr| end.is_ipv4();
        ensure(
            family(&self.guest) == family(&self.remote),
            "its ends are of two families",
        )?;
        within("snd_scale", self.snd_scale, 0..=MAX_SCALE)?;
        within("rcv_scale", self.rcv_scale, 0..=MAX_SCALE)?;
        within("mss", self.mss, MIN_MSS - TIMESTAMPS..=MAX_MSS)?;
        within("retries", self.retries, 0..=MAX_RETRIES)?;
        within("unread", self.unread, 0..=MAX_FLIGHT)?;
        within("snd_wnd", self.snd_wnd, 0..=MAX_FLIGHT)?;
        let sent = |to: Seq| (to - self.snd_una.0).0;
        within("snd_max - snd_una", sent(self.snd_max), 0..=MAX_FLIGHT)?;
        within("snd_nxt - snd_una", sent(self.snd_nxt), 0..=sent(self.snd_max))?;
        // FIN may be one beyond the window.
        let offered = (self.rcv_edge + 1 - self.rcv_nxt.0).0;
        let largest = u32::from(SYN_WINDOW) << self.rcv_scale;
        within("rcv_edge + 1 - rcv_nxt", offered, 0..=largest + 1)?;
        let is_last = self.fin_seq.is_none_or(|fin| fin + 1 == self.snd_max);
        ensure(is_last, "something was sent after FIN")
    }

    /// Refuses combinations of states that cannot occur.
    fn check_state(&self) -> Result<(), LoadError> {
        let halves = (self.sending, self.receiving);
        let (timer_fits, halves_fit) = match self.state {
            State::Connecting => (
                self.timer == SavedTimer::Off,
                halves == (Sending::Open, Receiving::Open),
            ),
            State::SynReceived | State::SynSent => (
                matches!(self.timer, SavedTimer::Retransmit(_)),
                halves == (Sending::Open, Receiving::Open),
            ),
            State::Established => (
                !matches!(self.timer, SavedTimer::Off | SavedTimer::TimeWait(_)),
                halves != (Sending::Closed, Receiving::Closed),
            ),
            State::TimeWait => (
                matches!(self.timer, SavedTimer::TimeWait(_)),
                halves == (Sending::Closed, Receiving::Closed),
            ),
            State::Closed | State::Aborted => (false, false),
        };
        ensure(timer_fits, "its timer does not exist in its state")?;
        ensure(halves_fit, "a direction is closed too early or too late for its state")?;
        let is_opening = self.is_opening();
        let syn = u32::from(self.state != State::Connecting);
        ensure(
            !is_opening || (self.snd_una == self.iss && self.snd_max == self.iss + syn && self.snd_nxt == self.snd_max),
            "more than SYN was sent before it is open",
        )?;
        ensure(
            self.sending != Sending::FinSent || (self.fin_seq.is_some() && self.snd_nxt == self.snd_max),
            "FIN was sent and has no number",
        )?;
        ensure(
            self.sending != Sending::Closed || self.snd_una == self.snd_max,
            "FIN was acknowledged before what precedes it",
        )?;
        let keeps = self.spill.is_some();
        ensure(
            match self.receiving {
                Receiving::Open => !keeps || self.state == State::Established,
                Receiving::Draining => keeps,
                Receiving::Closed => !keeps,
            },
            "bytes are kept for the host socket in a state without any, or none in one with some",
        )
    }
}

impl Connection {
    /// Converts the connection to a plain value; `None` once it is over.
    pub(super) fn save(&self, now: Instant) -> Option<SavedConnection> {
        if self.is_over() {
            return None;
        }
        let Self {
            id,
            state,
            sending,
            receiving,
            iss,
            snd_una,
            snd_nxt,
            snd_max,
            fin_seq,
            snd_wnd,
            snd_wl1,
            snd_wl2,
            snd_scale,
            mss,
            clock,
            ts_recent,
            rcv_nxt,
            rcv_edge,
            rcv_scale,
            ref spill,
            readable,
            ref urgent,
            window_tight,
            ack_due,
            syn_due,
            to_discard,
            dup_acks,
            recover,
            ref rtt,
            retries,
            runs_from_the_past,
            past_since,
            timer,
        } = *self;
        Some(SavedConnection {
            guest: id.guest_end(),
            remote: id.remote_end(),
            state,
            sending,
            receiving,
            iss,
            snd_una,
            snd_nxt,
            snd_max,
            fin_seq,
            snd_wnd,
            snd_wl1,
            snd_wl2,
            snd_scale,
            mss,
            timestamp: clock.value(now),
            ts_recent,
            rcv_nxt,
            rcv_edge,
            rcv_scale,
            spill: spill.save(),
            readable,
            urgent: urgent.as_deref().map(SavedUrgent::from),
            window_tight,
            ack_due,
            syn_due,
            unread: to_discard,
            dup_acks,
            recover,
            rtt: rtt.save(now),
            retries,
            runs_from_the_past,
            past_for: match runs_from_the_past {
                0 | AFTER_RESET => Nanos::default(),
                _ => Nanos::since(past_since, now),
            },
            timer: SavedTimer::save(timer, now),
        })
    }

    /// Restores a saved connection, which continues where it stopped.
    ///
    /// # Errors
    /// [`LoadError`]: no connection could have been saved as this value, or the worker has no room for the bytes in it.
    pub(super) fn load(saved: &SavedConnection, place: &Place) -> Result<Self, LoadError> {
        saved.check_numbers()?;
        saved.check_state()?;
        let now = place.now;
        Ok(Self {
            id: saved.id(),
            state: saved.state,
            sending: saved.sending,
            receiving: saved.receiving,
            iss: saved.iss,
            snd_una: saved.snd_una,
            snd_nxt: saved.snd_nxt,
            snd_max: saved.snd_max,
            fin_seq: saved.fin_seq,
            snd_wnd: saved.snd_wnd,
            snd_wl1: saved.snd_wl1,
            snd_wl2: saved.snd_wl2,
            snd_scale: saved.snd_scale,
            // The MTU of the link may be smaller now.
            mss: saved.mss.min(our_mss(saved.guest.ip(), place.mtu)),
            clock: Clock::showing(saved.timestamp, now),
            ts_recent: saved.ts_recent,
            rcv_nxt: saved.rcv_nxt,
            rcv_edge: saved.rcv_edge,
            rcv_scale: saved.rcv_scale,
            spill: Spill::load(saved.spill.as_ref(), place.spill.clone())?,
            readable: saved.readable,
            urgent: saved.urgent.map(|urgent| Box::new(urgent.into())),
            // The kept bytes wait for room.
            window_tight: saved.window_tight || saved.spill.is_some(),
            ack_due: saved.ack_due,
            syn_due: saved.syn_due,
            to_discard: saved.unread,
            dup_acks: saved.dup_acks,
            recover: saved.recover,
            rtt: saved.rtt.load(now)?,
            retries: saved.retries,
            runs_from_the_past: saved.runs_from_the_past,
            past_since: saved.past_for.before(now),
            timer: saved.timer.load(now)?,
        })
    }
}
