//! The guest's networks in masquerade.

use hawser_config::{Ipv4Link, Ipv6Link, Neighbourhood};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The default IPv4 network of the guest (KubeVirt's).
pub const DEFAULT_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
/// The default IPv6 network of the guest (KubeVirt's).
pub const DEFAULT_IPV6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0), 120);

/// The links of the guest's network, by family.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// IPv4 link. `None` if IPv4 is disabled.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 link. `None` if IPv6 is disabled.
    pub ipv6: Option<Ipv6Link>,
    /// What the other addresses of the networks are.
    pub neighbourhood: Neighbourhood,
}

impl Links {
    /// Creates the links on these private networks. Gateway and guest are the first two hosts of each network. The parser
    /// of the options has checked the prefix lengths.
    pub fn new(ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> Self {
        Self::private(ipv4.map(ipv4_link), ipv6.map(ipv6_link))
    }

    /// The links of networks of the guest's own.
    pub const fn private(ipv4: Option<Ipv4Link>, ipv6: Option<Ipv6Link>) -> Self {
        Self {
            ipv4,
            ipv6,
            neighbourhood: Neighbourhood::Private,
        }
    }

    /// True if the guest has the family of `addr`.
    pub const fn has_family_of(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(_) => self.ipv4.is_some(),
            IpAddr::V6(_) => self.ipv6.is_some(),
        }
    }

    /// The guest's network in which `addr` cannot be another host's, and the option that sets it.
    pub fn covering(&self, addr: IpAddr) -> Option<(&'static str, IpNet)> {
        if self.neighbourhood == Neighbourhood::Shared {
            return None;
        }
        let (option, network) = match addr {
            IpAddr::V4(_) => ("--ipv4", IpNet::V4(self.ipv4?.network)),
            IpAddr::V6(_) => ("--ipv6", IpNet::V6(self.ipv6?.network)),
        };
        network.contains(&addr).then_some((option, network))
    }

    /// True if `addr` is in one of the guest's networks and cannot be another host's.
    pub fn covers(&self, addr: IpAddr) -> bool {
        self.covering(addr).is_some()
    }

    /// The gateway's addresses, IPv4 first.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ipv4.map(|link| IpAddr::from(link.gateway));
        let v6 = self.ipv6.map(|link| IpAddr::from(link.gateway));
        [v4, v6].into_iter().flatten()
    }

    /// The gateway's address of the family of `server`, or of the other family if the guest lacks that one.
    pub fn gateway_for(&self, server: IpAddr) -> Option<IpAddr> {
        let v4 = self.ipv4.map(|link| IpAddr::from(link.gateway));
        let v6 = self.ipv6.map(|link| IpAddr::from(link.gateway));
        if server.is_ipv4() { v4.or(v6) } else { v6.or(v4) }
    }
}

/// The IPv4 link on `network`.
pub fn ipv4_link(network: Ipv4Net) -> Ipv4Link {
    let first = network.network().to_bits();
    Ipv4Link {
        network,
        gateway: Ipv4Addr::from_bits(first + 1),
        guest: Ipv4Addr::from_bits(first + 2),
    }
}

/// The IPv6 link on `network`.
pub fn ipv6_link(network: Ipv6Net) -> Ipv6Link {
    let first = network.network().to_bits();
    Ipv6Link {
        network,
        gateway: Ipv6Addr::from_bits(first + 1),
        guest: Ipv6Addr::from_bits(first + 2),
    }
}
