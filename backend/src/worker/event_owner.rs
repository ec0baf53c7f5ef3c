//! Owners of the poller tokens in the parts of the worker that wait for events.

use crate::poller::Owner;

/// Kicks of the transmit ring.
pub(super) const TRANSMIT_KICK: Owner = Owner::of_worker(1);
/// Kicks of the receive ring.
pub(super) const RECEIVE_KICK: Owner = Owner::of_worker(2);
/// Kicks of the control ring.
pub(super) const CONTROL_KICK: Owner = Owner::of_worker(3);
/// Commands from the vhost-user side.
pub(super) const COMMAND: Owner = Owner::of_worker(4);
