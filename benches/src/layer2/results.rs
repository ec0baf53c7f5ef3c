//! The networks between two nodes, the quantities, and the targets.

use crate::results::{About, Bound, Metric, Peer, Results, Target};

/// A network between two guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// hawser, layer2 mode.
    Hawser,
    /// Open vSwitch, user-space datapath with Geneve and TAP devices, as it is by default.
    Ovs,
    /// Open vSwitch with `userspace-tso-enable`.
    OvsTso,
    /// hawser's bridge mode on TAP devices and Linux bridges, without a tunnel.
    Bridge,
}

impl Peer for Network {
    const OURS: Self = Self::Hawser;
    const ALL: &'static [Self] = &[Self::Hawser, Self::Ovs, Self::OvsTso, Self::Bridge];

    fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Ovs => "ovs",
            Self::OvsTso => "ovs-tso",
            Self::Bridge => "bridge",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Hawser => "hawser layer2",
            Self::Ovs => "Open vSwitch, user space",
            Self::OvsTso => "Open vSwitch, user space, TSO",
            Self::Bridge => "bridges, no tunnel",
        }
    }
}

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each says what it is in `about`")]
pub enum Quantity {
    Tcp,
    Cpu,
    RoundTrip,
    Udp64,
}

impl Metric for Quantity {
    const ALL: &'static [Self] = &[Self::Tcp, Self::Cpu, Self::RoundTrip, Self::Udp64];

    fn about(self) -> About {
        let (key, title, unit, digits) = match self {
            Self::Tcp => ("tcp", "TCP guest → guest", "Gbit/s", 2),
            Self::Cpu => ("cpu", "CPU between the guests", "s/GB", 3),
            Self::RoundTrip => ("round_trip", "TCP round trip, 1 byte", "µs", 0),
            Self::Udp64 => ("udp_64", "UDP 64 bytes guest → guest, flood", "1000/s", 1),
        };
        About {
            key,
            title,
            unit,
            digits,
            more_is_better: matches!(self, Self::Tcp | Self::Udp64),
        }
    }
}

/// The targets.
pub const TARGETS: [Target<Network, Quantity>; 8] = [
    Target::of(Quantity::Tcp, Network::Ovs, Bound::AtLeastTimes(3.0)),
    Target::of(Quantity::Cpu, Network::Ovs, Bound::AtMostTimes(0.33)),
    Target::of(Quantity::Udp64, Network::Ovs, Bound::AtLeastTimes(2.0)),
    Target::of(Quantity::Tcp, Network::OvsTso, Bound::AtLeastTimes(3.0)),
    Target::of(Quantity::Cpu, Network::OvsTso, Bound::AtMostTimes(0.33)),
    Target::of(Quantity::Udp64, Network::OvsTso, Bound::AtLeastTimes(2.0)),
    Target::of(Quantity::Tcp, Network::Bridge, Bound::AtLeastTimes(0.6)),
    Target::of(Quantity::RoundTrip, Network::Bridge, Bound::AtMostMore(15.0)),
];

/// The samples of a run.
pub type Samples = Results<Network, Quantity>;
