//! Decides whether the worker stays awake after a turn.
//!
//! In a rapid exchange of small messages, sleeping and waking take longer than the answer. So if recent answers were
//! quick, the worker polls briefly for the next one. After each unsuccessful poll it requires more quick answers before
//! it polls again, so polling never costs much. For an idle guest the worker does not poll. A guest that shares its
//! only processor with the worker cannot answer during a poll, so polling soon stops. Bulk transfers do not gain from
//! polling, because deferred work arrives in one piece. One-way traffic does not gain either, because a flood needs the
//! processor for its sender and receiver.

use crate::time::Instant;
use std::time::Duration;

/// Number of bytes in recent turns from which traffic counts as bulk. Older turns have less weight.
const BULK: u64 = 32 * 1024;
/// Maximum number of quick answers required before the worker stays awake again.
const MOST_PATIENCE: u32 = 256;

/// Number of frames in one direction, without any in the other, from which traffic counts as one-way.
const MONOLOGUE: u64 = 32;

/// A summary of recent waits.
#[derive(Debug)]
pub(super) struct Pace {
    /// Longest time to stay awake. An answer within this time is quick. Zero disables polling.
    limit: Duration,
    /// Number of bytes moved recently.
    recent: u64,
    /// Number of frames from the guest since the last frame to it.
    from_guest: u64,
    /// Number of frames to the guest since the last frame from it.
    to_guest: u64,
    /// Number of consecutive quick answers.
    quick: u32,
    /// Number of quick answers required before the worker stays awake.
    patience: u32,
}

impl Pace {
    /// A pace that keeps the worker awake for at most `limit`.
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            recent: 0,
            from_guest: 0,
            to_guest: 0,
            quick: 0,
            patience: 1,
        }
    }

    /// Records a turn that moved `bytes`. A turn without bytes is ignored, because bulk transfers contain such turns
    /// between frames and acknowledgments.
    pub(super) const fn moved(&mut self, bytes: u64) {
        if bytes > 0 {
            self.recent = self.recent - self.recent / 4 + bytes;
        }
    }

    /// Records the frames moved in a turn.
    pub(super) const fn passed(&mut self, from_guest: u64, to_guest: u64) {
        (self.from_guest, self.to_guest) = match (from_guest, to_guest) {
            (0, 0) => return,
            (out, 0) => (self.from_guest + out, 0),
            (0, into) => (0, self.to_guest + into),
            _ => (0, 0),
        };
    }

    /// Time until which to stay awake after a turn that ended at `now`.
    pub(super) fn awake_until(&self, now: Instant) -> Option<Instant> {
        let is_talking = !self.limit.is_zero() && self.quick >= self.patience && self.recent < BULK;
        let is_talking = is_talking && self.from_guest < MONOLOGUE && self.to_guest < MONOLOGUE;
        is_talking.then(|| now + self.limit)
    }

    /// Records that an event arrived while the worker was awake.
    pub(super) const fn answered(&mut self) {
        self.patience = 1;
    }

    /// Records that no event arrived while the worker was awake.
    pub(super) fn disappointed(&mut self) {
        self.quick = 0;
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
    }

    /// Records an event that arrived after `waited`, when the worker had slept for a part of that time.
    pub(super) fn woken(&mut self, waited: Duration) {
        self.quick = if waited < self.limit {
            self.quick.saturating_add(1)
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);
    const QUICK: Duration = Duration::from_micros(40);
    const NOW: Instant = Instant::from_nanos(7);

    fn stays_awake(pace: &Pace) -> bool {
        pace.awake_until(NOW) == Some(NOW + LIMIT)
    }

    #[test]
    fn it_stays_awake_after_a_quick_answer_and_not_before() {
        let mut pace = Pace::new(LIMIT);
        assert_eq!(pace.awake_until(NOW), None);
        pace.woken(Duration::from_millis(3));
        assert_eq!(pace.awake_until(NOW), None);
        pace.woken(QUICK);
        assert!(stays_awake(&pace));
        pace.answered();
        assert!(stays_awake(&pace));
    }

    #[test]
    fn each_disappointment_makes_it_more_patient_up_to_a_limit() {
        let mut pace = Pace::new(LIMIT);
        let mut wanted = vec![];
        for _ in 0..10 {
            let mut quick = 0;
            while !stays_awake(&pace) {
                pace.woken(QUICK);
                quick += 1;
            }
            wanted.push(quick);
            pace.disappointed();
        }
        assert_eq!(wanted, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]);
        (0..256).for_each(|_| pace.woken(QUICK));
        pace.answered();
        pace.disappointed();
        (0..2).for_each(|_| pace.woken(QUICK));
        assert!(stays_awake(&pace), "one answer and it polls again");
    }

    #[test]
    fn in_bulk_it_sleeps_and_some_turns_later_it_is_no_bulk_any_more() {
        let mut pace = Pace::new(LIMIT);
        pace.woken(QUICK);
        pace.moved(64 * 1024);
        pace.moved(66);
        assert_eq!(pace.awake_until(NOW), None, "an acknowledgment in between is bulk too");
        pace.moved(66);
        pace.moved(0);
        assert_eq!(pace.awake_until(NOW), None, "nor does it end in an empty turn");
        pace.moved(66);
        assert!(stays_awake(&pace));
    }

    #[test]
    fn where_only_one_side_speaks_it_sleeps_until_the_other_answers() {
        let mut pace = Pace::new(LIMIT);
        pace.woken(QUICK);
        (0..31).for_each(|_| pace.passed(0, 1));
        assert!(stays_awake(&pace));
        pace.passed(0, 1);
        assert_eq!(pace.awake_until(NOW), None);
        pace.passed(0, 0);
        assert_eq!(pace.awake_until(NOW), None, "an empty turn is ignored");
        pace.passed(1, 0);
        assert!(stays_awake(&pace));
        pace.passed(40, 0);
        assert_eq!(pace.awake_until(NOW), None);
        pace.passed(40, 40);
        assert!(stays_awake(&pace), "within a turn the order is unknown");
    }

    #[test]
    fn with_a_limit_of_zero_it_always_sleeps() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.woken(Duration::ZERO);
        assert_eq!(pace.awake_until(NOW), None);
    }
}
