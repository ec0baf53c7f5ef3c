//! The control queue (5.1.6.5): a driver's orders beside the packets.
//!
//! Rare and small, so the queue of the `virtio-queue` crate serves it. The one class we
//! offer is MQ; everything else needs features we do not offer and is answered with
//! an error. Most front ends keep this queue to themselves and enable rings instead.

use super::features::Features;
use super::memory::GuestMap;
use super::ring::RingLayout;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};

/// VIRTIO_NET_OK
const OK: u8 = 0;
/// VIRTIO_NET_ERR
const ERR: u8 = 1;
/// VIRTIO_NET_CTRL_MQ
const CLASS_MQ: u8 = 4;
/// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
const MQ_PAIRS_SET: u8 = 0;

/// What the driver orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Use this many queue pairs.
    QueuePairs(u16),
}

/// A running control queue.
pub struct Control {
    queue: Queue,
    map: Arc<GuestMap>,
}

impl Control {
    /// Takes a control queue up.
    ///
    /// # Errors
    /// The queue's place or size is wrong.
    pub fn new(map: Arc<GuestMap>, layout: RingLayout, features: Features) -> Result<Self, Error> {
        let mut queue = Queue::new(super::MAX_RING_SIZE)?;
        queue.try_set_size(layout.size)?;
        queue.try_set_desc_table_address(vm_memory::GuestAddress(layout.descriptors))?;
        queue.try_set_avail_ring_address(vm_memory::GuestAddress(layout.available))?;
        queue.try_set_used_ring_address(vm_memory::GuestAddress(layout.used))?;
        queue.set_next_avail(layout.next_avail);
        let used = queue.used_idx(&**map.memory(), Ordering::Relaxed)?;
        queue.set_next_used(used.0);
        queue.set_event_idx(features.has(VIRTIO_RING_F_EVENT_IDX));
        queue.set_ready(true);
        if queue.is_valid(&**map.memory()) {
            Ok(Self { queue, map })
        } else {
            Err(Error::QueueNotReady)
        }
    }

    /// Where another takes the queue up.
    pub fn layout(&self) -> RingLayout {
        RingLayout {
            size: self.queue.size(),
            descriptors: self.queue.desc_table(),
            available: self.queue.avail_ring(),
            used: self.queue.used_ring(),
            next_avail: self.queue.next_avail(),
        }
    }

    /// Answers all orders; `act` says whether it could carry one out. Returns whether
    /// the driver is to be told.
    ///
    /// # Errors
    /// The queue is broken and must stop.
    pub fn serve(&mut self, act: &mut dyn FnMut(Order) -> bool) -> Result<bool, Error> {
        let memory = Arc::clone(self.map.memory());
        let memory = &*memory;
        // No more turns than the queue has entries, however fast the guest is.
        for _ in 0..=self.queue.size() {
            let Some(chain) = self.queue.iter(memory)?.next() else {
                if self.queue.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let written = match chain.clone().reader(memory).and_then(|mut reader| {
                let writer = chain.writer(memory)?;
                let mut request = [0; 4];
                let n = reader.read(&mut request).unwrap_or(0);
                Ok((parse(&request[..n]), writer))
            }) {
                Ok((order, mut writer)) => {
                    let ack = if order.is_some_and(&mut *act) { OK } else { ERR };
                    writer.write_obj(ack).map_or(0, |()| 1)
                }
                Err(_) => 0,
            };
            self.queue.add_used(memory, head, written)?;
        }
        self.queue.needs_notification(memory)
    }
}

/// Class, command and data of an order we know.
fn parse(request: &[u8]) -> Option<Order> {
    match *request {
        [CLASS_MQ, MQ_PAIRS_SET, low, high] => Some(Order::QueuePairs(u16::from_le_bytes([low, high]))),
        _ => None,
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
