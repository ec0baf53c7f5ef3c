//! Many timers in one queue, which costs nothing until a timer is due.
//!
//! A timer is postponed far more often than it fires. So the queue keeps only the earliest entry of each owner. When
//! that entry is due, the owner states its real deadline and is queued again. Postponing a deadline therefore costs
//! nothing.

use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The owner's side of the queue: the time of the owner's current entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled(Instant);

impl Scheduled {
    /// Means that there is no entry. This takes half the space of an `Option`, and every flow has one.
    const NEVER: Self = Self(Instant::from_nanos(u64::MAX));
}

impl Default for Scheduled {
    fn default() -> Self {
        Self::NEVER
    }
}

/// Number of stale entries below which a sweep is not worthwhile.
const SPARE: usize = 64;

/// Deadlines of owners with key `K`.
#[derive(Debug)]
pub struct TimerQueue<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord> Default for TimerQueue<K> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }
}

impl<K: Copy + Ord> TimerQueue<K> {
    /// Ensures that the entry of `key` is due at `deadline` or earlier.
    pub fn schedule(&mut self, slot: &mut Scheduled, key: K, deadline: Instant) {
        if deadline < slot.0 {
            slot.0 = deadline;
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// Time of the earliest entry.
    pub fn deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Number of entries in the queue, including those that were replaced.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True if the queue has no entry.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Drops stale entries if they are the majority. The holder of `owners` timers calls this regularly. Otherwise an
    /// entry that was replaced, or whose owner has been removed, would stay until its time. `is_current` calls
    /// [`Scheduled::is_at`].
    pub fn sweep(&mut self, owners: usize, mut is_current: impl FnMut(Instant, K) -> bool) {
        if self.heap.len() > 2 * owners + SPARE {
            self.heap.retain(|Reverse((at, key))| is_current(*at, *key));
        }
    }

    /// Takes one entry that is due. The owner passes its time to [`Scheduled::fire`], which returns
    /// whether the entry is current.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.deadline()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Scheduled {
    /// True if the entry with the time `at` is the current one.
    pub fn is_at(self, at: Instant) -> bool {
        self.0 == at
    }

    /// Records that the entry with the time `at` was due. False if the entry is stale because an earlier one replaced
    /// it.
    pub fn fire(&mut self, at: Instant) -> bool {
        let current = self.is_at(at);
        if current {
            *self = Self::NEVER;
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn moving_a_deadline_later_adds_no_entry() {
        let mut queue = TimerQueue::default();
        let mut slot = Scheduled::default();
        queue.schedule(&mut slot, 7, at(10));
        queue.schedule(&mut slot, 7, at(20));
        assert_eq!(queue.pop_due(at(9)), None);
        assert_eq!(queue.pop_due(at(10)), Some((at(10), 7)));
        assert!(slot.fire(at(10)));
        assert_eq!(queue.deadline(), None);
    }

    #[test]
    fn an_earlier_deadline_replaces_the_later_one() {
        let mut queue = TimerQueue::default();
        let mut slot = Scheduled::default();
        queue.schedule(&mut slot, 7, at(20));
        queue.schedule(&mut slot, 7, at(10));
        assert_eq!(queue.pop_due(at(30)), Some((at(10), 7)));
        assert!(slot.fire(at(10)));
        queue.schedule(&mut slot, 7, at(40));
        assert_eq!(queue.pop_due(at(30)), Some((at(20), 7)));
        assert!(!slot.fire(at(20)), "the replaced entry is stale");
        assert_eq!(queue.pop_due(at(40)), Some((at(40), 7)));
        assert!(slot.fire(at(40)));
    }

    #[test]
    fn sweeping_leaves_what_still_means_something() {
        let mut queue = TimerQueue::default();
        let mut slots = [Scheduled::default(); 2];
        for round in (0..1000).rev() {
            let owner = round % 2;
            queue.schedule(&mut slots[owner], owner, at(round as u64));
        }
        assert_eq!(queue.len(), 1000);
        queue.sweep(2, |at, owner| slots[owner].is_at(at));
        assert_eq!(queue.pop_due(at(5000)), Some((at(0), 0)));
        assert_eq!(queue.pop_due(at(5000)), Some((at(1), 1)));
        assert!(queue.is_empty());
    }
}
