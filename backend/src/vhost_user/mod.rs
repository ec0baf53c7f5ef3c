//! The vhost-user protocol: serves front ends (QEMU, cloud-hypervisor, a UML kernel, …) on a Unix socket.
//! The front end negotiates features, shares guest memory and sets up rings; the workers of the port then move the
//! packets.
//!
//! ```text
//!  front end ── connection ── session ── device, rings ── workers
//! ```
//!
//! [`server`] accepts front ends one after another. [`connection`] reads their messages ([`message`], [`socket`]), and
//! [`session`] executes each request: it maps guest memory ([`memory`]), translates addresses, and starts and stops
//! rings ([`ring`]). [`device`] is the port as a device of `vhost-user-backend`. All of this runs on the server's
//! thread; no packets pass here.
//!
//! A server, with the front end that it serves, can continue in another process ([`requests`]).
//!
//! When the front end disconnects, its rings stop and its memory is unmapped. The port keeps leases, listening sockets
//! and flows for the next front end.

pub mod connection;
pub mod device;
mod fronts;
pub mod memory;
pub mod message;
pub mod requests;
pub mod ring;
pub mod server;
pub mod session;
pub mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use requests::{HandOverError, HandedOver, ServerRecord, StopHandle};
pub use server::{Endpoint, Lifetime, ServeError, Server, StagedServer};
