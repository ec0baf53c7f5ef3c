//! The configuration that hawser hands out to the guest of a NIC.

use crate::links::{DEFAULT_IPV4, DEFAULT_IPV6};
use crate::links::{ipv4_link, ipv6_link};
use crate::nic::{Route, StaticAddress};
use crate::objects::ipam::{Ipam, Range, Ranges};
use crate::objects::vm::PodNetwork;
use crate::plan::{GuestNetwork, NicMode, NicPlan};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// The configuration that hawser hands out to a NIC's guest.
pub(super) struct Offer {
    /// IPv4 addresses.
    pub ipv4: FamilyAddresses,
    /// IPv6 addresses.
    pub ipv6: FamilyAddresses,
    /// MTU, if the manifest states one.
    pub mtu: Option<u16>,
}

/// The addresses of one family.
pub(super) enum FamilyAddresses {
    /// No known source assigns addresses.
    Nothing,
    /// The segment's own DHCP server assigns addresses.
    ByTheSegment,
    /// The guest gets the addresses of the pod.
    ThePods,
    /// The only guest address that NAT has, in a family that the pod may lack.
    Private {
        /// Address and router of the guest.
        lease: Lease,
        /// True if the manifest names the family's network, and so relies on it.
        named: bool,
    },
    /// Fixed addresses on a segment.
    Addresses(Vec<Lease>),
    /// A free address from these ranges.
    OneOf(Vec<Range>),
}

/// An address and the router of its network.
pub(super) struct Lease {
    /// Address and prefix length.
    pub address: IpNet,
    /// Router, if the network has one.
    pub gateway: Option<IpAddr>,
}

impl Offer {
    /// The configuration that the guest of `nic` gets.
    pub(super) fn of(nic: &NicPlan) -> Self {
        match &nic.mode {
            NicMode::Masquerade(plan) => match &plan.network {
                GuestNetwork::Private(network) => Self::private(network),
                GuestNetwork::OfPod => Self::of_pod(),
            },
            NicMode::Pod(_) => Self::of_pod(),
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
            // The segment behind the function, where hawser serves nothing.
            NicMode::Sriov(_) => Self {
                ipv4: FamilyAddresses::Nothing,
                ipv6: FamilyAddresses::Nothing,
                mtu: None,
            },
        }
    }

    /// The addresses of an address family.
    pub(super) const fn family(&self, ipv4: bool) -> &FamilyAddresses {
        if ipv4 { &self.ipv4 } else { &self.ipv6 }
    }

    const fn of_pod() -> Self {
        Self {
            ipv4: FamilyAddresses::ThePods,
            ipv6: FamilyAddresses::ThePods,
            mtu: None,
        }
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
            // In almost every pod, a guest with a wrong IPv4 address is without a network.
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

    /// True if the pod may lack the family. No address is handed out in that case.
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

/// True if the network is an IPv4 network.
pub(super) const fn is_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
