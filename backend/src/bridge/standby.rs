//! The standby of a failover pair.
//!
//! A guest with such a pair (net_failover of Linux) sends on its primary, a virtual function, as long as it has one. When
//! the primary leaves, as before a migration, the guest sends on the standby with the same MAC. The back end is not told
//! about this. The first frame after a silence shows it, and the MAC is then announced to the whole segment: the frame
//! itself may pass only some of the switches, and the others would send the guest's frames to the primary's port.

use crate::counters::{Count, Counters};
use crate::mode::Announcement;
use crate::packet::MacAddr;
use crate::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// A silence of this length means that the guest may have been on its primary. A guest that uses its standby and is
/// silent for longer is announced again, which costs its segment one broadcast.
const SILENCE: Duration = Duration::from_millis(100);

/// Notices that the guest has moved to the standby.
pub(super) struct Standby {
    announcement: Announcement,
    counters: Arc<Counters>,
    last_burst: Option<Instant>,
}

impl Standby {
    /// A standby on which the guest has not sent yet.
    pub(super) fn new(mac: MacAddr, counters: Arc<Counters>) -> Self {
        Self {
            announcement: Announcement {
                mac,
                addresses: Vec::new(),
            },
            counters,
            last_burst: None,
        }
    }

    /// Notes that the guest sends. Returns what to announce if it has just begun to.
    pub(super) fn on_burst(&mut self, now: Instant) -> Option<Announcement> {
        let goes_on = self.last_burst.is_some_and(|last| now < last + SILENCE);
        self.last_burst = Some(now);
        if goes_on {
            return None;
        }
        self.counters.add(Count::StandbyTaken, 1);
        Some(self.announcement.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_announced_when_it_begins_to_send_and_not_while_it_goes_on() {
        let counters = Arc::new(Counters::default());
        let mut standby = Standby::new(MacAddr([2, 0, 0, 0, 0, 9]), Arc::clone(&counters));
        let start = Instant::from_nanos(1);
        let mut announced = Vec::new();
        for after_ms in [0, 1, 10, 90, 180, 290, 291] {
            let arrival = standby.on_burst(start + Duration::from_millis(after_ms));
            announced.extend(arrival.map(|arrival| (after_ms, arrival.mac)));
        }
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        assert_eq!(announced, [(0, mac), (290, mac)]);
        assert_eq!(counters.count(Count::StandbyTaken), 2);
    }
}
