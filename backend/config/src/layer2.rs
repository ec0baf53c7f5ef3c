//! Configuration of layer2 mode.

use crate::{Families, Forward, Inbound, Ipv4Link, Ipv6Link, ModeProperties, NameConfig, Resolvers, TunnelEnd};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Configuration of layer2 mode: one port of a network that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer2Config {
    /// Identifier of the network in the tunnel.
    pub vni: Vni,
    /// Address and port of the local end of the tunnel.
    pub vtep: SocketAddr,
    /// What the network offers its guests besides their neighbours.
    pub role: NetworkRole,
    /// Names handed out by DHCP and RA.
    pub names: NameConfig,
    /// The ports of the network that are known at the start.
    pub peers: Vec<PeerConfig>,
}

/// The role of a network for its guests, as in OVN-Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkRole {
    /// The guest's default network: its gateway leads to the world.
    Primary(PrimaryNetwork),
    /// A network besides the default one: it has no gateway.
    Secondary(SecondaryNetwork),
}

/// A network with a gateway in each family that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryNetwork {
    /// IPv4 of the network; `None` switches its services off.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 of the network; `None` switches its services off.
    pub ipv6: Option<Ipv6Link>,
    /// Name servers that answer queries to port 53 of the gateway.
    pub dns_forward: Vec<IpAddr>,
    /// Ports of the network namespace whose clients the gateway connects to the guest.
    pub forwards: Vec<Forward>,
}

/// A network without a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondaryNetwork {
    /// The guest's IPv4 address, with the width of the subnet. `None`: the network has no IPv4
    /// subnet, so that no service touches the family.
    pub ipv4: Option<Ipv4Net>,
    /// The same of IPv6.
    pub ipv6: Option<Ipv6Net>,
}

/// A port of the network that another process or node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Address and port of the process's end of the tunnel.
    pub vtep: SocketAddr,
    /// The MACs behind it; empty: any. An endpoint that is not hawser's, such as a bridge with an
    /// OVS or a kernel tunnel, may have any.
    pub macs: Vec<MacAddr>,
    /// The addresses of the first MAC, for which ARP and neighbour discovery are answered.
    pub addresses: Vec<IpAddr>,
    /// The name of the guest that has the addresses: one label (RFC 1123).
    #[serde(default)]
    pub name: Option<String>,
    /// The process is a hawser that is configured alike for this one: frames may cross with
    /// hawser's Geneve option. Every other endpoint drops those.
    #[serde(default)]
    pub knows_frame_option: bool,
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
    /// MAC of the DHCP server of a network without a gateway, the same in every process: that of
    /// OVN-Kubernetes' own server, [`SERVER_IPV4`](Self::SERVER_IPV4) by its rule.
    pub const SERVER_MAC: MacAddr = MacAddr([0x0a, 0x58, 169, 254, 1, 1]);
    /// Address of that server, which is on no subnet.
    pub const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

    /// The guest's addresses with the widths of their subnets, IPv4 first.
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

    /// Addresses from which the station that answers for the network sends to all: IPv4, and IPv6 of
    /// the link.
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

    /// MAC of the station that answers for the network, the same in every process: its gateway, or
    /// the DHCP server where there is none.
    pub fn station_mac(&self) -> MacAddr {
        match &self.role {
            NetworkRole::Primary(network) => network.gateway_mac(),
            NetworkRole::Secondary(_) => Self::SERVER_MAC,
        }
    }
}

impl PrimaryNetwork {
    /// MAC of the gateway: that of its IPv4 address, else of its IPv6 address.
    pub fn gateway_mac(&self) -> MacAddr {
        match (self.ipv4, self.ipv6) {
            (Some(link), _) => mac_of_address(link.gateway.into()),
            (None, Some(link)) => mac_of_address(link.gateway.into()),
            (None, None) => Layer2Config::SERVER_MAC,
        }
    }
}

/// The MAC that OVN-Kubernetes gives an interface with this address: 0a:58 and the IPv4 address, or
/// the first bytes of the SHA-256 hash of the IPv6 address as text.
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
        // printf 'fd00::1' | sha256sum
        assert_eq!(
            mac_of_address("fd00::1".parse().unwrap()).to_string(),
            "0a:58:cb:2a:2b:4d"
        );
    }
}
