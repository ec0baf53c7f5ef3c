//! Between two turns: awake, or asleep with everybody asked to wake us.

use super::{EventBuffer, Link, Readiness, RingRole, Token, Transmit, Worker, clock};
use crate::counters::Count;
use crate::time::Instant;
use std::io;
use std::time::Duration;

/// Bytes whose moving is as much work as a frame is by itself.
const FRAME: u64 = 512;

/// What has moved, from the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    bytes: u64,
    from_guest: u64,
    to_guest: u64,
}

/// Events of one wait.
pub(super) type Events = Vec<(Token, Readiness)>;

impl Worker {
    /// Waits until there is something to do.
    pub(super) fn wait(&mut self, buffer: &mut EventBuffer, events: &mut Events) -> io::Result<()> {
        let start = clock::now();
        self.tell_pace();
        let mut timeout = self.timeout(start);
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

    /// Stays awake until something comes, or `until`; true if something came.
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

    /// Tells the pace what moved since it was told last. Each frame counts as [`FRAME`] bytes
    /// more: many small ones are bulk too.
    fn tell_pace(&mut self) {
        let count = |c| self.counters.count(c);
        let now = Moved {
            bytes: count(Count::TxBytes) + count(Count::RxBytes),
            from_guest: count(Count::TxFrames),
            to_guest: count(Count::RxFrames),
        };
        let before = std::mem::replace(&mut self.moved, now);
        let (out, into) = (now.from_guest - before.from_guest, now.to_guest - before.to_guest);
        self.pace.moved(now.bytes - before.bytes + FRAME * (out + into));
        self.pace.passed(out, into);
    }

    /// True if the guest has sent frames since the last turn that may be taken.
    fn has_posted(&mut self) -> bool {
        if self.link == Link::Down || self.from_guest.opens_at().is_some() {
            return false;
        }
        let posted = self.transmit.as_mut().is_some_and(|t| t.ring().has_available());
        self.slots[RingRole::Transmit as usize].due |= posted;
        posted
    }

    /// Asks for kicks of the transmit ring; true if the guest has posted meanwhile.
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
