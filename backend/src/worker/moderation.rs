//! How long the worker lets work gather while much moves.
//!
//! Each turn costs a wake-up here and an interrupt in the guest, whatever it moves. In bulk
//! fewer and longer turns are cheaper for both sides, so the worker rests after each, as the
//! adaptive interrupt moderation of network cards does. Too long is dearer: what moves in a
//! turn cannot be more than the windows and the rings hold. Where that begins nobody can
//! tell from here, so it is tried: a step longer or shorter for a while, and what moved more
//! is kept. Where a longer rest was worse it takes more and more patience to try it again.
//!
//! Only turns of large frames count as bulk: a queue of small ones runs over in a rest.

use crate::time::Instant;
use std::time::Duration;

/// The longest rest is reached in so many steps.
const STEPS: u32 = 3;
/// How long a rest is tried before what moved is compared.
const TRIAL: Duration = Duration::from_millis(16);
/// Rates that differ by less than one part in this many are the same.
const TOLERANCE: u64 = 32;
/// Most trials until a longer rest is tried again.
const MOST_PATIENCE: u32 = 128;
/// Bytes of one direction in a turn from which on it is bulk,
const BULK: u64 = 64 * 1024;
/// and the mean length of their frames.
const LARGE: u64 = 4096;

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

/// What a trial does differently from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Longer,
    Shorter,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Better,
    Same,
    Worse,
}

/// The rest in use, and what is known of it.
#[derive(Debug)]
pub(super) struct Moderation {
    /// The rest in use is so many `step_length`.
    step: u32,
    step_length: Duration,
    change: Change,
    /// Trials until a longer rest is tried.
    wait: u32,
    patience: u32,
    /// When the trial began.
    begun: Instant,
    /// Bytes that moved in it.
    bytes: u64,
    /// Bytes a second of the trial before.
    rate: u64,
}

impl Moderation {
    /// Rests for at most `longest`, and not yet. The kernel adds its timer slack to each rest,
    /// 50 µs by default.
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            step: 0,
            step_length: longest / STEPS,
            change: Change::None,
            wait: 0,
            patience: 1,
            begun: Instant::from_nanos(0),
            bytes: 0,
            rate: 0,
        }
    }

    /// How long to rest after a turn that ended `now` and moved this.
    pub(super) fn rest(&mut self, now: Instant, from_guest: Moved, to_guest: Moved) -> Option<Duration> {
        self.bytes += from_guest.bytes + to_guest.bytes;
        let tried = now.since(self.begun);
        if tried >= TRIAL {
            self.conclude(tried);
            (self.begun, self.bytes) = (now, 0);
        }
        let rests = self.step > 0 && (from_guest.is_bulk() || to_guest.is_bulk());
        rests.then(|| self.step_length * self.step)
    }

    fn conclude(&mut self, tried: Duration) {
        if tried >= 2 * TRIAL {
            // Nothing to do for a long time: what was known holds no more.
            *self = Self::new(self.step_length * STEPS);
            return;
        }
        let nanos = u64::try_from(tried.as_nanos()).unwrap_or(u64::MAX);
        let rate = self.bytes.saturating_mul(1_000_000) / (nanos / 1000).max(1);
        let before = std::mem::replace(&mut self.rate, rate);
        let outcome = if rate > before + before / TOLERANCE {
            Outcome::Better
        } else if rate < before - before / TOLERANCE {
            Outcome::Worse
        } else {
            Outcome::Same
        };
        self.follow(outcome);
    }

    /// Keeps what was tried or takes it back, and says what is tried next.
    fn follow(&mut self, outcome: Outcome) {
        let tried = std::mem::replace(&mut self.change, Change::None);
        match (tried, outcome) {
            (Change::Longer, Outcome::Worse) => {
                self.patience = (self.patience * 2).min(MOST_PATIENCE);
                self.wait = self.patience;
                self.step -= 1;
            }
            (Change::Shorter, Outcome::Same | Outcome::Worse) => self.step += 1,
            (Change::Shorter, Outcome::Better) | (Change::None, Outcome::Worse) if self.step > 0 => {
                self.step -= 1;
                self.change = Change::Shorter;
            }
            _ if self.wait > 0 => self.wait -= 1,
            _ if self.step < STEPS && !self.step_length.is_zero() => {
                self.step += 1;
                self.change = Change::Longer;
            }
            _ => self.patience = 1,
        }
    }
}

#[cfg(test)]
#[path = "moderation_tests.rs"]
mod tests;
