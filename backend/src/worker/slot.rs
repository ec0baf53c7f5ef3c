//! The state of a ring apart from the ring itself.

use super::command::RingSetup;
use crate::counters::{Count, Counters};
use crate::virtio::ring::RingLayout;
use std::fs::File;
use std::io::Write;

/// Whether a ring runs and, if it does not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RingState {
    /// The front end has not started the ring.
    #[default]
    Absent,
    /// The ring is started, but disabled or without memory.
    Stopped,
    /// The worker serves the ring.
    Running,
    /// The ring is outside the current memory. A later memory table may contain it again.
    Unmapped,
    /// The ring was found inconsistent, and is ignored until it is started again.
    Broken,
}

/// A ring of a worker, and its state.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: RingState,
    pub(super) enabled: bool,
    /// Addresses and position of the ring. While it runs, the live ring has the current position.
    pub(super) layout: Option<RingLayout>,
    pub(super) kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
    /// True if there is work that does not need a kick.
    pub(super) due: bool,
}

impl Slot {
    /// Applies the front end's description of a ring.
    pub(super) fn set_up(&mut self, setup: RingSetup) {
        self.layout = Some(RingLayout {
            size: setup.size,
            descriptors: setup.descriptors,
            available: setup.available,
            used: setup.used,
            next_avail: setup.next_avail,
        });
        self.kick = Some(setup.kick);
        if setup.call.is_some() {
            self.call = never_waiting(setup.call);
        }
        if setup.error.is_some() {
            self.error = never_waiting(setup.error);
        }
        self.state = RingState::Stopped;
    }

    /// Removes the ring, because the front end has disconnected or stopped it. Returns its position.
    pub(super) fn tear_down(&mut self) -> Option<u16> {
        let next_avail = self.layout.take().map(|l| l.next_avail);
        self.kick = None;
        self.due = false;
        self.state = RingState::Absent;
        next_avail
    }

    /// Marks a ring that could not be mapped to be tried again.
    pub(super) fn retry(&mut self) {
        if self.state == RingState::Unmapped {
            self.state = RingState::Stopped;
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == RingState::Running
    }

    /// Replaces the call eventfd, and signals it once. An interrupt may have gone to the old eventfd, to which the
    /// guest no longer listens.
    pub(super) fn set_call(&mut self, call: Option<File>) {
        self.call = never_waiting(call);
        if self.is_running() {
            self.call();
        }
    }

    pub(super) fn set_error(&mut self, error: Option<File>) {
        self.error = never_waiting(error);
    }

    /// Interrupts the guest through the call eventfd.
    pub(super) fn call(&self) {
        signal(self.call.as_ref());
    }

    /// Interrupts the guest if `wanted`, and counts the interrupt.
    pub(super) fn call_if(&self, wanted: bool, counters: &Counters) {
        if wanted {
            counters.add(Count::Calls, 1);
            self.call();
        }
    }

    /// Reports to the front end that the ring is broken.
    pub(super) fn report_error(&self) {
        signal(self.error.as_ref());
    }
}

/// Makes writes fail instead of blocking. Front ends usually set this on their eventfds. User-Mode Linux passes pipes,
/// and a full pipe to a stopped guest would block the worker forever.
fn never_waiting(file: Option<File>) -> Option<File> {
    if let Some(file) = &file
        && let Err(error) = rustix::io::ioctl_fionbio(file, true)
    {
        log::warn!("an event descriptor of the front end may block the worker: {error}");
    }
    file
}

/// Adds one to an eventfd. This fails only if the counter is full, in which case the other side was notified long ago,
/// or if the front end passed another kind of file, which harms only its own guest.
fn signal(eventfd: Option<&File>) {
    if let Some(mut file) = eventfd {
        let _ = file.write(&1u64.to_ne_bytes());
    }
}
