//! Configuration of masquerade.

use crate::{EveryPort, Families, Forward, Inbound, ModeProperties, NameConfig, Resolvers};
use hawser_packet::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// MAC of the gateway that every masqueraded guest sees. It is the same as KubeVirt's, so that a guest's neighbour
/// entry stays valid when the VM migrates.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0]);

/// Configuration of masquerade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasqueradeConfig {
    /// IPv4 link of the guest's private network. `None` disables IPv4.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 link of the guest's private network. `None` disables IPv6.
    pub ipv6: Option<Ipv6Link>,
    /// Names handed out by DHCP and router advertisements.
    pub names: NameConfig,
    /// Port forwards to the guest.
    pub forwards: Vec<Forward>,
    /// If set, all other inbound ports are forwarded too.
    pub every_port: Option<EveryPort>,
    /// Addresses of the gateway's network that map to the loopback of this network namespace. If there are none, the
    /// guest cannot reach the loopback.
    pub map_host_loopback: Vec<IpAddr>,
    /// Name servers that answer queries to port 53 of the gateway. The guest cannot reach them at their own addresses.
    pub dns_forward: Vec<IpAddr>,
    /// What the other addresses of the guest's network are.
    pub neighbourhood: Neighbourhood,
}

/// What the addresses of the guest's network are, apart from the guest's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Neighbourhood {
    /// The network is the guest's own. Only the gateway is in it.
    #[default]
    Private,
    /// The network is that of an interface of this network namespace, and the guest has the interface's address. The
    /// other addresses, including the gateway's, belong to other hosts, which the guest reaches through the gateway.
    Shared,
}

impl MasqueradeConfig {
    /// Families of the guest.
    pub const fn families(&self) -> Families {
        Families {
            ipv4: self.ipv4.is_some(),
            ipv6: self.ipv6.is_some(),
        }
    }
}

impl ModeProperties for MasqueradeConfig {
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.ipv4.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
        let v6 = self.ipv6.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
        let addresses: Vec<String> = [v4, v6].into_iter().flatten().collect();
        let whose = match self.neighbourhood {
            Neighbourhood::Private => "",
            Neighbourhood::Shared => ", shared with this network namespace",
        };
        write!(f, "masquerade, guest {}{whose}", addresses.join(" and "))
    }

    fn resolvers(&self) -> Option<Resolvers> {
        Some(Resolvers {
            forward: self.dns_forward.clone(),
            ..self.names.resolvers()
        })
    }

    fn leases(&self) -> [Option<IpAddr>; 2] {
        [
            self.ipv4.map(|link| link.guest.into()),
            self.ipv6.map(|link| link.guest.into()),
        ]
    }

    fn inbound(&self) -> Option<Inbound<'_>> {
        Some(Inbound {
            families: self.families(),
            forwards: &self.forwards,
            has_every_port: self.every_port.is_some(),
        })
    }

    fn echo_families(&self) -> Families {
        self.families()
    }
}

/// IPv4 addresses of the guest's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Link {
    /// Subnet of the guest.
    pub network: Ipv4Net,
    /// Address of the gateway: network + 1 in a private network.
    pub gateway: Ipv4Addr,
    /// Address of the guest: network + 2 in a private network.
    pub guest: Ipv4Addr,
}

/// IPv6 addresses of the guest's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Link {
    /// Subnet of the guest.
    pub network: Ipv6Net,
    /// Address of the gateway: network + 1 in a private network.
    pub gateway: Ipv6Addr,
    /// Address of the guest: network + 2 in a private network.
    pub guest: Ipv6Addr,
}

impl Ipv6Link {
    /// Prefix length with which a guest can form its own addresses. An interface identifier takes the other 64 bits
    /// (RFC 4291 2.5.1, RFC 2464 4).
    const AUTOCONFIGURATION: u8 = 64;

    /// True if the guest may form its own addresses (RFC 4862), in addition to its DHCPv6 lease.
    #[inline]
    pub const fn autoconfigures(&self) -> bool {
        self.network.prefix_len() == Self::AUTOCONFIGURATION
    }

    /// True if the guest may use `address`. This is its lease or, with autoconfiguration, any address of the network
    /// except the gateway's and the subnet-router anycast address.
    #[inline]
    pub fn may_be_guest(&self, address: Ipv6Addr) -> bool {
        let is_gateway = [self.gateway, self.network.network()].contains(&address);
        address == self.guest || self.autoconfigures() && self.network.contains(&address) && !is_gateway
    }
}
