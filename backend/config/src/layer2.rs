//! Configuration of layer2 mode.

use crate::{
    Families, Forward, Inbound, Ipv4Link, Ipv6Link, ModeProperties, NameConfig, Resolvers, ServicePort, TunnelEnd,
};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Configuration of layer2 mode, in which a port belongs to a network that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer2Config {
    /// Identifier of the network in the tunnel.
    pub vni: Vni,
    /// Address and port of the local end of the tunnel.
    pub vtep: SocketAddr,
    /// What the network offers its guests, apart from their neighbours.
    pub role: NetworkRole,
    /// Names handed out by DHCP and router advertisements.
    pub names: NameConfig,
    /// The ports of the network that are known at the start.
    pub peers: Vec<PeerConfig>,
}

/// The role of a network for its guests, as in OVN-Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkRole {
    /// The guest's default network. Its gateway leads to the outside.
    Primary(PrimaryNetwork),
    /// A network in addition to the default one. It has no gateway.
    Secondary(SecondaryNetwork),
}

/// A network with a gateway in each family that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryNetwork {
    /// IPv4 link of the network. `None` disables the services of this family.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 link of the network. `None` disables the services of this family.
    pub ipv6: Option<Ipv6Link>,
    /// Name servers that answer queries to port 53 of the gateway.
    pub dns_forward: Vec<IpAddr>,
    /// Ports of the network namespace whose clients the gateway connects to the guest.
    pub forwards: Vec<Forward>,
    /// Services whose virtual addresses the guest reaches.
    #[serde(default)]
    pub services: Vec<ServicePort>,
}

/// A network without a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondaryNetwork {
    /// The guest's IPv4 address with the prefix length of the subnet. `None`: the network has no IPv4 subnet, so no
    /// service handles this family.
    pub ipv4: Option<Ipv4Net>,
    /// The guest's IPv6 address, in the same form.
    pub ipv6: Option<Ipv6Net>,
}

/// A port of the network that another process or node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Address and port of the process's end of the tunnel.
    pub vtep: SocketAddr,
    /// MACs behind the endpoint. Empty: it may have any MAC, as a bridge with an OVS or a kernel tunnel does.
    pub macs: Vec<MacAddr>,
    /// Addresses of the first MAC. ARP requests and neighbour solicitations for them are answered.
    pub addresses: Vec<IpAddr>,
    /// Name of the guest that has the addresses, as a single label (RFC 1123).
    #[serde(default)]
    pub name: Option<String>,
    /// True if the process is a hawser that is configured to treat this process in the same way. Frames may then cross
    /// with hawser's Geneve option, which every other endpoint drops.
    #[serde(default)]
    pub knows_frame_option: bool,
    /// True if the guest has moved to this endpoint from the process that reads this. Processes of other guests take no
    /// notice.
    #[serde(default)]
    pub is_moved: bool,
}

impl ModeProperties for Layer2Config {
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [v4, v6] = self.addresses();
        let addresses: Vec<String> = [v4, v6].into_iter().flatten().map(|net| net.to_string()).collect();
        let guest = if addresses.is_empty() {
            "without addresses".to_owned()
        } else {
            addresses.join(" and ")
        };
        let (vni, vtep) = (self.vni, self.vtep);
        let role = match self.role {
            NetworkRole::Primary(_) => "",
            NetworkRole::Secondary(_) => ", no gateway",
        };
        write!(f, "layer2, guest {guest}, VNI {vni} at {vtep}{role}")
    }

    fn resolvers(&self) -> Option<Resolvers> {
        let forward = match &self.role {
            NetworkRole::Primary(network) => network.dns_forward.clone(),
            NetworkRole::Secondary(_) => Vec::new(),
        };
        let has_services = self.addresses() != [None; 2];
        has_services.then(|| Resolvers {
            forward,
            ..self.names.resolvers()
        })
    }

    fn leases(&self) -> [Option<IpAddr>; 2] {
        self.addresses().map(|net| net.map(|net| net.addr()))
    }

    fn inbound(&self) -> Option<Inbound<'_>> {
        let NetworkRole::Primary(network) = &self.role else {
            return None;
        };
        Some(Inbound {
            families: self.families(),
            forwards: &network.forwards,
            has_every_port: false,
        })
    }

    fn tunnel(&self) -> Option<TunnelEnd> {
        Some(TunnelEnd {
            vni: self.vni,
            endpoint: self.vtep,
        })
    }

    fn echo_families(&self) -> Families {
        match self.role {
            NetworkRole::Primary(_) => self.families(),
            NetworkRole::Secondary(_) => Families::default(),
        }
    }
}

impl Layer2Config {
    /// MAC of the DHCP server of a network without a gateway, the same in every process. It is the one of
    /// OVN-Kubernetes' own server, derived from [`SERVER_IPV4`](Self::SERVER_IPV4) by its rule.
    pub const SERVER_MAC: MacAddr = MacAddr([0x0a, 0x58, 169, 254, 1, 1]);
    /// Address of that server, which is on no subnet.
    pub const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

    /// The guest's addresses with the prefix lengths of their subnets, IPv4 first.
    pub fn addresses(&self) -> [Option<IpNet>; 2] {
        match &self.role {
            NetworkRole::Primary(network) => [
                network
                    .ipv4
                    .and_then(|link| Ipv4Net::new(link.guest, link.network.prefix_len()).ok())
                    .map(IpNet::V4),
                network
                    .ipv6
                    .and_then(|link| Ipv6Net::new(link.guest, link.network.prefix_len()).ok())
                    .map(IpNet::V6),
            ],
            NetworkRole::Secondary(network) => [network.ipv4.map(IpNet::V4), network.ipv6.map(IpNet::V6)],
        }
    }

    /// Families in which the network has a subnet.
    pub fn families(&self) -> Families {
        let [ipv4, ipv6] = self.addresses().map(|net| net.is_some());
        Families { ipv4, ipv6 }
    }

    /// Addresses from which the station that answers for the network sends to all guests: its IPv4 address and its
    /// link-local IPv6 address.
    pub fn station_addresses(&self) -> [Option<IpAddr>; 2] {
        let link_local = IpAddr::from(self.station_mac().link_local());
        match &self.role {
            NetworkRole::Primary(network) => [
                network.ipv4.map(|link| link.gateway.into()),
                network.ipv6.map(|_| link_local),
            ],
            NetworkRole::Secondary(_) => [Some(Self::SERVER_IPV4.into()), Some(link_local)],
        }
    }

    /// MAC of the station that answers for the network: its gateway, or the DHCP server if there is none. It is the
    /// same in every process.
    pub fn station_mac(&self) -> MacAddr {
        match &self.role {
            NetworkRole::Primary(network) => network.gateway_mac(),
            NetworkRole::Secondary(_) => Self::SERVER_MAC,
        }
    }
}

impl PrimaryNetwork {
    /// MAC of the gateway, derived from its IPv4 address or, without one, from its IPv6 address.
    pub fn gateway_mac(&self) -> MacAddr {
        match (self.ipv4, self.ipv6) {
            (Some(link), _) => mac_of_address(link.gateway.into()),
            (None, Some(link)) => mac_of_address(link.gateway.into()),
            (None, None) => Layer2Config::SERVER_MAC,
        }
    }
}

/// The MAC that OVN-Kubernetes gives an interface with this address: 0a:58, followed by the IPv4 address or by the
/// first bytes of the SHA-256 hash of the IPv6 address as text.
pub fn mac_of_address(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(address.to_string()));
            [a, b, c, d]
        }
    };
    MacAddr([0x0a, 0x58, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_of_an_address_is_the_one_of_ovn_kubernetes() {
        assert_eq!(
            mac_of_address("10.100.0.1".parse().unwrap()).to_string(),
            "0a:58:0a:64:00:01"
        );
        // Computed with: printf 'fd00::1' | sha256sum
        assert_eq!(
            mac_of_address("fd00::1".parse().unwrap()).to_string(),
            "0a:58:cb:2a:2b:4d"
        );
    }
}
