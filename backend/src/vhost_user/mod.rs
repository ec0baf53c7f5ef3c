//! The protocol side: serves one front end (QEMU, cloud-hypervisor, a UML kernel, …) at a
//! time on a Unix socket. The front end negotiates features and names guest memory and
//! rings; the workers of the port then move the packets.
//!
//! ```text
//!  front end ── connection ── session ── device, rings ── workers
//! ```
//!
//! [`server`] finds front ends, one after the other. [`connection`] reads their messages
//! ([`message`], [`socket`]), [`session`] does what each request asks for: it maps guest
//! memory ([`memory`]), translates addresses, and starts and stops rings ([`ring`]).
//! [`device`] is the port as a device of `vhost-user-backend`. All of it runs on the
//! thread of the server; no packet passes here.
//!
//! When the front end is gone, its rings stop and its memory is unmapped. The port keeps
//! leases, listening sockets and flows for the next one.

pub mod connection;
pub mod device;
pub mod memory;
pub mod message;
pub mod ring;
pub mod server;
pub mod session;
pub mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use server::{Endpoint, Lifetime, ServeError, Server, StopHandle};
