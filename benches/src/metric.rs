//! The quantities measured on a real guest, and their targets.

/// A quantity that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "`about` describes each")]
pub enum Metric {
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

/// How a quantity is presented.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Name in the JSON file.
    pub key: &'static str,
    /// Title of the quantity in tables and pictures.
    pub title: &'static str,
    /// Unit of the quantity.
    pub unit: &'static str,
    /// Number of decimals.
    pub digits: usize,
    /// True if more is better.
    pub more_is_better: bool,
}

impl Metric {
    /// All quantities, in the order of the results.
    pub const ALL: [Self; 16] = [
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

    /// How the quantity is presented.
    pub const fn about(self) -> About {
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
pub enum Peer {
    /// hawser in masquerade mode.
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

impl Peer {
    /// All peers, in the order of runs and results.
    pub const ALL: [Self; 5] = [
        Self::Hawser,
        Self::Passt,
        Self::PasstLargeMtu,
        Self::Tap,
        Self::TapUnmerged,
    ];

    /// Name on the command line and in the JSON file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Passt => "passt",
            Self::PasstLargeMtu => "passt-65520",
            Self::Tap => "tap",
            Self::TapUnmerged => "tap-unmerged",
        }
    }

    /// Name of the back end in tables and pictures.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Passt => "passt",
            Self::PasstLargeMtu => "passt, MTU 65520",
            Self::Tap => "TAP + nft",
            Self::TapUnmerged => "TAP + nft, no MRG_RXBUF",
        }
    }
}

/// A bound on a quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// hawser's value is at least this many times the peer's.
    AtLeastTimes(Peer, f64),
    /// hawser's value is at most this many times the peer's.
    AtMostTimes(Peer, f64),
    /// hawser's value is at most this.
    AtMost(f64),
}

/// A quantity and its bound.
pub type Target = (Metric, Bound);

/// The targets of hawser.
pub const TARGETS: [Target; 14] = [
    (Metric::TcpOut, Bound::AtLeastTimes(Peer::Passt, 2.0)),
    (Metric::TcpIn, Bound::AtLeastTimes(Peer::Passt, 2.0)),
    (Metric::TcpOut, Bound::AtLeastTimes(Peer::Tap, 1.0)),
    (Metric::TcpIn, Bound::AtLeastTimes(Peer::Tap, 1.0)),
    (Metric::CpuOut, Bound::AtMostTimes(Peer::Passt, 0.6)),
    (Metric::CpuIn, Bound::AtMostTimes(Peer::Passt, 0.6)),
    (Metric::RoundTrip, Bound::AtMostTimes(Peer::Passt, 0.65)),
    (Metric::Connections1, Bound::AtLeastTimes(Peer::Passt, 1.0)),
    (Metric::Connections64, Bound::AtLeastTimes(Peer::Passt, 1.3)),
    (Metric::UdpIn1400, Bound::AtLeastTimes(Peer::Passt, 2.0)),
    (Metric::UdpOut1400, Bound::AtLeastTimes(Peer::Passt, 1.0)),
    (Metric::ResidentStart, Bound::AtMost(8.0)),
    (Metric::FlowMemory, Bound::AtMost(1.0)),
    (Metric::IdleSwitches, Bound::AtMost(0.0)),
];
