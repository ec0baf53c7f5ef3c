//! Which addresses of our own DHCP servers the guest holds, and which MAC asked for one in vain.
//!
//! All workers of a port share one: a guest may renew on one queue pair and release on another.

use crate::packet::MacAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The leases of a guest, one per family. Answers change them, status reads them.
#[derive(Debug, Default)]
pub struct HeldLeases {
    v4: AtomicBool,
    v6: AtomicBool,
    /// The MAC that was refused last, as its six bytes before two of ones; 0: none.
    stranger: AtomicU64,
    /// Whether the log has said that one was refused: the guest chooses how often that is.
    is_logged: AtomicBool,
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

    /// The MAC that a lease was asked for with, other than the one it is for; `None` once the
    /// right one was given it.
    pub fn stranger(&self) -> Option<MacAddr> {
        let [mac @ .., _, known] = self.stranger.load(Ordering::Relaxed).to_be_bytes();
        (known != 0).then_some(MacAddr(mac))
    }

    /// A client with another MAC than `client` was refused. The log says so once.
    pub(super) fn refuse(&self, client: MacAddr, stranger: MacAddr) {
        let [a, b, c, d, e, f] = stranger.0;
        let marked = u64::from_be_bytes([a, b, c, d, e, f, u8::MAX, u8::MAX]);
        self.stranger.store(marked, Ordering::Relaxed);
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the guest asks for its address with the MAC {stranger}, and the lease is for {client}: it gets none \
                 until the VM's card has that MAC"
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
