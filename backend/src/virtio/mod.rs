//! The device side of virtio-net (virtio 1.3, chapters 2.7 and 5.1) on memory shared with the guest: split rings,
//! packet headers, features and the configuration space.
//!
//! The guest is assumed to be hostile. Everything in its memory is read once, checked, and used from the copy. An
//! inconsistent ring results in an error value, which stops only that ring.

pub mod complete;
pub mod config_space;
pub mod control;
pub mod dirty_log;
pub mod features;
pub mod memory;
pub mod net_header;
pub mod receive;
pub mod ring;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transmit;

pub use config_space::ConfigSpace;
pub use dirty_log::DirtyBitmap;
pub use memory::GuestMap;

/// Size of the largest ring that virtio allows (2.7: "the maximum Queue Size value is 32768").
pub const MAX_RING_SIZE: u16 = 32768;
