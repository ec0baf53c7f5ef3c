//! The virtio feature bits that a NIC offers, and the meaning of those that the driver acknowledges.

use super::config_space::DeviceConfig;
use crate::frame::GuestCaps;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// VHOST_F_LOG_ALL: while it is acknowledged, pages that hawser writes are logged.
pub const LOG_ALL: u64 = 1 << 26;
/// VHOST_USER_F_PROTOCOL_FEATURES.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The features that a driver changes with VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET (5.1.6.5.6).
pub const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// The features that a NIC offers.
pub fn offered(config: DeviceConfig) -> u64 {
    let mut features = LOG_ALL | PROTOCOL_FEATURES;
    for bit in [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_NET_F_CSUM,
        VIRTIO_NET_F_GUEST_CSUM,
        VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_HOST_TSO6,
        VIRTIO_NET_F_HOST_ECN,
        VIRTIO_NET_F_HOST_USO,
        VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_GUEST_TSO6,
        VIRTIO_NET_F_GUEST_ECN,
        VIRTIO_NET_F_GUEST_USO4,
        VIRTIO_NET_F_GUEST_USO6,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_MTU,
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_CTRL_RX,
        VIRTIO_NET_F_CTRL_RX_EXTRA,
        VIRTIO_NET_F_CTRL_VLAN,
        VIRTIO_NET_F_CTRL_MAC_ADDR,
        VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        VIRTIO_NET_F_GUEST_ANNOUNCE,
    ] {
        features |= 1 << bit;
    }
    if config.mac.is_some() {
        features |= 1 << VIRTIO_NET_F_MAC;
    }
    // A driver behind a front end without multiqueue (UML's) fails if MQ is offered, so MQ is
    // offered only if several pairs are configured.
    if config.queue_pairs.get() > 1 {
        features |= 1 << VIRTIO_NET_F_MQ;
    }
    features
}

/// The acknowledged feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// True if feature `bit` was acknowledged.
    pub const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// True if pages that hawser writes must be logged.
    pub const fn log_all(self) -> bool {
        self.0 & LOG_ALL != 0
    }

    /// The offloads that the guest accepts on its receive side.
    pub const fn guest_caps(self) -> GuestCaps {
        // Every segmentation offload needs GUEST_CSUM (5.1.3.1), so a driver without it gets none.
        let checksum = self.has(VIRTIO_NET_F_GUEST_CSUM);
        GuestCaps {
            checksum,
            tso4: checksum && self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: checksum && self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: checksum && self.has(VIRTIO_NET_F_GUEST_ECN),
            uso4: checksum && self.has(VIRTIO_NET_F_GUEST_USO4),
            uso6: checksum && self.has(VIRTIO_NET_F_GUEST_USO6),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::packet::MacAddr;
    use std::num::NonZeroU16;

    /// The configuration of a NIC with this many queue pairs.
    pub(crate) fn device(queue_pairs: u16) -> DeviceConfig {
        DeviceConfig {
            mac: None,
            mtu: 1500,
            queue_pairs: NonZeroU16::new(queue_pairs).unwrap(),
        }
    }

    #[test]
    fn several_queues_are_offered_only_where_they_were_asked_for() {
        let one = Features(offered(device(1)));
        assert!(!one.has(VIRTIO_NET_F_MQ) && one.has(VIRTIO_NET_F_CTRL_VQ));
        let two = Features(offered(device(2)));
        assert!(two.has(VIRTIO_NET_F_MQ) && two.has(VIRTIO_NET_F_CTRL_VQ));
    }

    #[test]
    fn a_mac_is_offered_only_where_there_is_one() {
        assert!(!Features(offered(device(1))).has(VIRTIO_NET_F_MAC));
        let config = DeviceConfig {
            mac: Some(MacAddr([2, 0, 0, 0, 0, 0])),
            ..device(1)
        };
        assert!(Features(offered(config)).has(VIRTIO_NET_F_MAC));
    }

    #[test]
    fn no_offload_towards_the_guest_without_its_checksum() {
        let all = offered(device(1));
        let caps = Features(all).guest_caps();
        assert!(caps.checksum && caps.tso4 && caps.tso6 && caps.ecn && caps.uso4 && caps.uso6);
        let without = Features(all & !(1 << VIRTIO_NET_F_GUEST_CSUM));
        assert_eq!(without.guest_caps(), GuestCaps::default());
    }
}
