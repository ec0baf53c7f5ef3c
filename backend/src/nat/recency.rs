//! Keeps the slots of a table in the order of their last use, so that the slot idle longest is found immediately.
//!
//! Each slot is in at most one list. A list is a ring in one vector that grows with the table: first the ends of the
//! lists, then the slots from oldest to newest. So every operation takes the same few instructions, however many slots
//! there are, and a slot is removed from its list without a search.

/// Neighbours in a ring, by index in the vector. A slot that is in no list is its own neighbour.
#[derive(Clone, Copy, Debug)]
struct Node {
    older: u32,
    newer: u32,
}

impl Node {
    const fn alone(place: u32) -> Self {
        Self {
            older: place,
            newer: place,
        }
    }
}

/// `LISTS` lists of slots.
#[derive(Debug)]
pub(super) struct Recency<const LISTS: usize> {
    /// The ends of the lists, then the slots.
    nodes: Vec<Node>,
}

impl<const LISTS: usize> Default for Recency<LISTS> {
    fn default() -> Self {
        Self {
            nodes: (0..).map(Node::alone).take(LISTS).collect(),
        }
    }
}

impl<const LISTS: usize> Recency<LISTS> {
    #[allow(clippy::cast_possible_truncation, reason = "a handful of lists")]
    const FIRST: u32 = LISTS as u32;

    /// Makes `slot` the newest of `list`, and removes it from its previous list.
    #[inline]
    pub(super) fn touch(&mut self, list: u8, slot: u32) {
        let (end, place) = (u32::from(list), slot + Self::FIRST);
        if place as usize >= self.nodes.len() {
            self.grow(place);
        }
        if self.nodes[place as usize].newer == end {
            return;
        }
        self.unlink(place);
        let newest = std::mem::replace(&mut self.nodes[end as usize].older, place);
        self.nodes[newest as usize].newer = place;
        self.nodes[place as usize] = Node {
            older: newest,
            newer: end,
        };
    }

    /// Removes `slot` from its list.
    pub(super) fn remove(&mut self, slot: u32) {
        let place = slot + Self::FIRST;
        if (place as usize) < self.nodes.len() {
            self.unlink(place);
            self.nodes[place as usize] = Node::alone(place);
        }
    }

    /// The slot of `list` that was used longest ago.
    pub(super) fn oldest(&self, list: u8) -> Option<u32> {
        self.nodes[usize::from(list)].newer.checked_sub(Self::FIRST)
    }

    #[cold]
    fn grow(&mut self, place: u32) {
        let len = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.extend((len..=place).map(Node::alone));
    }

    #[inline]
    fn unlink(&mut self, place: u32) {
        let Node { older, newer } = self.nodes[place as usize];
        self.nodes[older as usize].newer = newer;
        self.nodes[newer as usize].older = older;
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
