//! The control queue (5.1.6.5): a driver's orders beside the packets.
//!
//! Rare and small, so the queue of the `virtio-queue` crate serves it. What an order
//! needs a feature for is taken only with that feature, everything else is answered
//! with an error. Tables of addresses are read up to a length of ours; longer ones are
//! known to be longer, and nothing of theirs is kept. Most front ends keep this queue
//! to themselves and enable rings instead.

use super::features::Features;
use super::memory::GuestMap;
use super::ring::RingLayout;
use crate::packet::MacAddr;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT, Reader};
use vm_memory::bitmap::BitmapSlice;

/// VIRTIO_NET_OK
const OK: u8 = 0;
/// VIRTIO_NET_ERR
const ERR: u8 = 1;

/// Classes of orders and their commands (5.1.6.5.1 to 5.1.6.5.6).
mod class {
    /// VIRTIO_NET_CTRL_RX
    pub const RX: u8 = 0;
    /// VIRTIO_NET_CTRL_MAC
    pub const MAC: u8 = 1;
    pub const MAC_TABLE_SET: u8 = 0;
    pub const MAC_ADDR_SET: u8 = 1;
    /// VIRTIO_NET_CTRL_VLAN
    pub const VLAN: u8 = 2;
    pub const VLAN_ADD: u8 = 0;
    pub const VLAN_DEL: u8 = 1;
    /// VIRTIO_NET_CTRL_ANNOUNCE
    pub const ANNOUNCE: u8 = 3;
    pub const ANNOUNCE_ACK: u8 = 0;
    /// VIRTIO_NET_CTRL_MQ
    pub const MQ: u8 = 4;
    pub const MQ_PAIRS_SET: u8 = 0;
    /// VIRTIO_NET_CTRL_GUEST_OFFLOADS
    pub const OFFLOADS: u8 = 5;
    pub const OFFLOADS_SET: u8 = 0;
}

/// Addresses kept of each table. Linux has no limit of its own, QEMU keeps 64.
pub const MAC_TABLE_MAX: usize = 256;

/// Which frames the driver wants beside those for its own MAC (commands of class RX).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// All there are.
    Promiscuous,
    /// All to groups.
    AllMulticast,
    /// All to single cards.
    AllUnicast,
    /// None to groups, broadcast aside.
    NoMulticast,
    /// None to single cards.
    NoUnicast,
    /// No broadcast.
    NoBroadcast,
}

/// A table of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MacTable {
    /// No address.
    #[default]
    Empty,
    /// These, at most [`MAC_TABLE_MAX`].
    Some(Vec<MacAddr>),
    /// More than are kept: any may be among them.
    TooMany,
}

/// What the driver orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Use this many queue pairs.
    QueuePairs(u16),
    /// Switch a way of receiving on or off.
    Receive(RxMode, bool),
    /// Receive what is for these cards and these groups too.
    MacTables {
        /// Cards.
        unicast: MacTable,
        /// Groups.
        multicast: MacTable,
    },
    /// The card's MAC is this.
    MacAddress(MacAddr),
    /// Receive this VLAN (true) or do not.
    Vlan(u16, bool),
    /// The guest has announced itself as it was asked to.
    Announced,
    /// The offloads accepted on the receive side, as feature bits.
    Offloads(u64),
}

/// A running control queue.
pub struct Control {
    queue: Queue,
    map: Arc<GuestMap>,
    features: Features,
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
        queue.set_ready(true);
        if !queue.is_valid(&**map.memory()) {
            return Err(Error::QueueNotReady);
        }
        let mut control = Self { queue, map, features };
        control.set_features(features);
        Ok(control)
    }

    /// Follows newly acknowledged features.
    pub fn set_features(&mut self, features: Features) {
        self.features = features;
        self.queue.set_event_idx(features.has(VIRTIO_RING_F_EVENT_IDX));
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
            let written = match chain.clone().reader(memory).and_then(|reader| {
                let writer = chain.writer(memory)?;
                Ok((Request { reader }.parse(self.features), writer))
            }) {
                Ok((order, mut writer)) => {
                    // What cannot be answered is not carried out either.
                    let carried_out = writer.available_bytes() > 0 && order.is_some_and(&mut *act);
                    writer.write_obj(if carried_out { OK } else { ERR }).map_or(0, |()| 1)
                }
                Err(_) => 0,
            };
            self.queue.add_used(memory, head, written)?;
        }
        self.queue.needs_notification(memory)
    }
}

/// The bytes of an order.
struct Request<'a, B> {
    reader: Reader<'a, B>,
}

impl<B: BitmapSlice> Request<'_, B> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The order, if it is one and the driver has acknowledged what it needs.
    fn parse(mut self, features: Features) -> Option<Order> {
        let [class, command] = self.take()?;
        let order = match class {
            class::RX => self.receive(command, features)?,
            class::MAC if command == class::MAC_TABLE_SET && features.has(VIRTIO_NET_F_CTRL_RX) => Order::MacTables {
                unicast: self.table()?,
                multicast: self.table()?,
            },
            class::MAC if command == class::MAC_ADDR_SET && features.has(VIRTIO_NET_F_CTRL_MAC_ADDR) => {
                Order::MacAddress(MacAddr(self.take()?))
            }
            class::VLAN if features.has(VIRTIO_NET_F_CTRL_VLAN) => {
                let add = match command {
                    class::VLAN_ADD => true,
                    class::VLAN_DEL => false,
                    _ => return None,
                };
                Order::Vlan(u16::from_le_bytes(self.take()?), add)
            }
            class::ANNOUNCE if command == class::ANNOUNCE_ACK && features.has(VIRTIO_NET_F_GUEST_ANNOUNCE) => {
                Order::Announced
            }
            class::MQ if command == class::MQ_PAIRS_SET && features.has(VIRTIO_NET_F_MQ) => {
                Order::QueuePairs(u16::from_le_bytes(self.take()?))
            }
            class::OFFLOADS if command == class::OFFLOADS_SET && features.has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) => {
                Order::Offloads(u64::from_le_bytes(self.take()?))
            }
            _ => return None,
        };
        Some(order)
    }

    fn receive(&mut self, command: u8, features: Features) -> Option<Order> {
        let (mode, feature) = match command {
            0 => (RxMode::Promiscuous, VIRTIO_NET_F_CTRL_RX),
            1 => (RxMode::AllMulticast, VIRTIO_NET_F_CTRL_RX),
            2 => (RxMode::AllUnicast, VIRTIO_NET_F_CTRL_RX_EXTRA),
            3 => (RxMode::NoMulticast, VIRTIO_NET_F_CTRL_RX_EXTRA),
            4 => (RxMode::NoUnicast, VIRTIO_NET_F_CTRL_RX_EXTRA),
            5 => (RxMode::NoBroadcast, VIRTIO_NET_F_CTRL_RX_EXTRA),
            _ => return None,
        };
        let [on] = self.take()?;
        features.has(feature).then_some(Order::Receive(mode, on != 0))
    }

    /// One `virtio_net_ctrl_mac`: a number of entries, and the entries.
    fn table(&mut self) -> Option<MacTable> {
        let entries = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let bytes = entries.checked_mul(size_of::<MacAddr>())?;
        if bytes > self.reader.available_bytes() {
            return None;
        }
        if entries == 0 {
            return Some(MacTable::Empty);
        }
        if entries > MAC_TABLE_MAX {
            self.reader = self.reader.split_at(bytes).ok()?;
            return Some(MacTable::TooMany);
        }
        let table: Option<Vec<MacAddr>> = (0..entries).map(|_| self.take().map(MacAddr)).collect();
        table.map(MacTable::Some)
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
