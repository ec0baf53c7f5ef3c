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
use crate::nat::saved::{LoadError, Nanos, ensure, is_default, within};
use crate::packet::FlowId;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A connection while it moves between two processes.
///
/// Names are one letter long and usual values are left out, because a guest may have many thousands of idle connections:
/// one takes less than 200 bytes. Versions 1 and 2 had the names of the fields, and left nothing out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedConnection {
    #[serde(rename = "g", alias = "guest")]
    guest: SocketAddr,
    #[serde(rename = "r", alias = "remote")]
    remote: SocketAddr,
    #[serde(rename = "s", alias = "state", with = "SavedState")]
    #[serde(default = "established", skip_serializing_if = "is_established")]
    state: State,
    #[serde(rename = "o", alias = "sending", with = "SavedSending")]
    #[serde(default = "open_sending", skip_serializing_if = "is_open_sending")]
    sending: Sending,
    #[serde(rename = "i", alias = "receiving", with = "SavedReceiving")]
    #[serde(default = "open_receiving", skip_serializing_if = "is_open_receiving")]
    receiving: Receiving,

    #[serde(rename = "a", alias = "iss")]
    iss: Seq,
    #[serde(rename = "u", alias = "snd_una")]
    snd_una: Seq,
    /// If it is not `snd_una`. The next two are left out for the same reason.
    #[serde(rename = "n", alias = "snd_nxt", default, skip_serializing_if = "Option::is_none")]
    snd_nxt: Option<Seq>,
    #[serde(rename = "m", alias = "snd_max", default, skip_serializing_if = "Option::is_none")]
    snd_max: Option<Seq>,
    #[serde(rename = "k", alias = "snd_wl2", default, skip_serializing_if = "Option::is_none")]
    snd_wl2: Option<Seq>,
    #[serde(rename = "f", alias = "fin_seq", default, skip_serializing_if = "Option::is_none")]
    fin_seq: Option<Seq>,
    #[serde(rename = "w", alias = "snd_wnd")]
    snd_wnd: u32,
    #[serde(rename = "l", alias = "snd_wl1")]
    snd_wl1: Seq,
    #[serde(rename = "x", alias = "snd_scale")]
    snd_scale: u8,
    #[serde(rename = "y", alias = "mss")]
    mss: u16,
    /// Reading of hawser's timestamp clock for the connection.
    #[serde(rename = "c", alias = "timestamp")]
    timestamp: u32,
    #[serde(rename = "t", alias = "ts_recent", default, skip_serializing_if = "Option::is_none")]
    ts_recent: Option<u32>,

    #[serde(rename = "N", alias = "rcv_nxt")]
    rcv_nxt: Seq,
    #[serde(rename = "E", alias = "rcv_edge")]
    rcv_edge: Seq,
    #[serde(rename = "X", alias = "rcv_scale")]
    rcv_scale: u8,
    #[serde(rename = "b", alias = "spill", default, skip_serializing_if = "Option::is_none")]
    spill: Option<SavedSpill>,

    #[serde(rename = "d", alias = "readable", with = "SavedReadable")]
    #[serde(default = "nothing_readable", skip_serializing_if = "is_nothing_readable")]
    readable: Readable,
    #[serde(rename = "p", alias = "urgent", default, skip_serializing_if = "Option::is_none")]
    urgent: Option<SavedUrgent>,
    #[serde(rename = "T", alias = "window_tight", default, skip_serializing_if = "is_default")]
    window_tight: bool,
    #[serde(rename = "A", alias = "ack_due", default, skip_serializing_if = "is_default")]
    ack_due: bool,
    #[serde(rename = "S", alias = "syn_due", default, skip_serializing_if = "is_default")]
    syn_due: bool,
    /// Bytes at the front of the host socket's queue that the guest has acknowledged.
    #[serde(rename = "q", alias = "unread", default, skip_serializing_if = "is_default")]
    unread: u32,
    #[serde(rename = "D", alias = "dup_acks", default, skip_serializing_if = "is_default")]
    dup_acks: u8,
    /// If it is not `iss`.
    #[serde(rename = "R", alias = "recover", default, skip_serializing_if = "Option::is_none")]
    recover: Option<Seq>,
    #[serde(rename = "e", alias = "rtt", default, skip_serializing_if = "is_default")]
    rtt: SavedRtt,
    #[serde(rename = "z", alias = "retries", default, skip_serializing_if = "is_default")]
    retries: u8,
    /// New in version 2, as is the next one.
    #[serde(
        rename = "j",
        alias = "runs_from_the_past",
        default,
        skip_serializing_if = "is_default"
    )]
    runs_from_the_past: u8,
    /// Time since the first of them.
    #[serde(rename = "h", alias = "past_for", default, skip_serializing_if = "is_default")]
    past_for: Nanos,
    #[serde(rename = "v", alias = "timer")]
    timer: SavedTimer,
}

const fn established() -> State {
    State::Established
}

const fn is_established(state: &State) -> bool {
    matches!(state, State::Established)
}

const fn open_sending() -> Sending {
    Sending::Open
}

const fn is_open_sending(sending: &Sending) -> bool {
    matches!(sending, Sending::Open)
}

const fn open_receiving() -> Receiving {
    Receiving::Open
}

const fn is_open_receiving(receiving: &Receiving) -> bool {
    matches!(receiving, Receiving::Open)
}

const fn nothing_readable() -> Readable {
    Readable::No
}

const fn is_nothing_readable(readable: &Readable) -> bool {
    matches!(readable, Readable::No)
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
    #[serde(rename = "k", alias = "keepalive")]
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
        let fin = self.fin_seq.is_some_and(|fin| self.snd_nxt().after(fin));
        self.unread + self.snd_nxt().since(self.snd_una).saturating_sub(u32::from(fin))
    }

    fn snd_nxt(&self) -> Seq {
        self.snd_nxt.unwrap_or(self.snd_una)
    }

    fn snd_max(&self) -> Seq {
        self.snd_max.unwrap_or(self.snd_una)
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
        within("snd_max - snd_una", sent(self.snd_max()), 0..=MAX_FLIGHT)?;
        within("snd_nxt - snd_una", sent(self.snd_nxt()), 0..=sent(self.snd_max()))?;
        // FIN may be one beyond the window.
        let offered = (self.rcv_edge + 1 - self.rcv_nxt.0).0;
        let largest = u32::from(SYN_WINDOW) << self.rcv_scale;
        within("rcv_edge + 1 - rcv_nxt", offered, 0..=largest + 1)?;
        let is_last = self.fin_seq.is_none_or(|fin| fin + 1 == self.snd_max());
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
            !is_opening
                || (self.snd_una == self.iss && self.snd_max() == self.iss + syn && self.snd_nxt() == self.snd_max()),
            "more than SYN was sent before it is open",
        )?;
        ensure(
            self.sending != Sending::FinSent || (self.fin_seq.is_some() && self.snd_nxt() == self.snd_max()),
            "FIN was sent and has no number",
        )?;
        ensure(
            self.sending != Sending::Closed || self.snd_una == self.snd_max(),
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

/// `number`, if it is not the `usual` one.
fn other_than(usual: Seq, number: Seq) -> Option<Seq> {
    Some(number).filter(|number| *number != usual)
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
            snd_nxt: other_than(snd_una, snd_nxt),
            snd_max: other_than(snd_una, snd_max),
            snd_wl2: other_than(snd_una, snd_wl2),
            fin_seq,
            snd_wnd,
            snd_wl1,
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
            recover: other_than(iss, recover),
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
            snd_nxt: saved.snd_nxt(),
            snd_max: saved.snd_max(),
            fin_seq: saved.fin_seq,
            snd_wnd: saved.snd_wnd,
            snd_wl1: saved.snd_wl1,
            snd_wl2: saved.snd_wl2.unwrap_or(saved.snd_una),
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
            recover: saved.recover.unwrap_or(saved.iss),
            rtt: saved.rtt.load(now)?,
            retries: saved.retries,
            runs_from_the_past: saved.runs_from_the_past,
            past_since: saved.past_for.before(now),
            timer: saved.timer.load(now)?,
        })
    }
}
