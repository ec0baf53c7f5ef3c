//! Maps the endpoints of a flow to its slot without storing the endpoints.
//!
//! The endpoints are stored in the flow itself. The index contains only slot numbers, each of which takes five bytes
//! including its control byte, and reads endpoints from the table of flows. Its hash is keyed with a secret, because a
//! guest or a client chooses the endpoints.

use hashbrown::HashTable;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

/// Slots, found by the endpoints of their flows.
#[derive(Debug, Default)]
pub(super) struct SlotIndex {
    slots: HashTable<u32>,
    hasher: RandomState,
}

impl SlotIndex {
    /// The slot whose flow has the endpoints `key`; `is_at` checks whether a slot has them.
    pub(super) fn find<K: Hash>(&self, key: &K, is_at: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.slots.find(hash, |&slot| is_at(slot)).copied()
    }

    /// Adds `slot` under `key`, which must not be in the index yet. `key_of` is called for slots
    /// that are already in the index, never for this one.
    pub(super) fn insert<K: Hash>(&mut self, key: &K, slot: u32, key_of: impl Fn(u32) -> K) {
        let hash = self.hasher.hash_one(key);
        let hasher = &self.hasher;
        self.slots
            .insert_unique(hash, slot, |&slot| hasher.hash_one(key_of(slot)));
    }

    /// Removes `slot`, which was added under `key`.
    pub(super) fn remove<K: Hash>(&mut self, key: &K, slot: u32) {
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
                assert!(known < slot, "called for a slot that is not there yet");
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
