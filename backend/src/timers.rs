//! Many timers, one queue, no work until one is due.
//!
//! A timer is moved later far more often than it fires. So the queue keeps, for each
//! owner, only the earliest entry it ever asked for; when that comes up the owner
//! says when it really wants to be called, and goes back in. Moving a deadline later
//! therefore costs nothing.

use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The owner's side of the queue: when its next entry comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled(Instant);

impl Scheduled {
    /// The end of time: no entry. Half the size of an `Option`, and every flow has one.
    const NEVER: Self = Self(Instant::from_nanos(u64::MAX));
}

impl Default for Scheduled {
    fn default() -> Self {
        Self::NEVER
    }
}

/// Entries not worth sweeping out.
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
    /// Makes sure `key` comes up at `deadline` or earlier.
    pub fn schedule(&mut self, slot: &mut Scheduled, key: K, deadline: Instant) {
        if deadline < slot.0 {
            slot.0 = deadline;
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// When the next entry comes up.
    pub fn deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Entries in the queue, those that were replaced included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True if nothing will come up.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Drops the entries that mean nothing any more if they are the greater part. To be
    /// called now and then by whoever has `owners` timers: without it an entry that was
    /// replaced, or whose owner is gone, stays until its time. `is_current` asks
    /// [`Scheduled::is_at`].
    pub fn sweep(&mut self, owners: usize, mut is_current: impl FnMut(Instant, K) -> bool) {
        if self.heap.len() > 2 * owners + SPARE {
            self.heap.retain(|Reverse((at, key))| is_current(*at, *key));
        }
    }

    /// Takes one entry that is due. The owner passes the time to [`Scheduled::fire`],
    /// which says whether the entry is its current one.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.deadline()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Scheduled {
    /// True if the entry of time `at` is the current one.
    pub fn is_at(self, at: Instant) -> bool {
        self.0 == at
    }

    /// Notes that the entry of time `at` came up. False if it was replaced by an
    /// earlier one long ago and means nothing now.
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
        assert!(!slot.fire(at(20)), "the replaced entry means nothing");
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
