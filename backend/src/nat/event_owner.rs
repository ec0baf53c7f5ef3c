//! Owners of the poller tokens in the parts of the engine that wait for events.

use crate::poller::Owner;

/// A TCP flow's socket.
pub const TCP: Owner = Owner::of_mode(1);
/// A TCP socket listening for inbound connections.
pub const TCP_LISTENER: Owner = Owner::of_mode(2);
/// A UDP flow's socket.
pub const UDP: Owner = Owner::of_mode(3);
/// A UDP socket waiting for inbound datagrams.
pub const UDP_LISTENER: Owner = Owner::of_mode(4);
/// A ping socket.
pub const ECHO: Owner = Owner::of_mode(5);
/// Frames handed over by another worker.
pub const HANDOVER: Owner = Owner::of_mode(6);
/// Changes of the pod's addresses.
pub const ADDRESSES: Owner = Owner::of_mode(7);
