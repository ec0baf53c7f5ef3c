//! Poller token owners of the parts of the worker that wait for events.

use crate::poller::Owner;

/// Kick of the transmit ring.
pub(super) const TRANSMIT_KICK: Owner = Owner::of_worker(1);
/// Kick of the receive ring.
pub(super) const RECEIVE_KICK: Owner = Owner::of_worker(2);
/// Kick of the control ring.
pub(super) const CONTROL_KICK: Owner = Owner::of_worker(3);
/// Commands.
pub(super) const COMMAND: Owner = Owner::of_worker(4);
