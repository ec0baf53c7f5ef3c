//! Slots of a table in the order of their last use, so that the one idle longest is found
//! at once.
//!
//! Each slot is in one list at most. The lists are linked through one vector that grows
//! with the table; every step takes the same time however many slots there are.

/// The end of a list.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    older: u32,
    newer: u32,
    /// The list the slot is in.
    list: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// `LISTS` lists of slots.
#[derive(Debug)]
pub struct Recency<const LISTS: usize> {
    nodes: Vec<Node>,
    lists: [Ends; LISTS],
}

impl<const LISTS: usize> Default for Recency<LISTS> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            lists: [Ends {
                oldest: NONE,
                newest: NONE,
            }; LISTS],
        }
    }
}

impl<const LISTS: usize> Recency<LISTS> {
    /// Makes `slot` the newest of `list`; it leaves the list it was in.
    pub fn touch(&mut self, list: u8, slot: u32) {
        let at = slot as usize;
        if at >= self.nodes.len() {
            let unlinked = Node {
                older: NONE,
                newer: NONE,
                list: None,
            };
            self.nodes.resize(at + 1, unlinked);
        }
        if self.nodes[at].list == Some(list) && self.nodes[at].newer == NONE {
            return;
        }
        self.remove(slot);
        let ends = &mut self.lists[usize::from(list)];
        let before = std::mem::replace(&mut ends.newest, slot);
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.newer = slot,
            None => ends.oldest = slot,
        }
        self.nodes[at] = Node {
            older: before,
            newer: NONE,
            list: Some(list),
        };
    }

    /// Takes `slot` out of its list.
    pub fn remove(&mut self, slot: u32) {
        let Some(node) = self.nodes.get_mut(slot as usize) else {
            return;
        };
        let Some(list) = node.list.take() else { return };
        let Node { older, newer, .. } = *node;
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.lists[usize::from(list)].oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.lists[usize::from(list)].newest = older,
        }
    }

    /// The slot of `list` used longest ago.
    pub fn oldest(&self, list: u8) -> Option<u32> {
        let slot = self.lists[usize::from(list)].oldest;
        (slot != NONE).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(order: &mut Recency<2>, list: u8) -> Vec<u32> {
        std::iter::from_fn(|| {
            let oldest = order.oldest(list)?;
            order.remove(oldest);
            Some(oldest)
        })
        .collect()
    }

    #[test]
    fn a_slot_used_again_is_the_newest_and_the_others_keep_their_order() {
        let mut order = Recency::default();
        for slot in [4, 0, 2, 9, 0, 4, 4] {
            order.touch(0, slot);
        }
        assert_eq!(drain(&mut order, 0), [2, 9, 0, 4]);
        assert_eq!(order.oldest(0), None);
    }

    #[test]
    fn a_slot_is_in_one_list_and_leaves_it_from_any_place() {
        let mut order = Recency::default();
        for slot in 0..6 {
            order.touch(0, slot);
        }
        for slot in [0, 3, 5] {
            order.touch(1, slot);
        }
        order.remove(3);
        order.remove(3);
        order.remove(700);
        assert_eq!(drain(&mut order, 0), [1, 2, 4]);
        assert_eq!(drain(&mut order, 1), [0, 5]);
    }
}
