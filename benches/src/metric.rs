//! The quantities measured on a real guest in masquerade mode, its back ends, and the targets.

use crate::results::{About, Bound, Metric, Peer, Results, Target};

/// A quantity that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each says what it is in `about`")]
pub enum Quantity {
    TcpOut,
    TcpIn,
    CpuOut,
    CpuIn,
    RoundTrip,
    Connections1,
    Connections64,
    UdpOut1400,
    UdpIn1400,
    UdpOut64,
    UdpIn64,
    ResidentStart,
    ResidentEnd,
    FlowMemory,
    FlowMemoryShared,
    IdleSwitches,
}

impl Metric for Quantity {
    const ALL: &'static [Self] = &[
        Self::TcpOut,
        Self::TcpIn,
        Self::CpuOut,
        Self::CpuIn,
        Self::RoundTrip,
        Self::Connections1,
        Self::Connections64,
        Self::UdpOut1400,
        Self::UdpIn1400,
        Self::UdpOut64,
        Self::UdpIn64,
        Self::ResidentStart,
        Self::ResidentEnd,
        Self::FlowMemory,
        Self::FlowMemoryShared,
        Self::IdleSwitches,
    ];

    fn about(self) -> About {
        let (key, title, unit, digits, more_is_better) = match self {
            Self::TcpOut => ("tcp_out", "TCP guest → host", "Gbit/s", 2, true),
            Self::TcpIn => ("tcp_in", "TCP host → guest", "Gbit/s", 2, true),
            Self::CpuOut => ("cpu_out", "CPU of the back end, guest → host", "s/GB", 3, false),
            Self::CpuIn => ("cpu_in", "CPU of the back end, host → guest", "s/GB", 3, false),
            Self::RoundTrip => ("round_trip", "TCP round trip, 1 byte", "µs", 0, false),
            Self::Connections1 => ("connections_1", "Connections, one at a time (median)", "/s", 0, true),
            Self::Connections64 => ("connections_64", "Connections, 64 at once", "/s", 0, true),
            Self::UdpOut1400 => ("udp_out_1400", "UDP 1400 bytes guest → host, flood", "1000/s", 1, true),
            Self::UdpIn1400 => ("udp_in_1400", "UDP 1400 bytes host → guest, flood", "1000/s", 1, true),
            Self::UdpOut64 => ("udp_out_64", "UDP 64 bytes guest → host, flood", "1000/s", 1, true),
            Self::UdpIn64 => ("udp_in_64", "UDP 64 bytes host → guest, flood", "1000/s", 1, true),
            Self::ResidentStart => ("resident_start", "Resident memory at start", "MB", 1, false),
            Self::ResidentEnd => ("resident_end", "Resident memory after the runs", "MB", 1, false),
            Self::FlowMemory => ("flow_memory", "Memory per 1,000 idle flows", "MB", 2, false),
            Self::FlowMemoryShared => (
                "flow_memory_shared",
                "Guest memory first touched per 1,000 idle flows",
                "MB",
                2,
                false,
            ),
            Self::IdleSwitches => ("idle_switches", "Context switches in 10 s, idle guest", "", 0, false),
        };
        About {
            key,
            title,
            unit,
            digits,
            more_is_better,
        }
    }
}

/// A back end of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Back {
    /// hawser, masquerade.
    Hawser,
    /// passt with a guest MTU of 1500.
    Passt,
    /// passt with its own default MTU of 65520.
    PasstLargeMtu,
    /// TAP and nftables.
    Tap,
    /// TAP and nftables, without MRG_RXBUF.
    TapUnmerged,
}

impl Peer for Back {
    const OURS: Self = Self::Hawser;
    const ALL: &'static [Self] = &[
        Self::Hawser,
        Self::Passt,
        Self::PasstLargeMtu,
        Self::Tap,
        Self::TapUnmerged,
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Passt => "passt",
            Self::PasstLargeMtu => "passt-65520",
            Self::Tap => "tap",
            Self::TapUnmerged => "tap-unmerged",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Passt => "passt",
            Self::PasstLargeMtu => "passt, MTU 65520",
            Self::Tap => "TAP + nft",
            Self::TapUnmerged => "TAP + nft, no MRG_RXBUF",
        }
    }
}

/// The quantities in the picture.
pub const SHOWN: [Quantity; 10] = [
    Quantity::TcpOut,
    Quantity::TcpIn,
    Quantity::CpuOut,
    Quantity::CpuIn,
    Quantity::RoundTrip,
    Quantity::Connections64,
    Quantity::UdpOut1400,
    Quantity::UdpIn1400,
    Quantity::ResidentStart,
    Quantity::ResidentEnd,
];

/// The targets.
pub const TARGETS: [Target<Back, Quantity>; 14] = [
    Target::of(Quantity::TcpOut, Back::Passt, Bound::AtLeastTimes(2.0)),
    Target::of(Quantity::TcpIn, Back::Passt, Bound::AtLeastTimes(2.0)),
    Target::of(Quantity::TcpOut, Back::Tap, Bound::AtLeastTimes(1.0)),
    Target::of(Quantity::TcpIn, Back::Tap, Bound::AtLeastTimes(1.0)),
    Target::of(Quantity::CpuOut, Back::Passt, Bound::AtMostTimes(0.6)),
    Target::of(Quantity::CpuIn, Back::Passt, Bound::AtMostTimes(0.6)),
    Target::of(Quantity::RoundTrip, Back::Passt, Bound::AtMostTimes(0.65)),
    Target::of(Quantity::Connections1, Back::Passt, Bound::AtLeastTimes(1.0)),
    Target::of(Quantity::Connections64, Back::Passt, Bound::AtLeastTimes(1.3)),
    Target::of(Quantity::UdpIn1400, Back::Passt, Bound::AtLeastTimes(2.0)),
    Target::of(Quantity::UdpOut1400, Back::Passt, Bound::AtLeastTimes(1.0)),
    Target::alone(Quantity::ResidentStart, 8.0),
    Target::alone(Quantity::FlowMemory, 1.0),
    Target::alone(Quantity::IdleSwitches, 0.0),
];

/// The samples of a run.
pub type Samples = Results<Back, Quantity>;
