//! The configuration of a port: plain data, checked by the launcher and never parsed here.
//!
//! A configuration holds no descriptors, so it can be compared, printed, saved and sent to another process. Descriptors
//! are passed separately. [`handover`] splits guards of such resources into plain data and descriptors in the same way.
//! [`payload`] gives saved data its kind and version.

#![forbid(unsafe_code)]

mod bridge;
mod forward;
pub mod handover;
mod layer2;
mod masquerade;
mod mode;
mod names;
pub mod payload;
mod policy;
mod ports;
mod service;

pub use bridge::{BridgeConfig, Forwarding, Lease6Config, LeaseConfig, NicRole};
pub use forward::{Families, Forward, Transport};
pub use layer2::{Layer2Config, NetworkRole, PeerConfig, PrimaryNetwork, SecondaryNetwork, mac_of_address};
pub use masquerade::{GATEWAY_MAC, Ipv4Link, Ipv6Link, MasqueradeConfig, Neighbourhood};
pub use mode::{Inbound, ModeConfig, ModeProperties, TunnelEnd};
pub use names::{NameConfig, Resolvers};
pub use policy::{AddressCheck, MacCheck, PolicyConfig, Rate, RateLimit, Rates, VlanConfig, VlanSet};
pub use ports::{EveryPort, Otherwise, PortSet};
pub use service::ServicePort;

use hawser_packet::MacAddr;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::time::Duration;

/// Configuration of one port of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortConfig {
    /// Name for logs and thread names.
    pub name: String,
    /// MAC of the guest. `None`: it is taken from the front end or from the guest's first frame.
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC: the largest IP packet, in bytes (68 to 65535).
    pub mtu: u16,
    /// Number of receive/transmit queue pairs offered.
    pub queue_pairs: NonZeroU16,
    /// How long a worker waits between its turns.
    pub pace: PaceConfig,
    /// Rules for the frames that may cross the port.
    pub policy: PolicyConfig,
    /// How the VM is connected to the network.
    pub mode: ModeConfig,
}

/// How long a worker waits between its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceConfig {
    /// How long a worker polls for the next message during a rapid exchange. Zero: it never polls.
    pub busy_poll: Duration,
    /// Longest sleep between turns during bulk transfer. Zero: it never sleeps there.
    pub rest: Duration,
}

impl PaceConfig {
    /// No busy polling and no rests. The worker sleeps after each turn until an event arrives.
    pub const PLAIN: Self = Self {
        busy_poll: Duration::ZERO,
        rest: Duration::ZERO,
    };
}

impl Default for PaceConfig {
    /// The poll time exceeds the response time of a nearby peer, including its sleep and wake-up (KVM's halt_poll_ns
    /// has the same default). The rest is no longer than the time by which network cards delay interrupts.
    fn default() -> Self {
        Self {
            busy_poll: Duration::from_micros(200),
            rest: Duration::from_micros(150),
        }
    }
}

#[cfg(test)]
mod tests;
