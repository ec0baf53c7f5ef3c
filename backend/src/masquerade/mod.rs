//! Masquerade: the guest's TCP, UDP and ICMP echo end here and go on as ordinary
//! host sockets, so the world sees the pod's address and the kernel's own stack.
//!
//! A burst is handled in three passes: parse and classify every frame, let each
//! protocol act on its part of the burst (TCP and UDP hand payload to the kernel
//! straight from guest memory), and leave publishing to the worker.

mod context;
mod fragmenter;
pub mod icmp;
mod link;
mod listen;
mod manner;
mod nat;
pub mod reassembly;
mod tcp;
#[cfg(test)]
mod test_support;
pub mod udp;

pub use context::Context;
pub use link::{Link, PacketSpec};
pub use listen::ListenError;
pub use nat::{AddressMap, Destination};
