//! The back ends on a bridge, the quantities, and the targets.

use crate::chart::{Bar, Panel};
use crate::results::{About, Bound, Metric, Peer, Results, Target};

/// A back end of the guest on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Back {
    /// hawser, bridge mode.
    Hawser,
    /// One system call per frame, without optimisations.
    Plain,
    /// The plain reference without MRG_RXBUF.
    PlainUnmerged,
    /// The plain reference, restricted like cloud-hypervisor's vhost_user_net. It offers neither MRG_RXBUF nor
    /// INDIRECT_DESC, so a ring of 256 holds 13 receive buffers of 64 KiB. It does not pass the guest's offloads to the
    /// kernel, so each buffer receives 1500 bytes.
    AsCloudHypervisor,
}

impl Peer for Back {
    const OURS: Self = Self::Hawser;
    const ALL: &'static [Self] = &[Self::Hawser, Self::Plain, Self::PlainUnmerged, Self::AsCloudHypervisor];

    fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Plain => "plain",
            Self::PlainUnmerged => "plain-unmerged",
            Self::AsCloudHypervisor => "as-cloud-hypervisor",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Plain => "plain TAP",
            Self::PlainUnmerged => "plain TAP, no MRG_RXBUF",
            Self::AsCloudHypervisor => "plain TAP, as cloud-hypervisor",
        }
    }
}

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each says what it is in `about`")]
pub enum Quantity {
    TcpOut,
    TcpIn,
    CpuOut,
    CpuIn,
    RoundTrip,
    UdpOut64,
    UdpIn64,
    Between,
    BareWrite,
    BareRead,
}

impl Metric for Quantity {
    const ALL: &'static [Self] = &[
        Self::TcpOut,
        Self::TcpIn,
        Self::Between,
        Self::CpuOut,
        Self::BareWrite,
        Self::CpuIn,
        Self::BareRead,
        Self::RoundTrip,
        Self::UdpOut64,
        Self::UdpIn64,
    ];

    fn about(self) -> About {
        let (key, title, unit, digits) = match self {
            Self::TcpOut => ("tcp_out", "TCP guest → host", "Gbit/s", 2),
            Self::TcpIn => ("tcp_in", "TCP host → guest", "Gbit/s", 2),
            Self::Between => ("tcp_between", "TCP guest → guest on the bridge", "Gbit/s", 2),
            Self::CpuOut => ("cpu_out", "CPU of the back end, guest → host", "s/GB", 3),
            Self::BareWrite => ("bare_write", "CPU of a bare loop of write(2)", "s/GB", 3),
            Self::CpuIn => ("cpu_in", "CPU of the back end, host → guest", "s/GB", 3),
            Self::BareRead => ("bare_read", "CPU of a bare loop of read(2)", "s/GB", 3),
            Self::RoundTrip => ("round_trip", "TCP round trip, 1 byte", "µs", 0),
            Self::UdpOut64 => ("udp_out_64", "UDP 64 bytes guest → host, flood", "1000/s", 1),
            Self::UdpIn64 => ("udp_in_64", "UDP 64 bytes host → guest, flood", "1000/s", 1),
        };
        let less_is_better = matches!(
            self,
            Self::CpuOut | Self::CpuIn | Self::BareWrite | Self::BareRead | Self::RoundTrip
        );
        About {
            key,
            title,
            unit,
            digits,
            more_is_better: !less_is_better,
        }
    }
}

/// The quantities in the picture, each with the bare loop for comparison.
const SHOWN: [(Quantity, Option<Quantity>); 7] = [
    (Quantity::TcpOut, None),
    (Quantity::TcpIn, None),
    (Quantity::CpuOut, Some(Quantity::BareWrite)),
    (Quantity::CpuIn, Some(Quantity::BareRead)),
    (Quantity::UdpOut64, None),
    (Quantity::UdpIn64, None),
    (Quantity::RoundTrip, None),
];

/// The targets. Those that name hawser as the peer are against the bare loop, or another direction.
pub const TARGETS: [Target<Back, Quantity>; 7] = [
    Target::of(Quantity::TcpOut, Back::Plain, Bound::AtLeastTimes(1.05)),
    Target::of(Quantity::TcpIn, Back::AsCloudHypervisor, Bound::AtLeastTimes(10.0)),
    Target::of(Quantity::TcpIn, Back::PlainUnmerged, Bound::AtLeastTimes(10.0)),
    Target {
        metric: Quantity::CpuOut,
        peer: Back::Hawser,
        theirs: Quantity::BareWrite,
        bound: Bound::AtMostTimes(1.25),
    },
    Target {
        metric: Quantity::CpuIn,
        peer: Back::Hawser,
        theirs: Quantity::BareRead,
        bound: Bound::AtMostTimes(1.4),
    },
    Target {
        metric: Quantity::Between,
        peer: Back::Hawser,
        theirs: Quantity::TcpOut,
        bound: Bound::AtLeastTimes(0.8),
    },
    Target::of(Quantity::RoundTrip, Back::Plain, Bound::AtMostTimes(1.0)),
];

/// The samples of a run. Those of the bare loop are under hawser.
pub type Samples = Results<Back, Quantity>;

/// The panels of the picture.
pub fn panels(results: &Samples) -> Vec<Panel> {
    let bar = |name, ours, metric| Bar {
        name,
        ours,
        spread: results.spread(Back::Hawser, metric),
    };
    let mut panels: Vec<Panel> = SHOWN
        .into_iter()
        .map(|(metric, bare)| {
            let mut panel = results.panel(metric);
            panel.bars.extend(bare.map(|bare| bar("bare loop", false, bare)));
            panel
        })
        .collect();
    panels.push(Panel {
        about: About {
            title: "TCP between guests, and to the host",
            ..Quantity::Between.about()
        },
        bars: [("guest → guest", Quantity::Between), ("guest → host", Quantity::TcpOut)]
            .map(|(name, metric)| bar(name, true, metric))
            .into(),
    });
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart;

    #[test]
    fn the_bare_loop_and_the_way_between_guests_are_in_the_picture() {
        let mut results = Samples::default();
        for metric in [Quantity::CpuIn, Quantity::BareRead, Quantity::Between, Quantity::TcpOut] {
            results.add(Back::Hawser, metric, 2.0);
        }
        results.add(Back::Plain, Quantity::CpuIn, 1.0);
        let picture = chart::svg(&panels(&results), "");
        for name in ["bare loop", "plain TAP", "guest → guest"] {
            assert!(picture.contains(name), "{name}");
        }
        // The panels for CPU, for throughput, and for both directions side by side.
        assert_eq!(picture.matches("<rect class=\"bar").count(), 3 + 1 + 2);
        assert_eq!(picture.matches("not measured").count(), 1);
    }
}
