//! The protocol side: one front end (QEMU, cloud-hypervisor, a UML kernel, …) on a Unix
//! socket, told through vhost-user what our device can do, telling us where guest memory
//! and the rings are.
//!
//! ```text
//!  front end ── relay + quirks ── VhostUserDaemon ── Device, Vring ── workers
//! ```
//!
//! [`server`] finds front ends, one after the other. For each it starts a
//! `vhost_user_backend::VhostUserDaemon`, which maps guest memory, translates addresses
//! and knows the messages; [`device`] is our side of it. The daemon runs no packet: it
//! has no vring threads, and every change it makes to a ring is seen by [`vring`],
//! which drives the workers. [`relay`] stands between socket and daemon for the few
//! things front ends do that the daemon does not take ([`quirks`]).
//!
//! When the front end is gone the rings are detached and guest memory is let go; the
//! port (leases, listening sockets, flows) does not notice and waits for the next one.

pub mod device;
pub mod message;
pub mod quirks;
pub mod relay;
pub mod server;
mod session;
pub mod socket;
pub mod vring;

pub use server::{Endpoint, Lifetime, ServeError, Server, StopHandle};
