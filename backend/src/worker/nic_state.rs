//! State of the guest's NIC, which the driver sets on the control queue: receive filters, offloads and MAC.
//!
//! One worker serves the control queue, and all workers apply the settings. Each compares a version number once per
//! turn.

use super::receive_filter::{Asked, ReceiveFilter};
use crate::config::{MacCheck, PortConfig};
use crate::packet::MacAddr;
use crate::virtio::control::Order;
use crate::virtio::features::{Features, GUEST_OFFLOADS};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN};

/// State of a port's NIC.
#[derive(Debug)]
pub struct NicState {
    /// MAC from the configuration.
    mac: Option<MacAddr>,
    /// True if the driver may change the MAC.
    may_rename: bool,
    queue_pairs: u16,
    settings: Mutex<Settings>,
    /// Incremented whenever the settings change.
    version: AtomicU64,
}

/// Settings made by a driver. They are saved as they are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    asked: Asked,
    /// Offloads that the driver has acknowledged and left enabled.
    offloads: Option<u64>,
}

/// Settings of the NIC that a worker applies to its receive side.
#[derive(Clone, Debug)]
pub struct ReceiveSettings {
    /// Frames that the driver wants.
    pub filter: ReceiveFilter,
    /// Acknowledged features, without the offloads that the driver has disabled.
    pub features: Features,
}

impl NicState {
    /// Creates the state before any driver has changed it.
    pub fn new(config: &PortConfig) -> Self {
        let is_checked = config.mac.is_some() && config.policy.mac_check == MacCheck::Enforced;
        Self {
            mac: config.mac,
            may_rename: !is_checked,
            queue_pairs: config.queue_pairs.get(),
            settings: Mutex::new(Settings::new(config.mac)),
            version: AtomicU64::new(0),
        }
    }

    /// Restores the initial settings for a new driver.
    pub fn reset(&self) {
        self.change(|settings| {
            *settings = Settings::new(self.mac);
            true
        });
    }

    /// Applies a command from a driver that has acknowledged `features`. False if the command is refused.
    pub fn apply(&self, order: Order, features: Features) -> bool {
        self.change(|settings| match order {
            // The front end enables the rings of the pairs in use; nothing changes here.
            Order::QueuePairs(n) => (1..=self.queue_pairs).contains(&n),
            Order::Receive(mode, on) => {
                settings.asked.switch(mode, on);
                true
            }
            Order::MacTables { unicast, multicast } => settings.asked.set_tables(unicast, multicast),
            Order::MacAddress(mac) => {
                let is_card = !mac.is_multicast() && mac != MacAddr::default();
                let allowed = is_card && (self.may_rename || self.mac == Some(mac));
                if allowed {
                    settings.asked.mac = Some(mac);
                }
                allowed
            }
            Order::Vlan(vid, on) => settings.asked.set_vlan(vid, on),
            Order::Announced => true,
            Order::Offloads(offloads) => {
                let known = offloads & !(features.0 & GUEST_OFFLOADS) == 0;
                if known {
                    settings.offloads = Some(offloads);
                }
                known
            }
        })
    }

    /// The current MAC, if it is known.
    pub fn mac(&self) -> Option<MacAddr> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).asked.mac
    }

    /// Number of changes of the settings so far.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The settings that apply for a driver that has acknowledged `features`.
    pub fn state(&self, features: Features) -> ReceiveSettings {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let filter = if features.has(VIRTIO_NET_F_CTRL_RX) {
            let mut asked = settings.asked.clone();
            if !features.has(VIRTIO_NET_F_CTRL_VLAN) {
                asked.take_all_vlans();
            }
            ReceiveFilter::Asked(Box::new(asked))
        } else {
            ReceiveFilter::Everything
        };
        let narrowed = settings
            .offloads
            .filter(|_| features.has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
        let features = narrowed.map_or(features, |on| Features(features.0 & (!GUEST_OFFLOADS | on)));
        ReceiveSettings { filter, features }
    }

    /// The settings, for another process.
    pub fn save(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the settings by those of another process. False if no driver can have made them.
    pub fn load(&self, saved: Settings) -> bool {
        let has_mac = self.may_rename || saved.asked.mac == self.mac;
        let is_possible =
            has_mac && saved.asked.is_possible() && saved.offloads.is_none_or(|on| on & !GUEST_OFFLOADS == 0);
        is_possible
            && self.change(|settings| {
                *settings = saved;
                true
            })
    }

    fn change(&self, act: impl FnOnce(&mut Settings) -> bool) -> bool {
        let done = act(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner));
        if done {
            self.version.fetch_add(1, Ordering::Release);
        }
        done
    }
}

impl Settings {
    fn new(mac: Option<MacAddr>) -> Self {
        Self {
            asked: Asked::new(mac),
            offloads: None,
        }
    }
}

#[cfg(test)]
#[path = "nic_state_tests.rs"]
mod tests;
