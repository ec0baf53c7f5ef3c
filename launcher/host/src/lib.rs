//! The host's side of an attachment: links, addresses, routes and network namespaces.
//!
//! [`netlink`] sends one request at a time to the kernel's rtnetlink. [`link`], [`addresses`], [`bridge_vlan`] and
//! [`guest_address`] build its requests. Every change that outlives its process goes through the [`journal`] first, so
//! that it is undone at exit, after a failure midway, and at the next start after a kill. [`passthrough`] hands a virtual
//! function of a PF to a guest, with [`pci`], [`virtual_function`] and [`vfio`] for its steps. [`system`] and
//! [`interfaces`] read facts and limits and change nothing on the network.
//!
//! The crate depends on neither options nor manifests: it takes plain values.

#![deny(unsafe_code)]

pub mod addresses;
pub mod bridge_vlan;
pub mod claim;
pub mod guest_address;
pub mod interfaces;
pub mod journal;
pub mod link;
pub mod link_state;
pub mod named_namespace;
pub mod namespace;
pub mod neighbour;
pub mod netlink;
pub mod passthrough;
pub mod pci;
pub mod segment;
pub mod system;
pub mod tap_node;
pub mod vf_state;
pub mod vf_times;
pub mod vf_user;
pub mod vfio;
pub mod virtual_function;
