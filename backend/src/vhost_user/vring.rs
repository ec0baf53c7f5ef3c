//! One ring as the daemon sees it, driving one ring of a worker.
//!
//! The daemon keeps a `VringState` and would read the ring itself; ours has no thread
//! for that. [`Vring`] lets the daemon keep its state (it reads it back to decide when a
//! ring starts) and follows every change: a ring runs while the daemon says so *and*
//! all of it is known; a change to a running ring stops it, takes the index where the
//! worker was, and starts it again.
//!
//! **Where a ring starts.** Every chain taken is returned before the worker stops, in
//! ring order, so the guest's used index says where to go on. It is believed over
//! SET_VRING_BASE: cloud-hypervisor, after a back end has come back, names the
//! *available* index, and every receive buffer posted before would be lost.

use crate::virtio::{DirtyBitmap, MAX_RING_SIZE};
use crate::worker::RingSetup;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Guest memory as the daemon keeps it.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap<DirtyBitmap>>;

/// The worker's side of one ring.
pub trait RingHost: Send {
    /// Starts the ring.
    fn start(&self, setup: RingSetup);
    /// Stops it and says where it was; `None` if the worker never ran it.
    fn stop(&self) -> Option<u16>;
    /// Lets it serve, or not.
    fn set_enabled(&self, enabled: bool);
    /// Replaces the interrupt.
    fn set_call(&self, call: Option<File>);
    /// Replaces the error notice.
    fn set_error(&self, error: Option<File>);
}

/// One ring: what the daemon thinks of it, and what the worker was told.
#[derive(Clone)]
pub struct Vring {
    daemon: VringMutex<Memory>,
    ring: Arc<Mutex<Ring>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started, or stopped by GET_VRING_BASE.
    Stopped,
    /// Started by the front end, but something is missing.
    Waiting,
    /// The worker runs it.
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    descriptors: u64,
    available: u64,
    used: u64,
}

struct Ring {
    host: Box<dyn RingHost>,
    phase: Phase,
    /// `None`: not told, or nonsense.
    size: Option<u16>,
    addresses: Option<Addresses>,
    next_avail: u16,
    kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
}

thread_local! {
    /// The daemon makes its rings by a constructor that is told nothing about them.
    /// What belongs to which lies here, in order, while it does.
    static BIRTHPLACE: RefCell<Birthplace> = const { RefCell::new(Birthplace { hosts: VecDeque::new(), made: Vec::new() }) };
}

struct Birthplace {
    hosts: VecDeque<Box<dyn RingHost>>,
    made: Vec<Vring>,
}

/// Runs `make`, which constructs a daemon on this thread, with its rings driving
/// `hosts` in order; returns the rings too.
pub fn born_with<R>(hosts: Vec<Box<dyn RingHost>>, make: impl FnOnce() -> R) -> (R, Vec<Vring>) {
    BIRTHPLACE.with_borrow_mut(|b| {
        b.hosts = hosts.into();
        b.made.clear();
    });
    let made = make();
    let rings = BIRTHPLACE.with_borrow_mut(|b| {
        b.hosts.clear();
        std::mem::take(&mut b.made)
    });
    (made, rings)
}

impl Ring {
    fn new(host: Box<dyn RingHost>) -> Self {
        Self {
            host,
            phase: Phase::Stopped,
            size: None,
            addresses: None,
            next_avail: 0,
            kick: None,
            call: None,
            error: None,
        }
    }

    /// Stops the worker if it runs the ring, to go on later. One that is gone cannot say where
    /// it was: what it took and did not return is then as if never taken.
    fn pause(&mut self, used_idx: Option<u16>) {
        if self.phase == Phase::Running {
            self.next_avail = self.host.stop().or(used_idx).unwrap_or(self.next_avail);
            self.phase = Phase::Waiting;
        }
    }

    /// Starts the worker if the front end wants it and everything is known.
    fn start(&mut self, used_idx: Option<u16>) {
        let (Phase::Waiting, Some(size), Some(at)) = (self.phase, self.size, self.addresses) else {
            return;
        };
        let Some(kick) = duplicate(self.kick.as_ref()) else {
            return;
        };
        self.next_avail = used_idx.unwrap_or(self.next_avail);
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
}

/// A ring that cannot be told of its guest's kicks cannot run; the reason is logged.
fn duplicate(file: Option<&File>) -> Option<File> {
    let copy = file?.try_clone();
    copy.inspect_err(|e| log::error!("cannot keep an event descriptor of a ring: {e}"))
        .ok()
}

impl Vring {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something a running worker cannot change under way.
    fn reconfigure(&self, change: impl FnOnce(&mut Ring)) {
        let mut ring = self.ring();
        ring.pause(self.daemon.queue_used_idx().ok());
        change(&mut ring);
        ring.start(self.daemon.queue_used_idx().ok());
    }

    /// Back to the state before anything was said about the ring, for a device reset
    /// and for a front end that is gone.
    pub fn reset(&self) {
        self.set_enabled(false);
        self.set_queue_ready(false);
        for set in [Self::set_kick, Self::set_call, Self::set_err] {
            set(self, None);
        }
        self.daemon.set_queue_next_avail(0);
        let mut ring = self.ring();
        ring.size = None;
        ring.addresses = None;
        ring.next_avail = 0;
    }
}

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Vring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let daemon = VringMutex::new(mem, max_queue_size)?;
        BIRTHPLACE.with_borrow_mut(|b| {
            let host = b.hosts.pop_front().ok_or(QueueError::QueueNotReady)?;
            let vring = Self {
                daemon,
                ring: Arc::new(Mutex::new(Ring::new(host))),
            };
            b.made.push(vring.clone());
            Ok(vring)
        })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.daemon.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.daemon.get_mut()
    }

    fn set_enabled(&self, enabled: bool) {
        self.daemon.set_enabled(enabled);
        self.ring().host.set_enabled(enabled);
    }

    fn set_queue_info(&self, descriptors: u64, available: u64, used: u64) -> Result<(), QueueError> {
        self.daemon.set_queue_info(descriptors, available, used)?;
        let addresses = Some(Addresses {
            descriptors,
            available,
            used,
        });
        // QEMU tells running rings their addresses again when a migration starts.
        if self.ring().addresses != addresses {
            self.reconfigure(|ring| ring.addresses = addresses);
        }
        Ok(())
    }

    fn set_queue_size(&self, num: u16) {
        self.daemon.set_queue_size(num);
        let size = (num.is_power_of_two() && num <= MAX_RING_SIZE).then_some(num);
        if size.is_none() {
            log::warn!(
                "the front end asks for a ring of {num} descriptors, which will not start: \
                 give it a power of two up to {MAX_RING_SIZE}"
            );
        }
        if self.ring().size != size {
            self.reconfigure(|ring| ring.size = size);
        }
    }

    fn queue_next_avail(&self) -> u16 {
        self.ring().next_avail
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.daemon.set_queue_next_avail(base);
        let mut ring = self.ring();
        // A running ring knows better where it is.
        if ring.phase != Phase::Running {
            ring.next_avail = base;
        }
    }

    fn set_queue_ready(&self, ready: bool) {
        self.daemon.set_queue_ready(ready);
        let mut ring = self.ring();
        if !ready {
            ring.pause(self.daemon.queue_used_idx().ok());
            ring.phase = Phase::Stopped;
        } else if ring.phase == Phase::Stopped {
            ring.phase = Phase::Waiting;
            ring.start(self.daemon.queue_used_idx().ok());
        }
    }

    fn set_kick(&self, file: Option<File>) {
        let ours = duplicate(file.as_ref());
        self.daemon.set_kick(file);
        self.reconfigure(|ring| ring.kick = ours);
    }

    fn set_call(&self, file: Option<File>) {
        let mut ring = self.ring();
        ring.call = duplicate(file.as_ref());
        if ring.phase == Phase::Running {
            ring.host.set_call(duplicate(file.as_ref()));
        }
        drop(ring);
        self.daemon.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        let mut ring = self.ring();
        ring.error = duplicate(file.as_ref());
        if ring.phase == Phase::Running {
            ring.host.set_error(duplicate(file.as_ref()));
        }
        drop(ring);
        self.daemon.set_err(file);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.daemon.queue_used_idx()
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.daemon.set_queue_next_used(idx);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.daemon.set_queue_event_idx(enabled);
    }

    // What follows is how a vring thread would use a ring; there is none.

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.daemon.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.daemon.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.daemon.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.daemon.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.daemon.needs_notification()
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.daemon.read_kick()
    }
}

#[cfg(test)]
#[path = "vring_tests.rs"]
mod tests;
