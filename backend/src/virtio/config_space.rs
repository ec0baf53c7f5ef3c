//! The device configuration space of virtio-net (5.1.4), as bytes.

use crate::packet::MacAddr;
use std::num::NonZeroU16;

/// VIRTIO_NET_S_LINK_UP
const STATUS_LINK_UP: u16 = 1;
/// Value for an unknown "speed" or "duplex" (5.1.4).
const SPEED_UNKNOWN: u32 = u32::MAX;
const DUPLEX_UNKNOWN: u8 = 0xff;

/// Properties of a NIC that the driver sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// MAC address. `None` if the front end or the guest chooses it.
    pub mac: Option<MacAddr>,
    /// MTU of the NIC, in bytes.
    pub mtu: u16,
    /// Offered queue pairs. Each consists of one receive and one transmit queue.
    pub queue_pairs: NonZeroU16,
}

/// The device configuration space: mac, status, max_virtqueue_pairs, mtu, speed, duplex. All fields
/// are read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace([u8; Self::LEN]);

impl ConfigSpace {
    /// Length in bytes of the fields that hawser sets.
    pub const LEN: usize = 17;

    /// The configuration space for `config` and the state of the link.
    pub fn new(config: DeviceConfig, link_up: bool) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..6].copy_from_slice(&config.mac.unwrap_or_default().0);
        let status = if link_up { STATUS_LINK_UP } else { 0 };
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[8..10].copy_from_slice(&config.queue_pairs.get().to_le_bytes());
        bytes[10..12].copy_from_slice(&config.mtu.to_le_bytes());
        bytes[12..16].copy_from_slice(&SPEED_UNKNOWN.to_le_bytes());
        bytes[16] = DUPLEX_UNKNOWN;
        Self(bytes)
    }

    /// Reads `size` bytes, starting at `offset`. Bytes beyond the known fields are zero.
    pub fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let known = usize::try_from(offset)
            .ok()
            .and_then(|at| self.0.get(at..))
            .unwrap_or_default();
        let size = usize::try_from(size).unwrap_or(0);
        let mut bytes: Vec<u8> = known.iter().copied().take(size).collect();
        bytes.resize(size, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::features::tests::device;

    #[test]
    fn fields_stand_where_the_driver_reads_them() {
        let config = DeviceConfig {
            mac: Some("02:00:00:12:34:56".parse().unwrap()),
            mtu: 9000,
            ..device(4)
        };
        let space = ConfigSpace::new(config, true);
        let expected = [
            2, 0, 0, 0x12, 0x34, 0x56, 1, 0, 4, 0, 0x28, 0x23, 255, 255, 255, 255, 255,
        ];
        assert_eq!(space.read(0, 17), expected);
        assert_eq!(space.read(10, 2), [0x28, 0x23]);
    }

    #[test]
    fn reads_beyond_the_fields_give_zeros() {
        let space = ConfigSpace::new(device(1), true);
        assert_eq!(space.read(16, 3), [255, 0, 0]);
        assert_eq!(space.read(u32::MAX, 2), [0, 0]);
        assert_eq!(space.read(0, 0), [0u8; 0]);
    }
}
