//! The standby of a failover pair.
//!
//! A guest with such a pair (net_failover of Linux) sends on its primary, a virtual function, as long as it has one. When
//! the primary leaves, as before a migration, the guest sends on the standby with the same MAC. The back end is not told
//! about this. Two events show it: the first frame after a silence, and the first frame after another port of the segment
//! has sent with the guest's MAC. The MAC is then announced to the whole segment: the frame itself may pass only some of
//! the switches, and the others would send the guest's frames to the primary's port.
//!
//! A frame of another port with the guest's MAC does not show that the guest has left the standby. QEMU announces a primary
//! of its own before the guest has its driver, and a VF may be announced early too.

use crate::counters::{Count, Counters};
use crate::mode::Announcement;
use crate::packet::MacAddr;
use crate::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// A silence of this length means that the guest may have been on its primary. A guest that uses its standby and is
/// silent for longer is announced again, which costs its segment one broadcast.
const SILENCE: Duration = Duration::from_millis(100);
/// Shortest time between two announcements, which a station that forges the guest's MAC would cause with every frame.
const SPACING: Duration = Duration::from_millis(10);

/// The place that the segment expects the guest at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The standby, since the guest sent there, unless it is silent for [`SILENCE`].
    Here,
    /// The primary, or an unknown place.
    Elsewhere,
}

/// Notices that the guest has moved to the standby.
pub(super) struct Standby {
    announcement: Announcement,
    counters: Arc<Counters>,
    expected: Expected,
    last_burst: Option<Instant>,
    last_announcement: Option<Instant>,
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
            expected: Expected::Elsewhere,
            last_burst: None,
            last_announcement: None,
        }
    }

    /// Notes that another port of the segment has sent with the guest's MAC.
    pub(super) fn on_claim(&mut self) {
        self.expected = Expected::Elsewhere;
    }

    /// Notes that the guest sends. Returns what to announce if the segment may expect it elsewhere.
    pub(super) fn on_burst(&mut self, now: Instant) -> Option<Announcement> {
        let is_within = |last: Option<Instant>, time| last.is_some_and(|last| now < last + time);
        let goes_on = is_within(self.last_burst.replace(now), SILENCE);
        if goes_on && self.expected == Expected::Here {
            return None;
        }
        if goes_on && is_within(self.last_announcement, SPACING) {
            return None;
        }
        self.expected = Expected::Here;
        self.last_announcement = Some(now);
        self.counters.add(Count::StandbyTaken, 1);
        Some(self.announcement.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    /// The times, in milliseconds, of those bursts at which the guest is announced. Before `claims`, another port sends.
    fn announced(bursts: &[u64], claims: &[u64]) -> Vec<u64> {
        let counters = Arc::new(Counters::default());
        let mut standby = Standby::new(MAC, Arc::clone(&counters));
        let start = Instant::from_nanos(1);
        let mut announced = Vec::new();
        for after_ms in bursts {
            if claims.contains(after_ms) {
                standby.on_claim();
            }
            if let Some(arrival) = standby.on_burst(start + Duration::from_millis(*after_ms)) {
                assert_eq!(arrival.mac, MAC);
                announced.push(*after_ms);
            }
        }
        assert_eq!(counters.count(Count::StandbyTaken), announced.len() as u64);
        announced
    }

    #[test]
    fn a_guest_is_announced_when_it_begins_to_send_and_not_while_it_goes_on() {
        assert_eq!(announced(&[0, 1, 10, 90, 180, 290, 291], &[]), [0, 290]);
    }

    #[test]
    fn a_guest_that_goes_on_is_announced_again_after_another_port_has_claimed_its_mac() {
        assert_eq!(announced(&[0, 20, 40, 60], &[40]), [0, 40]);
    }

    #[test]
    fn a_station_that_forges_the_mac_all_the_time_does_not_cause_an_announcement_with_each_frame() {
        let bursts: Vec<u64> = (0..30).collect();
        assert_eq!(announced(&bursts, &bursts), [0, 10, 20]);
        // The last claim is answered, although it came too early.
        assert_eq!(announced(&[0, 5, 12, 13], &[5]), [0, 12]);
    }
}
