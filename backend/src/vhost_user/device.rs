//! A port as a vhost-user device ([`VhostUserBackend`], [`NetDevice`]): requests become commands
//! to the workers.

use super::memory::Memory;
use super::message::Message;
use super::ring::RingHost;
use super::session::NetDevice;
use crate::mode::{Departure, ModeCommand};
use crate::packet::MacAddr;
use crate::port::{Moment, Port};
use crate::sys::userfault;
use crate::virtio::{ConfigSpace, DirtyBitmap, GuestMap, MAX_RING_SIZE, features};
use crate::worker::{RingRole, RingSetup, WorkerHandle};
use rustix::net::SendFlags;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringMutex};
use virtio_bindings::virtio_net::VIRTIO_NET_F_CTRL_VQ;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;

/// Smallest MTU that a virtio-net device may have, in bytes (virtio 5.1.4.1).
const MTU_MIN: u64 = 68;
/// Largest MTU that a virtio-net device may have, in bytes.
const MTU_MAX: u64 = 65535;

/// A port as the device of one connection.
pub struct Device {
    port: Arc<Port>,
    /// The memory map that the workers use. The next map inherits its dirty log.
    memory: Mutex<Option<Arc<GuestMap>>>,
    /// False while another session has the workers.
    active: Arc<AtomicBool>,
    /// What the front end has set, for the moment at which this session gets the workers.
    set: Mutex<Set>,
    back_channel: BackChannel,
}

/// Whether the device asks for a socket for its own requests (BACKEND_REQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackChannel {
    Offered,
    Withheld,
}

/// What a front end has set.
#[derive(Default)]
struct Set {
    features: u64,
    /// MTU that it shows the guest; `None` for that of the port.
    mtu: Option<u16>,
    memory: Option<Memory>,
}

debug_fields!(Device { port });

impl Device {
    /// The device of `port`.
    pub fn new(port: Arc<Port>) -> Self {
        Self {
            port,
            memory: Mutex::new(None),
            active: Arc::new(AtomicBool::new(true)),
            set: Mutex::default(),
            back_channel: BackChannel::Offered,
        }
    }

    /// The device for a front end whose connection was inherited from its VMM. QEMU's `-netdev passt` closes the number
    /// of its end twice, and a socket for the device's requests that got that number would be closed by the second time.
    pub fn on_inherited(port: Arc<Port>) -> Self {
        Self {
            back_channel: BackChannel::Withheld,
            ..Self::new(port)
        }
    }

    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_memory(&self, memory: &Memory) {
        let mut current = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::new(GuestMap::new(memory.memory().into_inner(), current.as_deref()));
        self.for_each_worker(|worker| worker.set_memory(Arc::clone(&map)));
        *current = Some(map);
    }

    /// The workers' side of every ring, in the order of virtio 5.1.2: receive and transmit of each pair, then control
    /// if it is offered.
    pub fn ring_hosts(&self) -> Vec<Box<dyn RingHost>> {
        let host = |worker, role| -> Box<dyn RingHost> {
            Box::new(WorkerRing {
                port: Arc::clone(&self.port),
                active: Arc::clone(&self.active),
                worker,
                role,
            })
        };
        let pairs = 0..self.port.workers().len();
        let mut hosts: Vec<_> = pairs
            .flat_map(|i| [host(i, RingRole::Receive), host(i, RingRole::Transmit)])
            .collect();
        if self.offers_control_ring() {
            hosts.push(host(0, RingRole::Control));
        }
        hosts
    }

    fn apply_mtu(&self) {
        let mtu = self.set().mtu.unwrap_or(self.port.config().mtu);
        self.for_each_worker(|worker| worker.command_mode(ModeCommand::Mtu(mtu)));
    }

    fn offers_control_ring(&self) -> bool {
        features::offered(self.port.device()) & (1 << VIRTIO_NET_F_CTRL_VQ) != 0
    }

    fn for_each_worker(&self, f: impl FnMut(&WorkerHandle)) {
        self.port.workers().iter().for_each(f);
    }
}

impl VhostUserBackend for Device {
    type Bitmap = DirtyBitmap;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        2 * self.port.workers().len() + usize::from(self.offers_control_ring())
    }

    fn max_queue_size(&self) -> usize {
        MAX_RING_SIZE.into()
    }

    fn features(&self) -> u64 {
        features::offered(self.port.device())
    }

    fn acked_features(&self, features: u64) {
        self.set().features = features;
        if self.is_active() {
            self.for_each_worker(|worker| worker.set_features(features));
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as P;
        let mut offered = P::CONFIG | P::CONFIGURE_MEM_SLOTS | P::LOG_SHMFD | P::MTU | P::RARP | P::RESET_DEVICE;
        offered.set(P::BACKEND_REQ, self.back_channel == BackChannel::Offered);
        offered.set(P::PAGEFAULT, userfault::is_supported());
        offered.set(P::MQ, self.port.workers().len() > 1);
        offered
    }

    fn reset_device(&self) {
        self.set().features = 0;
        if self.is_active() {
            self.for_each_worker(WorkerHandle::reset);
            self.for_each_worker(|worker| worker.set_features(0));
        }
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The workers take this from the acknowledged features.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        ConfigSpace::new(self.port.device(), self.port.link().is_up()).read(offset, size)
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        if self.is_active() {
            self.apply_memory(&memory);
        }
        self.set().memory = Some(memory);
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // None, because the port has workers of its own.
        Vec::new()
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Self::Vring], _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl NetDevice for Device {
    fn queue_pairs(&self) -> usize {
        self.port.workers().len()
    }

    fn announce(&self, mac: MacAddr) {
        if self.is_active() {
            self.port.announce(Some(mac));
        }
    }

    fn set_mtu(&self, mtu: u64) -> bool {
        let config = self.port.config();
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            log::warn!("port {}: the front end gives the NIC an MTU of {mtu}", config.name);
            return false;
        }
        // The guest may send less than a port can take. A port does not send more than its own MTU.
        let smaller = u16::try_from(mtu).ok().filter(|mtu| *mtu < config.mtu);
        if let Some(mtu) = smaller {
            log::info!(
                "port {}: the guest is told an MTU of {mtu}, which the front end has set; the port has {}",
                config.name,
                config.mtu
            );
        }
        self.set().mtu = smaller;
        if self.is_active() {
            self.apply_mtu();
        }
        true
    }

    fn mtu(&self) -> Option<u16> {
        self.set().mtu
    }

    fn set_back_channel(&self, channel: OwnedFd) {
        self.port.link().tell(Some(Box::new(move || {
            // If the front end does not read or has gone, the message is lost. Nothing waits for it.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&channel, Message::config_change().bytes(), flags);
        })));
    }

    fn set_active(&self, active: bool) {
        if self.active.swap(active, Ordering::Relaxed) == active || !active {
            return;
        }
        self.apply_mtu();
        let set = self.set();
        self.for_each_worker(|worker| worker.set_features(set.features));
        if let Some(memory) = &set.memory {
            self.apply_memory(memory);
        }
    }

    fn on_stopped(&self) {
        self.port.moments().tell(Moment::Stopped);
    }

    fn detach(&self, departure: Departure) {
        self.port.moments().tell(Moment::Gone(departure));
        self.port.link().tell(None);
        if self.set().mtu.take().is_some() {
            self.apply_mtu();
        }
        // All rings stop together, so that a guest that still runs sends nothing more to a mode whose link is down.
        self.for_each_worker(|worker| worker.clear_memory(departure));
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One ring, as the handle of the worker that runs it.
struct WorkerRing {
    port: Arc<Port>,
    /// False while another session has the workers.
    active: Arc<AtomicBool>,
    worker: usize,
    role: RingRole,
}

impl WorkerRing {
    fn handle(&self) -> &WorkerHandle {
        &self.port.workers()[self.worker]
    }
}

impl RingHost for WorkerRing {
    fn start(&self, setup: RingSetup) {
        // The guest used this ring before, perhaps elsewhere. A segment may still expect it there.
        let came = setup.next_avail != 0 && self.worker == 0 && self.role == RingRole::Receive;
        self.handle().start_ring(self.role, setup);
        self.port.moments().tell(Moment::Started);
        if came {
            self.port.announce(None);
        }
    }

    fn stop(&self) -> Option<u16> {
        self.handle().stop_ring(self.role)
    }

    fn set_enabled(&self, enabled: bool) {
        if self.active.load(Ordering::Relaxed) {
            self.handle().set_enabled(self.role, enabled);
        }
    }

    fn set_call(&self, call: Option<File>) {
        self.handle().set_call(self.role, call);
    }

    fn set_error(&self, error: Option<File>) {
        self.handle().set_error(self.role, error);
    }
}
