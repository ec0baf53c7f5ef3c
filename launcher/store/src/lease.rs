//! A lease: the MAC and addresses of one interface.

use crate::holder::Holder;
use crate::segment::Segment;
use hawser_packet::MacAddr;
use ipnet::IpNet;

/// What an interface has until it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The interface that has it.
    pub holder: Holder,
    /// "pod", or namespace/name of the network.
    pub network: String,
    /// The L2 segment, on which MAC and addresses have no other holder.
    pub segment: Segment,
    /// The MAC; `None` where the segment gives it.
    pub mac: Option<MacAddr>,
    /// Addresses with the width of their networks.
    pub addresses: Vec<IpNet>,
}
