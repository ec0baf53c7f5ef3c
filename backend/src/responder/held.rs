//! The guest's leases from hawser's DHCP servers, and the last MAC that was refused a lease.
//!
//! All workers of a port share this: a guest may renew on one queue pair and release on another.

use crate::packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The leases of a guest, one per family. Answers change them, and the status API reads them.
#[derive(Debug, Default)]
pub struct HeldLeases {
    v4: AtomicBool,
    v6: AtomicBool,
    /// The MAC that was refused last: its six bytes, followed by two bytes of ones. 0 if none was refused.
    stranger: AtomicU64,
    /// True once a refusal has been logged. Only the first is logged, because the guest controls how often refusals
    /// happen.
    is_logged: AtomicBool,
}

/// The leases of a guest while it moves between two processes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedLeases {
    v4: bool,
    v6: bool,
    stranger: Option<MacAddr>,
}

impl HeldLeases {
    /// The leases, for another process.
    pub fn save(&self) -> SavedLeases {
        SavedLeases {
            v4: self.has_v4(),
            v6: self.has_v6(),
            stranger: self.stranger(),
        }
    }

    /// Continues with the leases of another process, which has logged a refusal, if there was one.
    pub fn load(&self, saved: SavedLeases) {
        let SavedLeases { v4, v6, stranger } = saved;
        self.set_v4(v4);
        self.set_v6(v6);
        if let Some(mac) = stranger {
            self.stranger.store(marked(mac), Ordering::Relaxed);
            self.is_logged.store(true, Ordering::Relaxed);
        }
    }

    /// True if the guest holds its DHCPv4 lease.
    pub fn has_v4(&self) -> bool {
        self.v4.load(Ordering::Relaxed)
    }

    /// True if the guest holds its DHCPv6 lease.
    pub fn has_v6(&self) -> bool {
        self.v6.load(Ordering::Relaxed)
    }

    /// The MAC of the last client that was refused because the lease is for another client. `None` once the right
    /// client has the lease.
    pub fn stranger(&self) -> Option<MacAddr> {
        let [mac @ .., _, known] = self.stranger.load(Ordering::Relaxed).to_be_bytes();
        (known != 0).then_some(MacAddr(mac))
    }

    /// Records that a client with the MAC `stranger` instead of `client` was refused. Logs the first refusal only.
    pub(super) fn refuse(&self, client: MacAddr, stranger: MacAddr) {
        self.stranger.store(marked(stranger), Ordering::Relaxed);
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the guest requests its address with the MAC {stranger}, but the lease is for \
                 {client}: it gets none until the VM's NIC has that MAC"
            );
        }
    }

    fn forget_stranger(&self) {
        self.stranger.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_v4(&self, held: bool) {
        if held {
            self.forget_stranger();
        }
        self.v4.store(held, Ordering::Relaxed);
    }

    pub(super) fn set_v6(&self, held: bool) {
        if held {
            self.forget_stranger();
        }
        self.v6.store(held, Ordering::Relaxed);
    }
}

/// The stored form of a MAC that was refused.
const fn marked(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a, b, c, d, e, f, u8::MAX, u8::MAX])
}
