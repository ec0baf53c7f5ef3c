//! What a worker knows of a ring beside the ring itself.

use super::command::RingSetup;
use crate::counters::{Count, Counters};
use crate::virtio::ring::RingLayout;
use std::fs::File;
use std::io::Write;

/// Where a ring stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RingState {
    /// The front end has not started it.
    #[default]
    Absent,
    /// Started, but disabled or without memory.
    Stopped,
    /// Served.
    Running,
    /// It lies outside the memory there is; other memory may bring it back.
    Unmapped,
    /// It contradicted itself and is not looked at until it is started again.
    Broken,
}

/// One ring of a worker.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: RingState,
    pub(super) enabled: bool,
    /// Where it lies; while it runs the live ring knows better how far it is.
    pub(super) layout: Option<RingLayout>,
    pub(super) kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
    /// True if there is work that waits for no kick.
    pub(super) due: bool,
}

impl Slot {
    /// Takes over what the front end says of the ring.
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

    /// Forgets the ring; the front end is gone or stopped it.
    pub(super) fn tear_down(&mut self) -> Option<u16> {
        let next_avail = self.layout.take().map(|l| l.next_avail);
        self.kick = None;
        self.due = false;
        self.state = RingState::Absent;
        next_avail
    }

    /// Lets a ring that could not be mapped be tried again.
    pub(super) fn retry(&mut self) {
        if self.state == RingState::Unmapped {
            self.state = RingState::Stopped;
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == RingState::Running
    }

    /// Replaces the call eventfd, and rings it once: an interrupt may have gone to the
    /// old one, which nobody listens to.
    pub(super) fn set_call(&mut self, call: Option<File>) {
        self.call = never_waiting(call);
        if self.is_running() {
            self.call();
        }
    }

    pub(super) fn set_error(&mut self, error: Option<File>) {
        self.error = never_waiting(error);
    }

    /// Interrupts the guest.
    pub(super) fn call(&self) {
        signal(self.call.as_ref());
    }

    /// Interrupts the guest if that is wanted, and counts it.
    pub(super) fn call_if(&self, wanted: bool, counters: &Counters) {
        if wanted {
            counters.add(Count::Calls, 1);
            self.call();
        }
    }

    /// Tells the front end that the ring is broken.
    pub(super) fn report_error(&self) {
        signal(self.error.as_ref());
    }
}

/// Makes writes fail where they would wait. Front ends do that to their eventfds
/// themselves; but User-Mode Linux gives pipes, and a full one whose guest stands still
/// would hold the worker for ever.
fn never_waiting(file: Option<File>) -> Option<File> {
    if let Some(file) = &file
        && let Err(error) = rustix::io::ioctl_fionbio(file, true)
    {
        log::warn!("an event descriptor of the front end may hold the worker: {error}");
    }
    file
}

/// Adds one to an eventfd. It fails only when the counter is full, and then the
/// other side has been told long ago, or when the front end gave us something else,
/// which harms nobody but its guest.
fn signal(eventfd: Option<&File>) {
    if let Some(mut file) = eventfd {
        let _ = file.write(&1u64.to_ne_bytes());
    }
}
