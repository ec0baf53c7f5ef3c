//! Configuration of layer2 mode.

use crate::{Families, Forward, Inbound, Ipv4Link, Ipv6Link, ModeProperties, NameConfig, Resolvers};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Configuration of layer2 mode: one port of a network that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer2Config {
    /// Identifier of the network in the tunnel.
    pub vni: Vni,
    /// Address and port of the local end of the tunnel.
    pub vtep: SocketAddr,
    /// IPv4 of the network; `None` switches its services off.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 of the network; `None` switches its services off.
    pub ipv6: Option<Ipv6Link>,
    /// Names handed out by DHCP and RA.
    pub names: NameConfig,
    /// Name servers that answer queries to port 53 of the gateway.
    pub dns_forward: Vec<IpAddr>,
    /// Ports of the network namespace whose clients the gateway connects to the guest.
    pub forwards: Vec<Forward>,
    /// The ports of the network that are known at the start.
    pub peers: Vec<PeerConfig>,
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
        let v4 = self.ipv4.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
        let v6 = self.ipv6.map(|l| format!("{}/{}", l.guest, l.network.prefix_len()));
        let addresses: Vec<String> = [v4, v6].into_iter().flatten().collect();
        let (vni, vtep) = (self.vni, self.vtep);
        write!(f, "layer2, guest {}, VNI {vni} at {vtep}", addresses.join(" and "))
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
            has_every_port: false,
        })
    }

    fn echo_families(&self) -> Families {
        self.families()
    }
}

impl Layer2Config {
    /// Families of the network.
    pub const fn families(&self) -> Families {
        Families {
            ipv4: self.ipv4.is_some(),
            ipv6: self.ipv6.is_some(),
        }
    }

    /// MAC of the network's gateway, the same in every process: OVN's rule, 0a:58 and the gateway's
    /// IPv4 address, or the last four bytes of its IPv6 address.
    pub fn gateway_mac(&self) -> MacAddr {
        let [a, b, c, d] = match (self.ipv4, self.ipv6) {
            (Some(link), _) => link.gateway.octets(),
            (None, Some(link)) => {
                let [.., a, b, c, d] = link.gateway.octets();
                [a, b, c, d]
            }
            (None, None) => Ipv4Addr::UNSPECIFIED.octets(),
        };
        MacAddr([0x0a, 0x58, a, b, c, d])
    }

    /// The link-local address of the gateway.
    pub fn gateway_link_local(&self) -> Ipv6Addr {
        self.gateway_mac().link_local()
    }
}
