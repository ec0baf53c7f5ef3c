//! One ring as the front end describes it, and the worker's ring that follows it.
//!
//! A ring runs while the front end has started it *and* its size, addresses and kick are known. A change to a running
//! ring stops it, reads the worker's position, and starts it again. `vhost-user-backend`'s vring keeps and checks the
//! queue's parameters and reads the guest's used index.
//!
//! **Where a ring starts.** Before it stops, a worker returns every chain it has taken, in ring order, so the ring
//! continues at the guest's used index. It takes precedence over SET_VRING_BASE: after a reconnection cloud-hypervisor
//! sends the *available* index, which would lose every receive buffer posted before.

use super::memory::Memory;
use crate::config::handover::{Descriptors, HandoverError, next_of};
use crate::virtio::MAX_RING_SIZE;
use crate::worker::RingSetup;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::Error as QueueError;

/// The worker's side of a ring.
pub trait RingHost: Send {
    /// Starts the ring.
    fn start(&self, setup: RingSetup);
    /// Stops the ring and returns its position; `None` if the worker never ran it.
    fn stop(&self) -> Option<u16>;
    /// Enables or disables the ring.
    fn set_enabled(&self, enabled: bool);
    /// Replaces the call eventfd.
    fn set_call(&self, call: Option<File>);
    /// Replaces the error eventfd.
    fn set_error(&self, error: Option<File>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started, or stopped by GET_VRING_BASE.
    Stopped,
    /// Started by the front end, but a parameter is still missing.
    Waiting,
    /// A worker runs it.
    Running,
}

/// Guest-physical addresses of the three parts of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// A ring without its eventfds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingRecord {
    enabled: bool,
    size: Option<u16>,
    addresses: Option<Addresses>,
    next_avail: u16,
    has_kick: bool,
    has_call: bool,
    has_error: bool,
}

/// The rings, for messages.
const RINGS: &str = "the rings of the front end";

/// One ring: its parameters from the front end, and whether its worker runs it.
pub struct Ring {
    queue: VringMutex<Memory>,
    host: Box<dyn RingHost>,
    phase: Phase,
    enabled: bool,
    /// True while it must not run, whatever the front end has set up.
    barred: bool,
    /// Number of descriptors. `None` if it is not set, or not a power of two.
    size: Option<u16>,
    addresses: Option<Addresses>,
    next_avail: u16,
    kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
}

debug_fields!(Ring { size, next_avail });

impl Ring {
    /// A ring in `memory` that `host` runs, without any parameters yet.
    ///
    /// # Errors
    /// Does not happen: the maximum size is a constant that the queue accepts.
    pub fn new(host: Box<dyn RingHost>, memory: Memory) -> Result<Self, QueueError> {
        Ok(Self {
            queue: VringMutex::new(memory, MAX_RING_SIZE)?,
            host,
            phase: Phase::Stopped,
            enabled: false,
            barred: false,
            size: None,
            addresses: None,
            next_avail: 0,
            kick: None,
            call: None,
            error: None,
        })
    }

    /// True if the front end has not started the ring, or has stopped it.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// SET_VRING_ENABLE
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.host.set_enabled(enabled);
    }

    /// SET_VRING_NUM: a size that is not a power of two keeps the ring from starting.
    pub fn set_size(&mut self, size: u16) {
        let accepted = self.queue.get_mut().get_queue_mut().try_set_size(size);
        let size = accepted.is_ok().then_some(size).or_else(|| {
            log::warn!(
                "the front end asks for a ring of {size} descriptors, which will not start: \
                 give it a power of two up to {MAX_RING_SIZE}"
            );
            None
        });
        if self.size != size {
            self.reconfigure(|ring| ring.size = size);
        }
    }

    /// SET_VRING_ADDR
    ///
    /// # Errors
    /// A part is not aligned, or the used index is not in guest memory.
    pub fn set_addresses(&mut self, addresses: Addresses) -> Result<(), QueueError> {
        self.queue
            .set_queue_info(addresses.descriptors, addresses.available, addresses.used)?;
        self.queue.queue_used_idx()?;
        // QEMU repeats the addresses of running rings when a migration starts.
        if self.addresses != Some(addresses) {
            self.reconfigure(|ring| ring.addresses = Some(addresses));
        }
        Ok(())
    }

    /// Keeps the ring from running, or lets it run again.
    pub fn set_barred(&mut self, barred: bool) {
        if self.barred != barred {
            self.reconfigure(|ring| ring.barred = barred);
        }
    }

    /// True if the front end has started the ring and it does not run yet.
    pub fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Tells the worker whether the ring is enabled.
    pub fn repeat_enabled(&self) {
        self.host.set_enabled(self.enabled);
    }

    /// Stops the ring until it gets addresses.
    pub fn forget_addresses(&mut self) {
        self.reconfigure(|ring| ring.addresses = None);
    }

    /// SET_VRING_BASE: ignored by a running ring, which knows its position.
    pub fn set_base(&mut self, base: u16) {
        if self.phase != Phase::Running {
            self.next_avail = base;
        }
    }

    /// SET_VRING_KICK, which starts the ring.
    pub fn set_kick(&mut self, kick: Option<File>) {
        self.reconfigure(|ring| ring.kick = kick);
        self.ready();
    }

    /// SET_VRING_CALL, which also starts the ring if its kick is known.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call;
        if self.phase == Phase::Running {
            self.host.set_call(duplicate(self.call.as_ref()));
        }
        self.ready();
    }

    /// SET_VRING_ERR
    pub fn set_error(&mut self, error: Option<File>) {
        self.error = error;
        if self.phase == Phase::Running {
            self.host.set_error(duplicate(self.error.as_ref()));
        }
    }

    /// GET_VRING_BASE: stops the ring, waits for its worker, and returns the index of the
    /// next available entry.
    pub fn stop(&mut self) -> u16 {
        self.pause();
        self.phase = Phase::Stopped;
        self.kick = None;
        self.call = None;
        self.next_avail
    }

    /// Stops the ring for another process. Descriptors: its kick, call and error eventfds, as far as it has them.
    pub fn hand_over(&mut self, descriptors: &mut Vec<OwnedFd>) -> RingRecord {
        self.pause();
        self.phase = Phase::Stopped;
        let mut push = |file: &mut Option<File>| {
            let file = file.take();
            let has = file.is_some();
            descriptors.extend(file.map(OwnedFd::from));
            has
        };
        RingRecord {
            enabled: self.enabled,
            size: self.size,
            addresses: self.addresses,
            next_avail: self.next_avail,
            has_kick: push(&mut self.kick),
            has_call: push(&mut self.call),
            has_error: push(&mut self.error),
        }
    }

    /// Sets up a ring that another process has handed over, and starts it if it ran there.
    ///
    /// # Errors
    /// [`HandoverError`]
    pub fn take_over(&mut self, record: &RingRecord, descriptors: &mut Descriptors) -> Result<(), HandoverError> {
        let mut next = |has: bool| {
            let file = has.then(|| next_of(RINGS, descriptors)).transpose()?;
            Ok::<_, HandoverError>(file.map(File::from))
        };
        let [kick, call, error] = [next(record.has_kick)?, next(record.has_call)?, next(record.has_error)?];
        self.set_enabled(record.enabled);
        if let Some(size) = record.size {
            self.set_size(size);
        }
        if let Some(addresses) = record.addresses {
            let set = self.set_addresses(addresses);
            set.map_err(|why| HandoverError::System {
                what: RINGS,
                source: io::Error::other(why),
            })?;
        }
        self.set_base(record.next_avail);
        self.set_error(error);
        self.call = call;
        if kick.is_some() {
            self.set_kick(kick);
        }
        Ok(())
    }

    /// Restores the initial state, for a device reset or a front end that is gone.
    pub fn reset(&mut self) {
        self.set_enabled(false);
        self.stop();
        self.error = None;
        self.barred = false;
        self.size = None;
        self.addresses = None;
        self.next_avail = 0;
    }

    fn ready(&mut self) {
        if self.phase == Phase::Stopped && self.kick.is_some() {
            self.phase = Phase::Waiting;
            self.start();
        }
    }

    /// Changes a parameter that cannot change while a worker runs the ring.
    fn reconfigure(&mut self, change: impl FnOnce(&mut Self)) {
        self.pause();
        change(self);
        self.start();
    }

    /// Stops the worker's ring so that it can continue later. If the worker has ended, its position is unknown. Chains
    /// that it took but did not return then count as never taken.
    fn pause(&mut self) {
        if self.phase == Phase::Running {
            let stopped_at = self.host.stop().or_else(|| self.used_idx());
            self.next_avail = stopped_at.unwrap_or(self.next_avail);
            self.phase = Phase::Waiting;
        }
    }

    /// Starts the worker's ring if the front end has started it and every parameter is known.
    fn start(&mut self) {
        let (Phase::Waiting, Some(size), Some(at)) = (self.phase, self.size, self.addresses) else {
            return;
        };
        if self.barred {
            return;
        }
        let Some(kick) = duplicate(self.kick.as_ref()) else {
            return;
        };
        self.next_avail = self.used_idx().unwrap_or(self.next_avail);
        self.host.start(RingSetup {
            size,
            descriptors: at.descriptors,
            available: at.available,
            used: at.used,
            next_avail: self.next_avail,
            kick,
            call: duplicate(self.call.as_ref()),
            error: duplicate(self.error.as_ref()),
        });
        self.phase = Phase::Running;
    }

    /// The used index in guest memory, if it is mapped.
    fn used_idx(&self) -> Option<u16> {
        self.queue.queue_used_idx().ok()
    }
}

/// Duplicates a descriptor. Without its kick a ring cannot run, so a failure is logged.
fn duplicate(file: Option<&File>) -> Option<File> {
    let copy = file?.try_clone();
    copy.inspect_err(|e| log::error!("cannot keep an event descriptor of a ring: {e}"))
        .ok()
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
