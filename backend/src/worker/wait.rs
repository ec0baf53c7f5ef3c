//! The wait between two turns. The worker either polls, or sleeps with all wake-ups enabled.

use super::moderation::Moved;
use super::{EventBuffer, Link, Readiness, RingRole, Token, Transmit, Worker, clock};
use crate::counters::Count;
use crate::sys::thread_time::thread_time;
use crate::time::Instant;
use std::io;
use std::thread;
use std::time::Duration;

/// Number of bytes whose transfer takes as long as the fixed work per frame.
const FRAME: u64 = 512;

/// Totals of the worker since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    from_guest: Moved,
    to_guest: Moved,
}

/// The events of one wait.
pub(super) type Events = Vec<(Token, Readiness)>;

impl Worker {
    /// Waits until there is work.
    pub(super) fn wait(&mut self, buffer: &mut EventBuffer, events: &mut Events) -> io::Result<()> {
        let start = clock::now();
        let rest = self.take_note(start);
        let mut timeout = self.timeout(start);
        if timeout != Some(Duration::ZERO)
            && let Some(rest) = rest
        {
            thread::sleep(rest);
            if self.has_posted() {
                return self.take_events(buffer, Some(Duration::ZERO), events);
            }
            timeout = self.timeout(clock::now());
        }
        if timeout != Some(Duration::ZERO)
            && let Some(until) = self.pace.awake_until(start)
        {
            let until = timeout.map_or(until, |t| until.min(start + t));
            if self.look_out(until, buffer, events)? {
                return Ok(());
            }
            timeout = self.timeout(clock::now());
        }
        if timeout == Some(Duration::ZERO) || self.ask_for_kicks() {
            return self.take_events(buffer, Some(Duration::ZERO), events);
        }
        self.take_events(buffer, timeout, events)?;
        if !events.is_empty() {
            self.pace.woken(clock::now().since(start));
        }
        Ok(())
    }

    /// Polls until an event arrives or until `until`. True if an event arrived.
    fn look_out(&mut self, until: Instant, buffer: &mut EventBuffer, events: &mut Events) -> io::Result<bool> {
        while clock::now() < until {
            self.take_events(buffer, Some(Duration::ZERO), events)?;
            if !events.is_empty() || self.has_posted() {
                self.pace.answered();
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        self.pace.disappointed();
        Ok(false)
    }

    fn take_events(&self, buffer: &mut EventBuffer, timeout: Option<Duration>, events: &mut Events) -> io::Result<()> {
        self.poller
            .wait(buffer, timeout, |token, ready| events.push((token, ready)))
            .map(drop)
    }

    /// Records in pace and moderation the bytes moved in the turn before `now`. Returns the length of the rest. For the
    /// pace, each frame counts as [`FRAME`] additional bytes, because many small frames are bulk too.
    fn take_note(&mut self, now: Instant) -> Option<Duration> {
        let way = |frames, bytes| Moved {
            frames: self.counters.count(frames),
            bytes: self.counters.count(bytes),
        };
        let totals = Totals {
            from_guest: way(Count::TxFrames, Count::TxBytes),
            to_guest: way(Count::RxFrames, Count::RxBytes),
        };
        let before = std::mem::replace(&mut self.moved, totals);
        let out = totals.from_guest.since(before.from_guest);
        let into = totals.to_guest.since(before.to_guest);
        self.pace
            .moved(out.bytes + into.bytes + FRAME * (out.frames + into.frames));
        self.pace.passed(out.frames, into.frames);
        self.moderation.rest(now, [out, into], thread_time)
    }

    /// True if the guest has posted frames since the last turn, and they may be taken.
    fn has_posted(&mut self) -> bool {
        if self.link == Link::Down || self.from_guest.opens_at().is_some() {
            return false;
        }
        let posted = self.transmit.as_mut().is_some_and(|t| t.ring().has_available());
        self.slots[RingRole::Transmit as usize].due |= posted;
        posted
    }

    /// Enables kicks of the transmit ring. True if the guest has posted frames in the meantime.
    fn ask_for_kicks(&mut self) -> bool {
        let slot = &mut self.slots[RingRole::Transmit as usize];
        if self.link == Link::Down || slot.due {
            return false;
        }
        let Some(ring) = self
            .transmit
            .as_mut()
            .map(Transmit::ring)
            .filter(|ring| ring.is_quiet())
        else {
            return false;
        };
        match ring.enable_kicks() {
            Ok(posted) => {
                slot.due = posted;
                posted
            }
            Err(error) => {
                self.fail(RingRole::Transmit, &error);
                true
            }
        }
    }
}
