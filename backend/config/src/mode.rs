//! The mode of a port and the properties that the rest of the program reads from its configuration.
//!
//! The configuration of each mode implements [`ModeProperties`]. Code that needs to know something about a port's mode
//! calls [`ModeConfig::properties`] instead of naming the modes, so a new mode needs only a variant and an
//! implementation.

use crate::{BridgeConfig, Families, Forward, Layer2Config, MasqueradeConfig, Resolvers};
use hawser_packet::MacAddr;
use hawser_packet::geneve::Vni;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The mode of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModeConfig {
    /// NAT through ordinary host sockets.
    Masquerade(MasqueradeConfig),
    /// A direct attachment to the L2 segment.
    Bridge(BridgeConfig),
    /// A network that spans nodes.
    Layer2(Layer2Config),
}

impl ModeConfig {
    /// The properties of the mode.
    pub fn properties(&self) -> &dyn ModeProperties {
        match self {
            Self::Masquerade(mode) => mode,
            Self::Bridge(mode) => mode,
            Self::Layer2(mode) => mode,
        }
    }
}

/// Properties of a mode that code outside the mode depends on. The defaults are for a mode that only passes frames on,
/// without services, sockets or addresses of its own.
pub trait ModeProperties {
    /// Writes the mode's name and the addresses that it assigns to the guest, for a log line.
    ///
    /// # Errors
    /// The formatter's errors.
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Resolvers that the mode's services use at the start. `None` if no service uses resolvers.
    fn resolvers(&self) -> Option<Resolvers> {
        None
    }

    /// Addresses that the mode's DHCPv4 and DHCPv6 servers lease to the guest.
    fn leases(&self) -> [Option<IpAddr>; 2] {
        [None; 2]
    }

    /// MAC of the only client that the mode's DHCP servers answer. `None`: they answer any client.
    fn lease_client(&self) -> Option<MacAddr> {
        None
    }

    /// The port forwards. `None` if clients reach the guest at its own addresses.
    fn inbound(&self) -> Option<Inbound<'_>> {
        None
    }

    /// The local end of the tunnel to other processes. `None` without a tunnel.
    fn tunnel(&self) -> Option<TunnelEnd> {
        None
    }

    /// Families whose echo requests are sent through host sockets.
    fn echo_families(&self) -> Families {
        Families::default()
    }
}

/// The local end of a tunnel, and the network that the tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Identifier of the network.
    pub vni: Vni,
    /// Address and port that other processes send to.
    pub endpoint: SocketAddr,
}

/// How clients reach the guest in a mode that listens on its behalf.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// Families of the guest's addresses.
    pub families: Families,
    /// Forwards of single ports and ranges.
    pub forwards: &'a [Forward],
    /// True if all other ports are forwarded too.
    pub has_every_port: bool,
}

impl Inbound<'_> {
    /// Number of sockets that listen for the forwards.
    pub fn sockets(&self) -> u64 {
        let of_one = |forward: &Forward| {
            let addresses = forward.bind.map_or(self.families.count(), |_| 1);
            u64::from(forward.count.get()) * addresses
        };
        self.forwards.iter().map(of_one).sum()
    }
}
