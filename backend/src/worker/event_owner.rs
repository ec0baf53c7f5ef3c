//! The parts of the worker that wait for events.

use crate::poller::Owner;

/// Kick of the transmit ring.
pub const TRANSMIT_KICK: Owner = Owner::of_worker(1);
/// Kick of the receive ring.
pub const RECEIVE_KICK: Owner = Owner::of_worker(2);
/// Kick of the control ring.
pub const CONTROL_KICK: Owner = Owner::of_worker(3);
/// Commands.
pub const COMMAND: Owner = Owner::of_worker(4);
