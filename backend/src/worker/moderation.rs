//! Decides how long the worker lets work accumulate during bulk transfers.
//!
//! Each turn costs a wake-up of the worker and an interrupt in the guest, however much it moves. In bulk transfers,
//! fewer and longer turns are cheaper for both sides. So the worker rests between turns until about a [`Goal`] has
//! accumulated, like the adaptive interrupt moderation of network cards.
//!
//! If a flow's window is smaller than the goal, a rest delays the flow itself. If turns are long anyway, larger ones
//! exceed the caches and cost more per byte. The worker can detect neither directly, so it runs a trial that alternates
//! short periods with and without rests. Rests continue if they save processor time without loss of throughput.
//! Otherwise they stop until the next trial, and each failed trial lengthens the time to the next one.
//!
//! Only turns with large frames count as bulk, because a queue of small frames would overflow during a rest.

use crate::time::Instant;
use std::time::Duration;

/// Minimum number of bytes in one direction for which a turn counts as bulk.
const BULK: u64 = 64 * 1024;
/// Minimum mean frame length in that direction for which a turn counts as bulk.
const LARGE: u64 = 4096;
/// Number of bytes that a turn should move from and to the guest. Measurements showed no gain beyond this. Frames from
/// the guest wait in guest memory and are not copied twice.
const GOAL: Goal = Goal {
    from_guest: 1024 * 1024,
    to_guest: 512 * 1024,
};
/// Divisor of the longest rest. The result is the step by which each turn lengthens or shortens the rest.
const STEPS: u32 = 32;
/// Rests shorter than this are skipped, because a timer costs as much.
const SHORTEST: Duration = Duration::from_micros(10);
/// Length of one period of a trial, in which there are several turns.
const MOMENT: Duration = Duration::from_millis(2);
/// Number of periods of a trial. Half of them have rests. Slow changes of load affect both halves equally.
const MOMENTS: u32 = 32;
/// Rests must save at least one part in this many of the worker's processor time per byte.
const GAIN: u64 = 8;
/// Rates that differ by less than one part in this many count as equal.
const TOLERANCE: u64 = 32;
/// Time from a successful trial to the next one.
const CONFIDENCE: Duration = Duration::from_secs(1);
/// Initial and maximum time from a failed trial to the next one.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
const MOST_PATIENCE: Duration = Duration::from_secs(8);
/// After this time without bulk, earlier results are discarded. A flow starts without rests for half this time.
const PAUSE: Duration = Duration::from_millis(32);

#[derive(Clone, Copy, Debug)]
struct Goal {
    from_guest: u64,
    to_guest: u64,
}

/// Frames and bytes moved in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Moved {
    /// The frames and bytes moved since `before`.
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

/// Bytes moved, and the time that this took.
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

    /// Throughput in bytes per second.
    fn rate(self) -> u64 {
        self.bytes.saturating_mul(1_000_000) / micros(self.time).max(1)
    }

    /// Cost in nanoseconds of the worker per megabyte.
    fn cost(self) -> u64 {
        micros(self.busy).saturating_mul(1_000_000_000) / self.bytes.max(1)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A comparison of periods with and without rests.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    moments: u32,
    with: Effort,
    without: Effort,
}

impl Trial {
    /// True if rests are tried in this period.
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

/// The current verdict on rests.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// There are no rests, because they do not pay or were not tried yet.
    Without,
    /// There are rests, because they pay.
    With,
    Trial(Trial),
}

/// Length of rests, and the state of the trials.
#[derive(Debug)]
pub(super) struct Moderation {
    longest: Duration,
    /// Approximate time in which the goal accumulates.
    length: Duration,
    phase: Phase,
    /// End of the phase, or of the trial's current period.
    until: Instant,
    /// End of the last period, and the worker's processor time at that moment.
    mark: (Instant, Duration),
    /// Number of bytes moved since `mark`.
    bytes: u64,
    /// End of the last bulk turn.
    last_bulk: Instant,
    /// Time from a failed trial to the next one.
    patience: Duration,
}

impl Moderation {
    /// Creates a moderation that starts without rests. Later rests last at most `longest`. The kernel adds its timer
    /// slack to each rest, 50 µs by default.
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

    /// Length of the rest after a turn that ended at `now` and moved these bytes. `busy` returns the worker's processor
    /// time so far and is called some hundred times a second.
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
                self.end_phase(now, busy());
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

    /// The next rest. It is a step longer if the turn moved less than the goal, and a step shorter if it moved more.
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

    /// Handles the end of a phase, or of a period of a trial.
    fn end_phase(&mut self, now: Instant, busy: Duration) {
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
                // A period that was mostly idle is not counted.
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
