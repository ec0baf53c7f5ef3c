//! The configuration that hawser hands out to the guest of a NIC.

use crate::links::{DEFAULT_IPV4, DEFAULT_IPV6};
use crate::links::{ipv4_link, ipv6_link};
use crate::nic::{Route, StaticAddress};
use crate::objects::ipam::{Ipam, Range, Ranges};
use crate::objects::vm::PodNetwork;
use crate::plan::{NicMode, NicPlan};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// The configuration for a NIC's guest.
pub(super) struct Offer {
    /// IPv4.
    pub ipv4: FamilyAddresses,
    /// IPv6.
    pub ipv6: FamilyAddresses,
    /// MTU, if the manifest states it.
    pub mtu: Option<u16>,
}

/// The addresses of one family.
pub(super) enum FamilyAddresses {
    /// No addresses from any known source.
    Nothing,
    /// Addresses from the segment's own DHCP server.
    ByTheSegment,
    /// The addresses of the pod.
    ThePods,
    /// The only guest address that NAT has, in a family that the pod may lack.
    Private {
        /// The address.
        lease: Lease,
        /// True if the manifest names the family's network, and so relies on it.
        named: bool,
    },
    /// Its addresses on a segment.
    Addresses(Vec<Lease>),
    /// A free address in these ranges.
    OneOf(Vec<Range>),
}

/// An address and its network's router.
pub(super) struct Lease {
    /// The address.
    pub address: IpNet,
    /// The router, if it has one.
    pub gateway: Option<IpAddr>,
}

impl Offer {
    /// The configuration for the guest of `nic`.
    pub(super) fn of(nic: &NicPlan) -> Self {
        match &nic.mode {
            NicMode::Masquerade(plan) => Self::private(&plan.network),
            NicMode::Pod(_) => Self {
                ipv4: FamilyAddresses::ThePods,
                ipv6: FamilyAddresses::ThePods,
                mtu: None,
            },
            NicMode::Bridge(segment) => Self {
                ipv4: from(&segment.ipam, true),
                ipv6: from(&segment.ipam, false),
                mtu: segment.mtu,
            },
            NicMode::Layer2(plan) => Self {
                ipv4: from(&plan.ipam, true),
                ipv6: from(&plan.ipam, false),
                mtu: plan.network.mtu,
            },
        }
    }

    /// The addresses of a family.
    pub(super) const fn family(&self, ipv4: bool) -> &FamilyAddresses {
        if ipv4 { &self.ipv4 } else { &self.ipv6 }
    }

    fn private(network: &PodNetwork) -> Self {
        let ipv4 = ipv4_link(network.ipv4.unwrap_or(DEFAULT_IPV4));
        let ipv6 = ipv6_link(network.ipv6.unwrap_or(DEFAULT_IPV6));
        // The prefix lengths come from valid networks.
        let address4 = Ipv4Net::new(ipv4.guest, ipv4.network.prefix_len()).unwrap_or(ipv4.network);
        let address6 = Ipv6Net::new(ipv6.guest, ipv6.network.prefix_len()).unwrap_or(ipv6.network);
        let private = |address: IpNet, gateway: IpAddr, named: bool| {
            let gateway = Some(gateway);
            let lease = Lease { address, gateway };
            FamilyAddresses::Private { lease, named }
        };
        Self {
            // A guest with a wrong IPv4 address is without a network in almost every pod.
            ipv4: private(address4.into(), ipv4.gateway.into(), true),
            ipv6: private(address6.into(), ipv6.gateway.into(), network.ipv6.is_some()),
            mtu: None,
        }
    }
}

impl FamilyAddresses {
    /// True if hawser's own server hands out an address.
    pub(super) const fn is_told(&self) -> bool {
        !matches!(self, Self::Nothing | Self::ByTheSegment)
    }

    /// True if the pod may lack the family, in which case no address is handed out.
    pub(super) const fn may_be_missing(&self) -> bool {
        matches!(self, Self::ThePods | Self::Private { named: false, .. })
    }
}

fn from(ipam: &Ipam, ipv4: bool) -> FamilyAddresses {
    match ipam {
        Ipam::None => FamilyAddresses::Nothing,
        Ipam::Dhcp => FamilyAddresses::ByTheSegment,
        Ipam::Static { addresses, routes } => fixed(addresses, routes, ipv4),
        Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) => of_ranges(ranges, ipv4),
    }
}

fn fixed(addresses: &[StaticAddress], routes: &[Route], ipv4: bool) -> FamilyAddresses {
    let of_family = addresses.iter().filter(|given| is_ipv4(&given.address) == ipv4);
    let leases: Vec<Lease> = of_family
        .map(|given| Lease {
            address: given.address,
            gateway: given.gateway.or_else(|| next_hop(routes, ipv4)),
        })
        .collect();
    if leases.is_empty() {
        FamilyAddresses::Nothing
    } else {
        FamilyAddresses::Addresses(leases)
    }
}

fn of_ranges(ranges: &Ranges, ipv4: bool) -> FamilyAddresses {
    let first = |set: &&Vec<Range>| set.first().is_some_and(|range| is_ipv4(&range.subnet) == ipv4);
    let of_family: Vec<Range> = ranges.ranges.iter().filter(first).flatten().copied().collect();
    if of_family.is_empty() {
        return fixed(&ranges.addresses, &ranges.routes, ipv4);
    }
    FamilyAddresses::OneOf(of_family)
}

/// The next hop of the default route.
fn next_hop(routes: &[Route], ipv4: bool) -> Option<IpAddr> {
    let is_default = |route: &&Route| route.destination.prefix_len() == 0 && is_ipv4(&route.destination) == ipv4;
    routes.iter().find(is_default)?.via
}

/// True for an address of IPv4.
pub(super) const fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
