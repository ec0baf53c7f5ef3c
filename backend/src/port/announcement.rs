//! Announces a port's guest on its segment.

use super::Port;
use crate::mode::{Announcement, ModeCommand};
use crate::packet::MacAddr;
use std::net::IpAddr;

/// Maximum addresses that are announced.
const MAX_ADDRESSES: usize = 16;

impl Port {
    /// Tells the segment that the guest is here now, because it may have been elsewhere. `mac` is its MAC; `None`: the
    /// one that its driver uses, and nothing is announced if that is unknown. A mode without a segment ignores this.
    pub fn announce(&self, mac: Option<MacAddr>) {
        let Some(mac) = mac.or_else(|| self.nic.mac()) else {
            return;
        };
        log::debug!("port {}: announces {mac}", self.config.name);
        let announcement = Announcement {
            addresses: self.addresses_of(mac),
            mac,
        };
        if let Some(worker) = self.workers.first() {
            worker.command_mode(ModeCommand::Announce(announcement));
        }
    }

    /// The addresses that the guest gets from the mode's DHCP servers, and those it was seen to use.
    fn addresses_of(&self, mac: MacAddr) -> Vec<IpAddr> {
        let leased = self.config.mode.properties().leases().into_iter().flatten();
        let seen = self.snooped().into_iter().map(|(snooped, _)| snooped);
        let seen = seen.filter(|snooped| snooped.mac == mac).map(|snooped| snooped.address);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in leased.chain(seen) {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}
