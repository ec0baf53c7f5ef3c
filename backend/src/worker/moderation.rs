//! How long the worker lets work gather while much moves.
//!
//! Each turn costs a wake-up here and an interrupt in the guest, whatever it moves. In bulk
//! fewer and longer turns are cheaper for both sides, so the worker rests between them until
//! about a [`Goal`] has gathered, as the adaptive interrupt moderation of network cards does.
//!
//! Where a window is smaller than the goal, resting makes the flow wait for itself; where turns
//! move much anyway, more than the caches hold is dearer to move. Neither can be told from
//! here, so it is tried: for some moments with rests and for some without, by turns. Rests stay
//! where they save the worker processor time and cost no speed; otherwise there are none until
//! the next trial, and each trial in vain makes the time until the next one longer.
//!
//! Only turns of large frames count as bulk: a queue of small ones runs over in a rest.

use crate::time::Instant;
use std::time::Duration;

/// Bytes of one direction in a turn from which on it is bulk,
const BULK: u64 = 64 * 1024;
/// and the mean length of their frames.
const LARGE: u64 = 4096;
/// Bytes a turn is to move, from the guest and to it: where more gained nothing, by
/// measurement. What the guest sends waits in its own memory and is not copied twice.
const GOAL: Goal = Goal {
    from_guest: 1024 * 1024,
    to_guest: 512 * 1024,
};
/// The rest becomes longer or shorter by such a part of the longest with each turn.
const STEPS: u32 = 32;
/// Shorter rests are none: a timer's own cost.
const SHORTEST: Duration = Duration::from_micros(10);
/// One moment of a trial: some turns.
const MOMENT: Duration = Duration::from_millis(2);
/// Moments of a trial, half of them with rests. What changes slowly falls on both.
const MOMENTS: u32 = 32;
/// Rests are to save one part in this many of the worker's processor time for a byte,
const GAIN: u64 = 8;
/// and rates that differ by less than one part in this many are the same.
const TOLERANCE: u64 = 32;
/// From a trial that was good until the next one.
const CONFIDENCE: Duration = Duration::from_secs(1);
/// From a trial in vain until the next one, at first and at last.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
const MOST_PATIENCE: Duration = Duration::from_secs(8);
/// After such a time without bulk nothing that is known holds any more. A flow begins without
/// rests for half of it.
const PAUSE: Duration = Duration::from_millis(32);

#[derive(Clone, Copy, Debug)]
struct Goal {
    from_guest: u64,
    to_guest: u64,
}

/// What moved in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Moved {
    /// What moved since `before`.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
        }
    }

    const fn is_bulk(self) -> bool {
        self.bytes >= BULK && self.bytes >= self.frames.saturating_mul(LARGE)
    }
}

/// Bytes, and what it took to move them.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    bytes: u64,
    time: Duration,
    /// Processor time of the worker.
    busy: Duration,
}

impl Effort {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.time += other.time;
        self.busy += other.busy;
    }

    /// Bytes in a second.
    fn rate(self) -> u64 {
        self.bytes.saturating_mul(1_000_000) / micros(self.time).max(1)
    }

    /// Nanoseconds of the worker for a megabyte.
    fn cost(self) -> u64 {
        micros(self.busy).saturating_mul(1_000_000_000) / self.bytes.max(1)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Moments with rests and without.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    moments: u32,
    with: Effort,
    without: Effort,
}

impl Trial {
    /// Whether rests are tried in this moment.
    const fn is_with(self) -> bool {
        self.moments.is_multiple_of(2)
    }

    fn add(&mut self, moment: Effort) {
        if self.is_with() {
            self.with.add(moment);
        } else {
            self.without.add(moment);
        }
        self.moments += 1;
    }

    fn is_for_rests(self) -> bool {
        let (rate, cost) = (self.without.rate(), self.without.cost());
        self.with.rate() >= rate - rate / TOLERANCE && self.with.cost() <= cost - cost / GAIN
    }
}

/// What is known of rests.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// They do no good, or it is too early to tell.
    Without,
    /// They are worth it.
    With,
    Trial(Trial),
}

/// How long to rest, and what is known of it.
#[derive(Debug)]
pub(super) struct Moderation {
    longest: Duration,
    /// How long it takes about until the goal has gathered.
    length: Duration,
    phase: Phase,
    /// When the phase ends, or the moment of the trial.
    until: Instant,
    /// When the last moment ended, and the worker's processor time until then.
    mark: (Instant, Duration),
    /// Bytes moved since.
    bytes: u64,
    /// The last turn in bulk ended then.
    last_bulk: Instant,
    /// From a trial in vain until the next one.
    patience: Duration,
}

impl Moderation {
    /// Rests for at most `longest`, and not yet. The kernel adds its timer slack to each rest,
    /// 50 µs by default.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            length: Duration::ZERO,
            phase: Phase::Without,
            until: Instant::from_nanos(0),
            mark: (Instant::from_nanos(0), Duration::ZERO),
            bytes: 0,
            last_bulk: Instant::from_nanos(0),
            patience: LEAST_PATIENCE,
        }
    }

    /// How long to rest after a turn that ended `now` and moved this; `busy` is the worker's
    /// processor time so far, asked for some hundred times a second.
    pub(super) fn rest(
        &mut self,
        now: Instant,
        [from_guest, to_guest]: [Moved; 2],
        busy: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        if self.longest.is_zero() {
            return None;
        }
        self.bytes += from_guest.bytes + to_guest.bytes;
        let is_bulk = from_guest.is_bulk() || to_guest.is_bulk();
        if is_bulk {
            if now.since(self.last_bulk) >= PAUSE {
                *self = Self {
                    until: now + PAUSE / 2,
                    ..Self::new(self.longest)
                };
            }
            self.last_bulk = now;
            if now >= self.until {
                self.go_on(now, busy());
            }
        }
        if is_bulk && self.may_rest() {
            self.adjust(from_guest, to_guest)
        } else {
            None
        }
    }

    const fn may_rest(&self) -> bool {
        match self.phase {
            Phase::Without => false,
            Phase::With => true,
            Phase::Trial(trial) => trial.is_with(),
        }
    }

    /// The next rest, a step longer or shorter as the turn moved less or more than the goal.
    fn adjust(&mut self, from_guest: Moved, to_guest: Moved) -> Option<Duration> {
        let step = self.longest / STEPS;
        let is_enough = from_guest.bytes >= GOAL.from_guest || to_guest.bytes >= GOAL.to_guest;
        self.length = if is_enough {
            self.length.saturating_sub(step)
        } else {
            (self.length + step).min(self.longest)
        };
        (self.length >= SHORTEST).then_some(self.length)
    }

    /// A phase has ended, or a moment of a trial.
    fn go_on(&mut self, now: Instant, busy: Duration) {
        let (at, busy_before) = std::mem::replace(&mut self.mark, (now, busy));
        let moment = Effort {
            bytes: std::mem::take(&mut self.bytes),
            time: now.since(at),
            busy: busy.saturating_sub(busy_before),
        };
        let length = match &mut self.phase {
            Phase::Without | Phase::With => {
                self.phase = Phase::Trial(Trial::default());
                MOMENT
            }
            Phase::Trial(trial) => {
                // Of one in which nothing was to be done for long there is nothing to learn.
                if moment.time < 2 * MOMENT {
                    trial.add(moment);
                }
                if trial.moments < MOMENTS {
                    MOMENT
                } else if trial.is_for_rests() {
                    (self.phase, self.patience) = (Phase::With, LEAST_PATIENCE);
                    CONFIDENCE
                } else {
                    let patience = self.patience;
                    (self.phase, self.patience) = (Phase::Without, (patience * 2).min(MOST_PATIENCE));
                    patience
                }
            }
        };
        self.until = now + length;
    }
}

#[cfg(test)]
#[path = "moderation_tests.rs"]
mod tests;
