//! From the ends of a flow to its slot, without a copy of the ends.
//!
//! A table of flows keeps each flow's ends in the flow itself. The index holds slot
//! numbers only, five bytes each with their control byte, and asks the table what the
//! ends of a slot are. It is hashed with a secret: a guest or a client chooses ends.

use hashbrown::HashTable;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

/// Slots by the ends of their flows.
#[derive(Debug, Default)]
pub struct SlotIndex {
    slots: HashTable<u32>,
    hasher: RandomState,
}

impl SlotIndex {
    /// The slot whose flow has the ends `key`; `is_at` tells whether those of a slot are.
    pub fn find<K: Hash>(&self, key: &K, is_at: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.slots.find(hash, |&slot| is_at(slot)).copied()
    }

    /// Enters `slot` under `key`, which must not be there. `key_of` is asked for slots that
    /// are there already, never for this one.
    pub fn insert<K: Hash>(&mut self, key: &K, slot: u32, key_of: impl Fn(u32) -> K) {
        let hash = self.hasher.hash_one(key);
        let hasher = &self.hasher;
        self.slots
            .insert_unique(hash, slot, |&slot| hasher.hash_one(key_of(slot)));
    }

    /// Takes out `slot`, which was entered under `key`.
    pub fn remove<K: Hash>(&mut self, key: &K, slot: u32) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.slots.find_entry(hash, |&found| found == slot) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_entered_and_not_taken_out() {
        const MANY: u32 = 5000;
        let key_of = |slot: u32| u64::from(slot) * 3;
        let mut index = SlotIndex::default();
        for slot in 0..MANY {
            index.insert(&key_of(slot), slot, |known| {
                assert!(known < slot, "asked for a slot that is not there yet");
                key_of(known)
            });
        }
        for slot in (0..MANY).step_by(2) {
            index.remove(&key_of(slot), slot);
        }
        for slot in 0..MANY {
            let expected = (slot % 2 == 1).then_some(slot);
            assert_eq!(index.find(&key_of(slot), |at| at == slot), expected);
        }
        assert_eq!(index.find(&1_u64, |at| key_of(at) == 1), None);
    }
}
