//! Services of a cluster, whose virtual addresses a gateway maps to endpoints.

use crate::Transport;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The virtual addresses of the Service.
    pub addresses: Vec<IpAddr>,
    /// Transport of the port.
    pub transport: Transport,
    /// The port at the virtual addresses.
    pub port: u16,
    /// Addresses and ports to which clients are connected, of both families. If there are none, clients are refused.
    pub endpoints: Vec<SocketAddr>,
    /// `sessionAffinity: ClientIP`: seconds for which a client keeps its endpoint after its last packet.
    pub affinity_secs: Option<NonZeroU32>,
}
