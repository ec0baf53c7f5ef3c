//! The control queue (5.1.6.5), on which the driver sends commands.
//!
//! Commands are rare and small. A command is executed only if the driver has acknowledged its feature. Any other
//! command is answered with an error. Each part of a command is copied out of guest memory once and checked on the
//! copy. Address tables are read up to [`MAC_TABLE_MAX`] entries. For a longer table, only the fact that it is longer
//! is kept. Most front ends serve this queue themselves and enable rings instead.

use super::features::Features;
use super::memory::GuestMap;
use super::ring::{Ring, RingError, RingLayout, Segments};
use crate::frame::{GuestSlice, copy_from_guest};
use crate::packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ,
};

/// VIRTIO_NET_OK
const OK: u8 = 0;
/// VIRTIO_NET_ERR
const ERR: u8 = 1;

/// Command classes (5.1.6.5.1 to 5.1.6.5.6).
mod class {
    /// VIRTIO_NET_CTRL_RX
    pub(super) const RX: u8 = 0;
    /// VIRTIO_NET_CTRL_MAC
    pub(super) const MAC: u8 = 1;
    pub(super) const MAC_TABLE_SET: u8 = 0;
    pub(super) const MAC_ADDR_SET: u8 = 1;
    /// VIRTIO_NET_CTRL_VLAN
    pub(super) const VLAN: u8 = 2;
    pub(super) const VLAN_ADD: u8 = 0;
    pub(super) const VLAN_DEL: u8 = 1;
    /// VIRTIO_NET_CTRL_ANNOUNCE
    pub(super) const ANNOUNCE: u8 = 3;
    pub(super) const ANNOUNCE_ACK: u8 = 0;
    /// VIRTIO_NET_CTRL_MQ
    pub(super) const MQ: u8 = 4;
    pub(super) const MQ_PAIRS_SET: u8 = 0;
    /// VIRTIO_NET_CTRL_GUEST_OFFLOADS
    pub(super) const OFFLOADS: u8 = 5;
    pub(super) const OFFLOADS_SET: u8 = 0;
}

/// Maximum commands served in one turn, while frames wait.
const ORDERS_PER_TURN: usize = 64;

/// Maximum addresses kept per table. Linux has no limit; QEMU keeps 64.
pub const MAC_TABLE_MAX: usize = 256;

/// A receive mode: frames that the driver wants in addition to those for its own MAC (commands of class RX).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// All frames.
    Promiscuous,
    /// All multicast frames.
    AllMulticast,
    /// All unicast frames.
    AllUnicast,
    /// No multicast frames, except broadcast.
    NoMulticast,
    /// No unicast frames.
    NoUnicast,
    /// No broadcast frames.
    NoBroadcast,
}

/// A MAC filter table of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MacTable {
    /// The table has no address.
    #[default]
    Empty,
    /// These addresses, at most [`MAC_TABLE_MAX`].
    Some(Vec<MacAddr>),
    /// The table has more addresses than are kept, so any address may be in it.
    TooMany,
}

/// A command from the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Uses this many queue pairs.
    QueuePairs(u16),
    /// Switches a receive mode on (true) or off.
    Receive(RxMode, bool),
    /// Replaces the MAC filter tables.
    MacTables {
        /// Unicast addresses to receive.
        unicast: MacTable,
        /// Multicast addresses to receive.
        multicast: MacTable,
    },
    /// Sets the MAC address of the NIC.
    MacAddress(MacAddr),
    /// Starts (true) or stops receiving frames of this VLAN.
    Vlan(u16, bool),
    /// Reports that the guest has announced itself as requested.
    Announced,
    /// Sets the offloads accepted on the receive side, as feature bits.
    Offloads(u64),
}

/// Work that remains after a turn of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// True if the driver wants an interrupt for the answers.
    pub call: bool,
    /// True if there may be more commands. The queue is then served again without a kick.
    pub more: bool,
}

/// A running control queue.
pub struct Control {
    ring: Ring,
    segments: Segments,
    features: Features,
}

debug_fields!(Control { ring });

impl Control {
    /// Starts using a control queue.
    ///
    /// # Errors
    /// The address or size of the queue is invalid.
    pub fn new(map: Arc<GuestMap>, layout: RingLayout, features: Features) -> Result<Self, RingError> {
        Ok(Self {
            ring: Ring::new(map, layout, features)?,
            segments: Segments::default(),
            features,
        })
    }

    /// Applies newly acknowledged features.
    pub const fn set_features(&mut self, features: Features) {
        self.features = features;
        self.ring.set_features(features);
    }

    /// The addresses of the queue, and the position from which a successor continues.
    pub const fn layout(&self) -> RingLayout {
        self.ring.layout()
    }

    /// Number of descriptors visited in the last turn.
    pub const fn visited(&self) -> usize {
        self.ring.visited()
    }

    /// Answers commands. `act` executes a command and returns whether it did so.
    ///
    /// # Errors
    /// The queue is broken and must stop.
    pub fn serve(&mut self, act: &mut dyn FnMut(Order) -> bool) -> Result<Served, RingError> {
        self.ring.forget_visited();
        let mut orders = 0;
        let result = loop {
            match self.ring.pop(&mut self.segments) {
                // Frames are served in between, no matter how fast the guest posts commands.
                Ok(Some(chain)) => {
                    let written = self.answer(chain.first + chain.readable, act);
                    self.ring.push_used(chain.head, written);
                    self.segments.clear();
                    orders += 1;
                    if orders == ORDERS_PER_TURN {
                        break Ok(true);
                    }
                }
                Ok(None) => match self.ring.enable_kicks() {
                    Ok(true) => {}
                    stop => break stop,
                },
                Err(error) => break Err(error),
            }
        };
        self.ring.publish();
        Ok(Served {
            more: result?,
            call: self.ring.wants_call(),
        })
    }

    /// Executes the command in the buffers before `writable` and writes the answer into the buffers after it. Returns
    /// the number of bytes written.
    fn answer(&mut self, writable: usize, act: &mut dyn FnMut(Order) -> bool) -> u32 {
        // A command without room for an answer is not executed.
        if writable == self.segments.len() {
            return 0;
        }
        let request = Request {
            slices: self.segments.slices(0..writable),
            at: 0,
        };
        let carried_out = request.parse(self.features).is_some_and(act);
        let answer = if carried_out { OK } else { ERR };
        let room = self.segments.slices_mut(writable..writable + 1);
        room[0].copy_from(&[answer]);
        self.ring.mark_written(room[0].as_ptr(), 1);
        1
    }
}

/// Reads the bytes of a command from the front, each byte once.
struct Request<'g> {
    slices: &'g [GuestSlice<'g>],
    at: usize,
}

impl Request<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let n = copy_from_guest(self.slices, self.at, &mut bytes);
        self.at += n;
        (n == N).then_some(bytes)
    }

    /// Skips `n` bytes; `None` if there are fewer.
    fn skip(&mut self, n: usize) -> Option<()> {
        let total: usize = self.slices.iter().map(GuestSlice::len).sum();
        let left = total - self.at;
        self.at += n;
        (n <= left).then_some(())
    }

    /// The command, if it is valid and the driver has acknowledged the feature that it needs.
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

    /// Reads one `virtio_net_ctrl_mac`: the number of entries, then the entries.
    fn table(&mut self) -> Option<MacTable> {
        let entries = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let bytes = entries.checked_mul(size_of::<MacAddr>())?;
        if entries == 0 {
            return Some(MacTable::Empty);
        }
        if entries > MAC_TABLE_MAX {
            self.skip(bytes)?;
            return Some(MacTable::TooMany);
        }
        let mut table = vec![0; bytes];
        let n = copy_from_guest(self.slices, self.at, &mut table);
        self.at += n;
        let (macs, []) = table.as_chunks() else { return None };
        (n == bytes).then(|| MacTable::Some(macs.iter().copied().map(MacAddr).collect()))
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
