//! The receive filters of the NIC (virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3), which the driver sets.
//!
//! Initially the NIC accepts every frame, as QEMU's does. So a guest that set its filters before this process started
//! keeps working and receives more than it requested. VLANs are filtered unless the NIC is promiscuous.

use crate::config::VlanSet;
use crate::packet::vlan::{TPID_8021Q, VID_MASK};
use crate::packet::{MacAddr, be16};
use crate::virtio::control::{MAC_TABLE_MAX, MacTable, RxMode};
use serde::{Deserialize, Serialize};

/// Offset of a frame's EtherType, or of its first tag.
const TYPE_AT: usize = 12;

/// The filter for frames that a NIC accepts.
#[derive(Clone, Debug, Default)]
pub enum ReceiveFilter {
    /// Accepts every frame.
    #[default]
    Everything,
    /// Accepts the frames that the driver has requested.
    Asked(Box<Asked>),
}

/// The filters that a driver has set.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// MAC of the NIC. If it is unknown, frames to any unicast address are accepted.
    pub mac: Option<MacAddr>,
    /// Receive modes that are on, one per bit.
    modes: u8,
    unicast: MacTable,
    multicast: MacTable,
    /// VLANs that the driver wants. `None`: it does not filter VLANs.
    vlans: Option<VlanSet>,
}

const fn bit(mode: RxMode) -> u8 {
    1 << mode as u8
}

impl Asked {
    /// The settings before the driver's first command.
    pub fn new(mac: Option<MacAddr>) -> Self {
        Self {
            mac,
            modes: bit(RxMode::Promiscuous),
            unicast: MacTable::Empty,
            multicast: MacTable::Empty,
            vlans: Some(VlanSet::default()),
        }
    }

    /// Enables or disables a receive mode.
    pub const fn switch(&mut self, mode: RxMode, on: bool) {
        if on {
            self.modes |= bit(mode);
        } else {
            self.modes &= !bit(mode);
        }
    }

    /// Accepts these unicast and multicast addresses in addition to the NIC's own. Returns false without a change if a
    /// table contains an address of the other kind.
    pub fn set_tables(&mut self, unicast: MacTable, multicast: MacTable) -> bool {
        if !is_table(&unicast, false) || !is_table(&multicast, true) {
            return false;
        }
        (self.unicast, self.multicast) = (unicast, multicast);
        true
    }

    /// True if a driver can have set these filters.
    pub fn is_possible(&self) -> bool {
        is_table(&self.unicast, false) && is_table(&self.multicast, true)
    }

    /// Adds or removes a VLAN. False if the number is not a VLAN ID.
    pub fn set_vlan(&mut self, vid: u16, on: bool) -> bool {
        // Zero means a priority without a VLAN, which is always accepted.
        vid == 0 || self.vlans.as_mut().is_some_and(|vlans| vlans.set(vid, on))
    }

    /// Accepts all VLANs, for a driver without VLAN filters.
    pub fn take_all_vlans(&mut self) {
        self.vlans = None;
    }

    const fn is_on(&self, mode: RxMode) -> bool {
        self.modes & bit(mode) != 0
    }

    fn takes(&self, head: &[u8]) -> bool {
        if self.is_on(RxMode::Promiscuous) {
            return true;
        }
        let Some(destination) = head.first_chunk().copied().map(MacAddr) else {
            return false;
        };
        self.takes_vlan(head) && self.takes_destination(destination)
    }

    fn takes_vlan(&self, head: &[u8]) -> bool {
        let Some(vlans) = &self.vlans else { return true };
        if head.len() < TYPE_AT + 4 || be16(head, TYPE_AT) != TPID_8021Q {
            return true;
        }
        let vid = be16(head, TYPE_AT + 2) & VID_MASK;
        vid == 0 || vlans.contains(vid)
    }

    fn takes_destination(&self, destination: MacAddr) -> bool {
        if destination == MacAddr::BROADCAST {
            !self.is_on(RxMode::NoBroadcast)
        } else if destination.is_multicast() {
            !self.is_on(RxMode::NoMulticast)
                && (self.is_on(RxMode::AllMulticast) || contains(&self.multicast, destination))
        } else {
            !self.is_on(RxMode::NoUnicast)
                && (self.mac.is_none_or(|mac| mac == destination)
                    || self.is_on(RxMode::AllUnicast)
                    || contains(&self.unicast, destination))
        }
    }
}

/// True if the table is no longer than those that are kept, and all of its addresses are groups, or none is.
fn is_table(table: &MacTable, groups: bool) -> bool {
    match table {
        MacTable::Some(macs) => macs.len() <= MAC_TABLE_MAX && macs.iter().all(|mac| mac.is_multicast() == groups),
        MacTable::Empty | MacTable::TooMany => true,
    }
}

fn contains(table: &MacTable, mac: MacAddr) -> bool {
    match table {
        MacTable::Empty => false,
        MacTable::Some(macs) => macs.contains(&mac),
        MacTable::TooMany => true,
    }
}

impl ReceiveFilter {
    /// True if the NIC accepts a frame that begins with `head`.
    #[inline]
    pub fn takes(&self, head: &[u8]) -> bool {
        match self {
            Self::Everything => true,
            Self::Asked(asked) => asked.takes(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
    const GROUP: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 1]);

    fn asked(change: impl FnOnce(&mut Asked)) -> ReceiveFilter {
        let mut asked = Asked::new(Some(OWN));
        asked.switch(RxMode::Promiscuous, false);
        change(&mut asked);
        ReceiveFilter::Asked(Box::new(asked))
    }

    fn frame(destination: MacAddr, vid: Option<u16>) -> Vec<u8> {
        let mut bytes = [destination.0, [2; 6]].concat();
        if let Some(vid) = vid {
            bytes.extend([0x81, 0]);
            bytes.extend(vid.to_be_bytes());
        }
        bytes.extend([8, 0, 0x45]);
        bytes
    }

    /// Returns whether each of these is accepted: broadcast, multicast, the NIC's own address, and another address.
    fn taken(filter: &ReceiveFilter) -> [bool; 4] {
        [MacAddr::BROADCAST, GROUP, OWN, OTHER].map(|mac| filter.takes(&frame(mac, None)))
    }

    #[test]
    fn a_driver_that_has_not_spoken_gets_everything() {
        let filter = ReceiveFilter::Asked(Box::new(Asked::new(Some(OWN))));
        assert_eq!(taken(&filter), [true; 4]);
        assert!(filter.takes(&frame(OTHER, Some(7))));
        assert_eq!(taken(&ReceiveFilter::Everything), [true; 4]);
    }

    #[test]
    fn each_way_of_receiving_opens_or_closes_its_kind() {
        assert_eq!(taken(&asked(|_| {})), [true, false, true, false]);
        let with = |mode| taken(&asked(|a| a.switch(mode, true)));
        assert_eq!(with(RxMode::Promiscuous), [true, true, true, true]);
        assert_eq!(with(RxMode::AllMulticast), [true, true, true, false]);
        assert_eq!(with(RxMode::AllUnicast), [true, false, true, true]);
        assert_eq!(with(RxMode::NoUnicast), [true, false, false, false]);
        assert_eq!(with(RxMode::NoBroadcast), [false, false, true, false]);
        let closed = asked(|a| {
            a.switch(RxMode::AllMulticast, true);
            a.switch(RxMode::NoMulticast, true);
        });
        assert_eq!(taken(&closed), [true, false, true, false]);
    }

    #[test]
    fn tables_add_cards_and_groups() {
        let filter = asked(|a| {
            assert!(a.set_tables(MacTable::Some(vec![OTHER]), MacTable::Some(vec![GROUP])));
        });
        assert_eq!(taken(&filter), [true; 4]);
        assert!(!filter.takes(&frame(MacAddr([2, 0, 0, 0, 0, 7]), None)));
        let full = asked(|a| {
            assert!(a.set_tables(MacTable::TooMany, MacTable::Empty));
        });
        assert_eq!(taken(&full), [true, false, true, true]);
        let wrong = asked(|a| {
            assert!(!a.set_tables(MacTable::Some(vec![GROUP]), MacTable::Empty));
            assert!(!a.set_tables(MacTable::Empty, MacTable::Some(vec![OTHER])));
        });
        assert_eq!(taken(&wrong), [true, false, true, false]);
    }

    #[test]
    fn vlans_are_taken_once_they_are_added() {
        let mut filter = asked(|a| {
            assert!(a.set_vlan(7, true) && a.set_vlan(4094, true) && a.set_vlan(0, true));
            assert!(!a.set_vlan(4095, true) && !a.set_vlan(u16::MAX, false));
        });
        let takes = |filter: &ReceiveFilter| [0, 7, 8, 4094].map(|vid| filter.takes(&frame(OWN, Some(vid))));
        assert_eq!(takes(&filter), [true, true, false, true]);
        assert!(filter.takes(&frame(OWN, None)));
        if let ReceiveFilter::Asked(asked) = &mut filter {
            assert!(asked.set_vlan(7, false));
        }
        assert_eq!(takes(&filter), [true, false, false, true]);
        let mut unfiltered = Asked::new(Some(OWN));
        unfiltered.take_all_vlans();
        unfiltered.switch(RxMode::Promiscuous, false);
        assert!(unfiltered.takes(&frame(OWN, Some(8))));
    }

    #[test]
    fn without_a_known_mac_every_cards_frames_are_taken() {
        let mut asked = Asked::new(None);
        asked.switch(RxMode::Promiscuous, false);
        assert!(asked.takes(&frame(OTHER, None)));
        assert!(!asked.takes(&frame(GROUP, None)));
        assert!(!asked.takes(&[2, 0]));
    }
}
