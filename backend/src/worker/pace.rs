//! Whether the worker stays awake after a turn.
//!
//! In a conversation of small messages sleeping and waking take longer than the answer
//! does. Where the last answers came quickly the worker therefore looks out for the next
//! one for a moment. Where that was in vain it wants to see more and more quick answers
//! before it tries again, so that nobody pays for long: not an idle guest, which is never
//! looked out for, nor one that shares its only processor with us and cannot answer while
//! we look. In bulk there is nothing to gain: what was put off comes in one piece. Nor
//! where only one side speaks: a flood needs the processor for those it comes from and
//! goes to.

use crate::time::Instant;
use std::time::Duration;

/// Bytes of the last turns, older ones counted less and less, from which on it is bulk.
const BULK: u64 = 32 * 1024;
/// Most quick answers to be seen before the worker stays awake again.
const MOST_PATIENCE: u32 = 256;

/// Frames one way, none the other way between them, from which on it is no conversation.
const MONOLOGUE: u64 = 32;

/// What the last waits were like.
#[derive(Debug)]
pub(super) struct Pace {
    /// How long to stay awake; an answer within it is a quick one. Zero: never.
    limit: Duration,
    /// Bytes moved lately.
    recent: u64,
    /// Frames from the guest since the last one to it.
    from_guest: u64,
    /// Frames to the guest since the last one from it.
    to_guest: u64,
    /// Quick answers, one after the other.
    quick: u32,
    /// Quick answers wanted before the worker stays awake.
    patience: u32,
}

impl Pace {
    /// Stays awake for at most `limit`.
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

    /// A turn that moved `bytes` has ended. One that moved nothing says nothing: between two
    /// frames of a bulk transfer are some, and acknowledgments.
    pub(super) const fn moved(&mut self, bytes: u64) {
        if bytes > 0 {
            self.recent = self.recent - self.recent / 4 + bytes;
        }
    }

    /// Frames that moved in a turn.
    pub(super) const fn passed(&mut self, from_guest: u64, to_guest: u64) {
        (self.from_guest, self.to_guest) = match (from_guest, to_guest) {
            (0, 0) => return,
            (out, 0) => (self.from_guest + out, 0),
            (0, into) => (0, self.to_guest + into),
            _ => (0, 0),
        };
    }

    /// Until when to stay awake after a turn that ended `now`.
    pub(super) fn awake_until(&self, now: Instant) -> Option<Instant> {
        let is_talking = !self.limit.is_zero() && self.quick >= self.patience && self.recent < BULK;
        let is_talking = is_talking && self.from_guest < MONOLOGUE && self.to_guest < MONOLOGUE;
        is_talking.then(|| now + self.limit)
    }

    /// Something came while the worker was awake.
    pub(super) const fn answered(&mut self) {
        self.patience = 1;
    }

    /// Nothing came while the worker was awake.
    pub(super) fn disappointed(&mut self) {
        self.quick = 0;
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
    }

    /// Something came after `waited`, for some of which the worker slept.
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
        assert!(stays_awake(&pace), "one answer and it trusts again");
    }

    #[test]
    fn in_bulk_it_sleeps_and_some_turns_later_it_is_no_bulk_any_more() {
        let mut pace = Pace::new(LIMIT);
        pace.woken(QUICK);
        pace.moved(64 * 1024);
        pace.moved(66);
        assert_eq!(pace.awake_until(NOW), None, "an acknowledgment between is bulk too");
        pace.moved(66);
        pace.moved(0);
        assert_eq!(pace.awake_until(NOW), None, "nor does it end where nothing moves");
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
        assert_eq!(pace.awake_until(NOW), None, "a turn that moved nothing says nothing");
        pace.passed(1, 0);
        assert!(stays_awake(&pace));
        pace.passed(40, 0);
        assert_eq!(pace.awake_until(NOW), None);
        pace.passed(40, 40);
        assert!(stays_awake(&pace), "within a turn the order is not known");
    }

    #[test]
    fn with_a_limit_of_zero_it_always_sleeps() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.woken(Duration::ZERO);
        assert_eq!(pace.awake_until(NOW), None);
    }
}
