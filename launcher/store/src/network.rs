//! The identity of a network that all nodes share. All its ports must agree on it.

use hawser_packet::geneve::Vni;
use ipnet::IpNet;

/// A record of a network that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRecord {
    /// Name of the network, as in [`Segment::Network`](crate::Segment::Network).
    pub name: String,
    /// Identifier of the network in the tunnel.
    pub vni: Vni,
    /// Subnets of the network, IPv4 first.
    pub subnets: Vec<IpNet>,
}
