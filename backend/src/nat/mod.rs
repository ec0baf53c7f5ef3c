//! NAT on host sockets: TCP, UDP and ICMP echo of the guest end here and continue on sockets of
//! the host, so that the network sees the host's addresses and the kernel's own stack.

pub mod address_map;
pub mod addresses;
pub mod context;
mod fragmenter;
pub mod icmp;
mod index;
mod ip_options;
pub mod link;
pub mod listen;
pub mod owner;
pub mod reassembly;
mod recency;
pub mod steering;
pub mod tcp;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(any(test, feature = "testing"))]
mod testing;
pub mod udp;
