//! Applies IPAMClaims: an interface gets the addresses that the cluster has reserved for it, if hawser assigns the
//! addresses of its network.

use crate::nic::StaticAddress;
use crate::objects::ipam::Ipam;
use crate::objects::ipam_claim::IpamClaim;
use crate::objects::report::Report;

/// Replaces the addresses of a network by those that a claim reserves for one interface.
pub(super) fn apply(claim: &IpamClaim, ipam: &mut Ipam, report: &Report) {
    let why_not = match ipam {
        Ipam::None => {
            let fixed = |address: &ipnet::IpNet| StaticAddress {
                address: *address,
                gateway: None,
            };
            *ipam = Ipam::Static {
                addresses: claim.ips.iter().map(fixed).collect(),
                routes: Vec::new(),
            };
            return;
        }
        Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) => {
            for ip in &claim.ips {
                if let Err(why) = ranges.ask_for(ip.addr()) {
                    report.error(&claim.spot, format!("{ip} of {}: {why}", claim.name));
                }
            }
            return;
        }
        Ipam::Dhcp => "the segment's DHCP server gives the interface its addresses",
        Ipam::Static { .. } => "the configuration of its network names the addresses",
    };
    report.warn(&claim.spot, format!("ignored: {why_not}"));
}
