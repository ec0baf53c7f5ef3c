//! The bindings of one network, as far as a watcher knows them.

use crate::bindings::{Bound, Change, PortId};
use std::collections::{BTreeMap, BTreeSet};

/// Last change of each port, with the revision of its record. Revisions are those of etcd.
#[derive(Debug, Default)]
pub(super) struct Table {
    ports: BTreeMap<PortId, (i64, Change)>,
    /// The same ports in the order of their revisions. One revision may change several.
    order: BTreeSet<(i64, PortId)>,
    /// Revision up to which changes are in the table.
    pub(super) position: i64,
    /// Revision before which a change may be missing, because its record has been removed.
    gap_before: i64,
}

impl Table {
    /// Records a change of a port.
    pub(super) fn put(&mut self, revision: i64, change: Change) {
        let port = change.port().clone();
        if let Some((before, _)) = self.ports.insert(port.clone(), (revision, change)) {
            self.order.remove(&(before, port.clone()));
        }
        self.order.insert((revision, port));
        self.position = self.position.max(revision);
    }

    /// Records that the record of a port was removed. The port had been unbound, which a watcher of an older revision
    /// can no longer learn.
    pub(super) fn remove(&mut self, revision: i64, port: &PortId) {
        if let Some((before, _)) = self.ports.remove(port) {
            self.order.remove(&(before, port.clone()));
            self.gap_before = self.gap_before.max(before);
        }
        self.position = self.position.max(revision);
    }

    /// Replaces the whole table with a list that was read at `revision`.
    pub(super) fn replace(&mut self, revision: i64, list: Vec<(i64, Change)>) {
        let listed: BTreeSet<PortId> = list.iter().map(|(_, change)| change.port().clone()).collect();
        let gone: Vec<PortId> = self
            .ports
            .keys()
            .filter(|port| !listed.contains(*port))
            .cloned()
            .collect();
        for port in gone {
            self.remove(revision, &port);
        }
        for (changed, change) in list {
            self.put(changed, change);
        }
        self.position = revision;
    }

    /// Changes after `revision`, oldest first. `None` if some may be missing.
    pub(super) fn after(&self, revision: i64) -> Option<Vec<Change>> {
        if revision < self.gap_before {
            return None;
        }
        // The port with the lowest name comes first within its revision.
        let later = self.order.iter().rev().take_while(|(changed, _)| *changed > revision);
        let mut changes: Vec<Change> = later
            .filter_map(|(_, port)| self.ports.get(port).map(|(_, change)| change.clone()))
            .collect();
        changes.reverse();
        Some(changes)
    }
}

/// The bound ports among changes.
pub(super) fn bound(changes: impl IntoIterator<Item = Change>) -> Vec<Bound> {
    let bound = changes.into_iter().filter_map(|change| match change {
        Change::Bound(bound) => Some(bound),
        Change::Unbound { .. } => None,
    });
    bound.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::Epoch;
    use crate::tests::running::port;

    fn change(name: &str, epoch: u32) -> Change {
        Change::Unbound {
            port: port(name),
            epoch: Epoch(epoch),
        }
    }

    #[test]
    fn changes_come_in_the_order_of_their_revisions_and_each_port_once() {
        let mut table = Table::default();
        table.replace(5, vec![(3, change("b", 1)), (4, change("a", 1))]);
        assert_eq!(table.after(0), Some(vec![change("b", 1), change("a", 1)]));
        table.put(7, change("b", 2));
        table.put(7, change("c", 1));
        assert_eq!(table.after(5), Some(vec![change("b", 2), change("c", 1)]));
        assert_eq!(table.after(7), Some(Vec::new()));
        assert_eq!(table.position, 7);
    }

    #[test]
    fn a_watcher_from_before_a_removed_record_has_a_gap() {
        let mut table = Table::default();
        table.replace(5, vec![(3, change("b", 1)), (4, change("a", 1))]);
        table.remove(8, &port("a"));
        assert_eq!(table.after(3), None);
        assert_eq!(table.after(4), Some(Vec::new()));
        // A list that is read after a lost connection has the same result.
        table.replace(9, Vec::new());
        assert_eq!(table.after(4), Some(Vec::new()));
        assert_eq!(table.after(2), None);
    }

    #[test]
    fn a_store_that_goes_back_is_listed_again() {
        let mut table = Table::default();
        table.replace(50, vec![(40, change("a", 4))]);
        table.replace(10, vec![(9, change("a", 2))]);
        assert_eq!((table.after(8), table.position), (Some(vec![change("a", 2)]), 10));
    }
}
