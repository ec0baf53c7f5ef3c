//! Which addresses of our own DHCP servers the guest holds.
//!
//! All workers of a port share one: a guest may renew on one queue pair and release on another.

use std::sync::atomic::{AtomicBool, Ordering};

/// The leases of a guest, one per family. Answers change them, status reads them.
#[derive(Debug, Default)]
pub struct HeldLeases {
    v4: AtomicBool,
    v6: AtomicBool,
}

impl HeldLeases {
    /// Whether the guest holds its DHCPv4 lease.
    pub fn has_v4(&self) -> bool {
        self.v4.load(Ordering::Relaxed)
    }

    /// Whether the guest holds its DHCPv6 lease.
    pub fn has_v6(&self) -> bool {
        self.v6.load(Ordering::Relaxed)
    }

    pub(super) fn set_v4(&self, held: bool) {
        self.v4.store(held, Ordering::Relaxed);
    }

    pub(super) fn set_v6(&self, held: bool) {
        self.v6.store(held, Ordering::Relaxed);
    }
}
