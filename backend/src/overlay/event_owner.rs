//! Owners of the poller tokens of a layer2 mode, in addition to those of its NAT engine (`nat::event_owner`).

use crate::poller::Owner;

/// The socket that receives from the tunnel.
pub(super) const TUNNEL: Owner = Owner::of_mode(16);
/// The socket from which paths to other processes are probed.
pub(super) const PROBES: Owner = Owner::of_mode(17);
