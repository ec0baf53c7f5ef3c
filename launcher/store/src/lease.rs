//! A lease: the MAC and addresses of one interface.

use crate::holder::Holder;
use crate::segment::Segment;
use hawser_packet::MacAddr;
use ipnet::IpNet;

/// The MAC and addresses that an interface keeps until the lease is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Interface that holds the lease.
    pub holder: Holder,
    /// Network of the interface: "pod", or namespace/name.
    pub network: String,
    /// L2 segment, on which MAC and addresses have no other holder.
    pub segment: Segment,
    /// Leased MAC. `None` if the segment assigns it.
    pub mac: Option<MacAddr>,
    /// Leased addresses, with the prefix lengths of their networks.
    pub addresses: Vec<IpNet>,
}
