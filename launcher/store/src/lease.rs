//! A lease: the MAC and addresses of one interface.

use crate::holder::Holder;
use crate::segment::Segment;
use hawser_packet::MacAddr;
use ipnet::IpNet;

/// MAC and addresses that an interface keeps until the lease is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The interface that holds the lease.
    pub holder: Holder,
    /// "pod", or namespace/name of the network.
    pub network: String,
    /// The L2 segment, on which MAC and addresses have no other holder.
    pub segment: Segment,
    /// The MAC; `None` if the segment assigns it.
    pub mac: Option<MacAddr>,
    /// Addresses with the prefix lengths of their networks.
    pub addresses: Vec<IpNet>,
}
