//! Owners of the poller tokens of a layer2 mode, in addition to those of its NAT engine (`nat::event_owner`).

use crate::poller::Owner;

/// The socket that receives from the tunnel.
pub(super) const TUNNEL: Owner = Owner::of_mode(16);
/// The socket from which paths to other processes are probed.
pub(super) const PROBES: Owner = Owner::of_mode(17);
/// The socket that listens for connections to the gateway's name server.
pub(super) const NAMES: Owner = Owner::of_mode(18);
/// A connection to the gateway's name server.
pub(super) const NAMES_CLIENT: Owner = Owner::of_mode(19);
/// A query of such a connection to another name server.
pub(super) const NAMES_QUERY: Owner = Owner::of_mode(20);
/// All of the name server.
pub(super) const NAME_SERVER: [Owner; 3] = [NAMES, NAMES_CLIENT, NAMES_QUERY];
