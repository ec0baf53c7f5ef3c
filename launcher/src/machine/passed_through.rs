//! A NIC without a port: a device of the host that is passed to the guest. It is for tests of code that handles every
//! kind of NIC.

use super::NicStatus;
use crate::mode::Mode;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device that is passed to the guest.
#[derive(Debug)]
pub(crate) struct PassedThrough {
    /// Name of the NIC.
    pub name: String,
    is_link_up: AtomicBool,
}

impl PassedThrough {
    /// A device whose link is up.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_link_up: AtomicBool::new(true),
        }
    }

    pub(super) fn is_link_up(&self) -> bool {
        self.is_link_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_link(&self, up: bool) {
        self.is_link_up.store(up, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> NicStatus {
        NicStatus {
            name: self.name.clone(),
            mac: None,
            mtu: 1500,
            mode: Mode::Bridge,
            queue_pairs: 1,
            link_up: self.is_link_up(),
            driver_runs: false,
            leased: Vec::new(),
            seen: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
