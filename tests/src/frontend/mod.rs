//! A front end in process. It imitates QEMU, cloud-hypervisor or a UML kernel, and the guest's network driver behind
//! it.
//!
//! * [`Ram`]: guest memory in a memfd, with an allocator.
//! * [`Wire`]: vhost-user messages one by one, whether well formed or not.
//! * [`Vmm`]: a complete set-up in the order of a real front end ([`Order`]).
//! * [`Ring`]: the driver's side of a split ring, with everything a hostile guest can
//!   write to it.
//! * [`DirtyLog`]: the log that a migration reads.
//! * [`Nic`]: a driver that sends and receives frames.
//! * [`Withholding`]: not a front end, but a relay that hides features from a real one.
//!
//! It shares no code with the code under test. The packet path caches addresses, so that it can be
//! used in benches too.

mod dirty_log;
mod nic;
mod ram;
mod ring;
mod vmm;
mod wire;
mod withhold;

pub use dirty_log::DirtyLog;
pub use nic::{Header, Nic, NicConfig, Received, TransmitLayout};
pub use ram::{Ram, Region};
pub use ring::{Buffer, Ring, RingHandle, RingLayout};
pub use vmm::{Order, Vmm, VmmConfig};
pub use wire::{Reply, Wire, code};
pub use withhold::Withholding;

/// Virtio and vhost-user feature bits, as masks.
pub mod feature {
    pub use virtio_bindings::virtio_net as net;

    /// VIRTIO_F_VERSION_1
    pub const VERSION_1: u64 = 1 << 32;
    /// VIRTIO_RING_F_EVENT_IDX
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_RING_F_INDIRECT_DESC
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VHOST_USER_F_PROTOCOL_FEATURES
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// VHOST_F_LOG_ALL
    pub const LOG_ALL: u64 = 1 << 26;
    /// VIRTIO_NET_F_MRG_RXBUF
    pub const MRG_RXBUF: u64 = 1 << net::VIRTIO_NET_F_MRG_RXBUF;
    /// VIRTIO_NET_F_CTRL_VQ
    pub const CTRL_VQ: u64 = 1 << net::VIRTIO_NET_F_CTRL_VQ;
    /// VIRTIO_NET_F_MQ
    pub const MQ: u64 = 1 << net::VIRTIO_NET_F_MQ;
    /// Segmentation in both directions.
    pub const SEGMENTATION: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO4
        | 1 << net::VIRTIO_NET_F_HOST_TSO6
        | 1 << net::VIRTIO_NET_F_HOST_ECN
        | 1 << net::VIRTIO_NET_F_HOST_USO
        | 1 << net::VIRTIO_NET_F_GUEST_TSO4
        | 1 << net::VIRTIO_NET_F_GUEST_TSO6
        | 1 << net::VIRTIO_NET_F_GUEST_ECN
        | 1 << net::VIRTIO_NET_F_GUEST_USO4
        | 1 << net::VIRTIO_NET_F_GUEST_USO6;
    /// Checksum and segmentation in both directions.
    pub const OFFLOADS: u64 = 1 << net::VIRTIO_NET_F_CSUM | 1 << net::VIRTIO_NET_F_GUEST_CSUM | SEGMENTATION;
    /// The features that a current Linux driver accepts from a single-queue device.
    pub const LINUX: u64 = VERSION_1 | EVENT_IDX | INDIRECT_DESC | MRG_RXBUF | OFFLOADS;
}
