//! NAT on host sockets: TCP, UDP and ICMP echo of the guest are terminated here and continue on
//! sockets of the host, so that the network sees the host's addresses and the kernel's own stack.
//!
//! [`engine::Engine`] contains all of it, one per worker. A burst is handled in two passes: each
//! frame is classified on its copied head, then each protocol handles its part of the burst (TCP
//! and UDP pass payload to the kernel directly from guest memory). Gateway, guest and address map
//! are values of the engine; nothing here knows the mode that owns it.

pub mod address_map;
pub mod addresses;
mod classify;
pub mod context;
pub mod engine;
pub mod event_owner;
pub mod flow_owners;
mod fragmenter;
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
