//! The identity of a network that all nodes share; all its ports must agree on it.

use hawser_packet::geneve::Vni;
use ipnet::IpNet;

/// A network that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRecord {
    /// Its name, as in [`Segment::Network`](crate::Segment::Network).
    pub name: String,
    /// Its identifier in the tunnel.
    pub vni: Vni,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<IpNet>,
}
