//! Configuration of bridge mode.

use crate::{ModeProperties, NameConfig, Resolvers};
use hawser_packet::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Configuration of bridge mode. The device's queues are passed separately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// DHCPv4 lease of the guest. `None`: the guest's requests go to the segment.
    pub lease: Option<LeaseConfig>,
    /// DHCPv6 lease of the guest. `None`: the guest's requests go to the segment.
    pub lease6: Option<Lease6Config>,
    /// How frames find their receiver on the segment.
    pub forwarding: Forwarding,
    /// Place of the NIC among those that the guest uses as one.
    #[serde(default)]
    pub role: NicRole,
}

impl ModeProperties for BridgeConfig {
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bridge")
    }

    fn resolvers(&self) -> Option<Resolvers> {
        let names4 = self.lease.as_ref().map(|lease| &lease.names);
        let names6 = self.lease6.as_ref().map(|lease| &lease.names);
        names4.or(names6).map(NameConfig::resolvers)
    }

    fn leases(&self) -> [Option<IpAddr>; 2] {
        [
            self.lease.as_ref().map(|lease| lease.address.addr().into()),
            self.lease6.as_ref().map(|lease| lease.address.addr().into()),
        ]
    }

    fn lease_client(&self) -> Option<MacAddr> {
        let client4 = self.lease.as_ref().map(|lease| lease.client);
        let client6 = self.lease6.as_ref().map(|lease| lease.client);
        client4.or(client6)
    }
}

/// Place of a NIC among those that the guest uses as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NicRole {
    /// The guest uses the NIC by itself.
    #[default]
    Single,
    /// The NIC is the standby of a failover pair (VIRTIO_NET_F_STANDBY). The guest sends on it only while its primary
    /// is away, and the segment then has to learn where the guest's MAC is.
    Standby,
}

/// How frames find their receiver on a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarding {
    /// By MAC. Neighbours answer ARP and neighbour discovery themselves.
    #[default]
    Switched,
    /// By IP address. The host's kernel accepts only IP packets, all sent to one MAC. In the guest's neighbour table
    /// every neighbour has [`GATEWAY_MAC`](crate::GATEWAY_MAC).
    Routed {
        /// MAC of the device, which accepts packets for no other MAC.
        device: MacAddr,
    },
}

/// The permanent address of a guest whose segment has no DHCP server, and the settings that DHCP hands out together
/// with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseConfig {
    /// MAC of the only client that gets the lease.
    pub client: MacAddr,
    /// Leased address and its prefix length.
    pub address: Ipv4Net,
    /// Source address of the server's answers.
    pub server: Ipv4Addr,
    /// Default router of the guest, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Routes in the order in which they are installed. The default route comes last. A gateway of 0.0.0.0 means
    /// on-link (RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Host name, domains and name servers that the guest gets.
    pub names: NameConfig,
}

/// The permanent IPv6 address of a guest whose segment has no DHCPv6 server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease6Config {
    /// MAC of the only client that gets the lease.
    pub client: MacAddr,
    /// Leased address and its prefix length. The whole prefix is on-link.
    pub address: Ipv6Net,
    /// Host name, domains and name servers that the guest gets.
    pub names: NameConfig,
}
