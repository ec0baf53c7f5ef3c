//! A device without a port, for tests and fuzzing of sessions. It records every request that reaches it.

use super::memory::Memory;
use super::ring::RingHost;
use super::session::{NetDevice, Session};
use crate::mode::Departure;
use crate::packet::MacAddr;
use crate::virtio::{DirtyBitmap, MAX_RING_SIZE};
use crate::worker::RingSetup;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use vhost::vhost_user::message::{VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;

/// Virtio features that the device offers.
pub const FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | 1 << 26 | 1;
/// The smallest MTU that it accepts.
pub const MTU: u64 = 1500;
/// Its configuration space.
pub const CONFIG: &[u8] = b"config";

/// A request that has reached the device or one of its rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// SEND_RARP
    Announced(MacAddr),
    /// NET_SET_MTU
    Mtu(u64),
    /// SET_BACKEND_REQ_FD
    BackChannel,
    /// SET_FEATURES
    Features(u64),
    /// Guest memory changed; it now has this many regions.
    Memory(usize),
    /// RESET_DEVICE
    Reset,
    /// The front end is gone.
    Detached(Departure),
    /// A ring was enabled, or disabled.
    Enabled(usize, bool),
    /// A ring started with this many descriptors.
    Started(usize, u16),
    /// A ring stopped.
    Stopped(usize),
}

/// The events of one device, in order; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// The events since the last call.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device that records its events.
#[derive(Debug)]
pub struct Recorder {
    events: Events,
    queue_pairs: usize,
}

/// A session with a device of `queue_pairs`, with `rings` rings in total.
///
/// # Panics
/// Never, because the ring size is a constant.
pub fn session(queue_pairs: usize, rings: usize) -> (Session<Recorder>, Events) {
    let events = Events::default();
    let host = |ring| -> Box<dyn RingHost> {
        let events = events.clone();
        Box::new(Host { events, ring })
    };
    let hosts = (0..rings).map(host).collect();
    let device = Recorder {
        events: events.clone(),
        queue_pairs,
    };
    (Session::new(device, hosts).expect("a valid size"), events)
}

impl VhostUserBackend for Recorder {
    type Bitmap = DirtyBitmap;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        2 * self.queue_pairs
    }

    fn max_queue_size(&self) -> usize {
        MAX_RING_SIZE.into()
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn acked_features(&self, features: u64) {
        self.events.push(Event::Features(features));
    }

    fn protocol_features(&self) -> Protocol {
        Protocol::CONFIG | Protocol::CONFIGURE_MEM_SLOTS | Protocol::LOG_SHMFD | Protocol::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.events.push(Event::Reset);
    }

    fn set_event_idx(&self, _: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let [offset, size] = [offset, size].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        CONFIG.iter().copied().skip(offset).take(size).collect()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.events.push(Event::Memory(memory.memory().num_regions()));
        Ok(())
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Self::Vring], _: usize) -> io::Result<()> {
        Ok(())
    }
}

impl NetDevice for Recorder {
    fn queue_pairs(&self) -> usize {
        self.queue_pairs
    }

    fn announce(&self, mac: MacAddr) {
        self.events.push(Event::Announced(mac));
    }

    fn set_mtu(&self, mtu: u64) -> bool {
        self.events.push(Event::Mtu(mtu));
        mtu >= MTU
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn set_back_channel(&self, _: OwnedFd) {
        self.events.push(Event::BackChannel);
    }

    fn set_active(&self, _: bool) {}

    fn detach(&self, departure: Departure) {
        self.events.push(Event::Detached(departure));
    }
}

struct Host {
    events: Events,
    ring: usize,
}

impl RingHost for Host {
    fn start(&self, setup: RingSetup) {
        self.events.push(Event::Started(self.ring, setup.size));
    }

    fn stop(&self) -> Option<u16> {
        self.events.push(Event::Stopped(self.ring));
        None
    }

    fn set_enabled(&self, enabled: bool) {
        self.events.push(Event::Enabled(self.ring, enabled));
    }

    fn set_call(&self, _: Option<File>) {}

    fn set_error(&self, _: Option<File>) {}
}
