//! The mode of a port, and what the rest of the program reads from a mode's configuration.
//!
//! The configuration of each mode implements [`ModeProperties`]. Code that needs to know something
//! about a port's mode calls [`ModeConfig::properties`] instead of naming the modes, so that a new
//! mode is a variant and an implementation.

use crate::{BridgeConfig, Families, Forward, Layer2Config, MasqueradeConfig, Resolvers};
use hawser_packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The mode of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModeConfig {
    /// NAT on ordinary host sockets.
    Masquerade(MasqueradeConfig),
    /// The L2 segment itself.
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

/// Properties of a mode that code outside of the mode depends on. The defaults are those of a mode
/// that hands frames on and has no service, no socket and no address of its own.
pub trait ModeProperties {
    /// Writes the mode's name and the addresses that it gives the guest, for a line of the log.
    ///
    /// # Errors
    /// Those of the formatter.
    fn summarize(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The resolvers that the mode's services start with; `None` without such a service.
    fn resolvers(&self) -> Option<Resolvers> {
        None
    }

    /// The addresses that the mode's DHCPv4 and DHCPv6 servers give the guest.
    fn leases(&self) -> [Option<IpAddr>; 2] {
        [None; 2]
    }

    /// The only client that the mode's DHCP servers answer; `None`: any.
    fn lease_client(&self) -> Option<MacAddr> {
        None
    }

    /// The port forwards; `None` if the guest is reached under its own addresses.
    fn inbound(&self) -> Option<Inbound<'_>> {
        None
    }

    /// Families whose echo requests are sent through host sockets.
    fn echo_families(&self) -> Families {
        Families::default()
    }
}

/// How clients reach the guest of a mode that listens for it.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// Families of the guest's addresses.
    pub families: Families,
    /// Forwarded ports.
    pub forwards: &'a [Forward],
    /// All other ports are forwarded too.
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
