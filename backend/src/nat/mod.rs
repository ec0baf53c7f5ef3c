//! NAT through host sockets. The guest's TCP, UDP and ICMP echo are terminated here and continued on host sockets, so
//! the network sees the host's addresses and the kernel's own stack.
//!
//! [`engine::Engine`] contains all of it, one per worker. A burst is handled in two passes: each frame is classified on
//! its copied head, then each protocol handles its part of the burst (TCP and UDP pass payload to the kernel directly
//! from guest memory). Gateway, guest and address map are values of the engine; nothing here depends on the mode that
//! owns it.

pub mod address_map;
pub mod addresses;
mod classify;
pub mod context;
pub mod engine;
pub mod event_owner;
pub mod flow_owners;
pub mod following;
mod fragmenter;
pub mod handover;
pub mod icmp;
mod index;
mod ip_options;
pub mod link;
pub mod listen;
mod moving;
pub mod reassembly;
mod recency;
pub mod saved;
pub mod services;
pub mod setup;
pub mod steering;
pub mod tcp;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(any(test, feature = "testing"))]
mod testing;
pub mod udp;
