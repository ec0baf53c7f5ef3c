//! All samples of a run on a bridge, and the targets for it.

use crate::chart::{Bar, Panel};
use crate::metric::About;
use crate::numbers::Spread;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A back end of the guest on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// hawser in bridge mode.
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

impl Peer {
    /// All back ends, in the order of runs and results.
    pub const ALL: [Self; 4] = [Self::Hawser, Self::Plain, Self::PlainUnmerged, Self::AsCloudHypervisor];

    /// Name in the JSON file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Plain => "plain",
            Self::PlainUnmerged => "plain-unmerged",
            Self::AsCloudHypervisor => "as-cloud-hypervisor",
        }
    }

    /// Name of the back end in tables and pictures.
    pub const fn title(self) -> &'static str {
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
#[allow(missing_docs, reason = "`about` describes each")]
pub enum Metric {
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

impl Metric {
    /// All quantities, in the order of the results.
    pub const ALL: [Self; 10] = [
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

    const fn about(self) -> About {
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
const SHOWN: [(Metric, Option<Metric>); 7] = [
    (Metric::TcpOut, None),
    (Metric::TcpIn, None),
    (Metric::CpuOut, Some(Metric::BareWrite)),
    (Metric::CpuIn, Some(Metric::BareRead)),
    (Metric::UdpOut64, None),
    (Metric::UdpIn64, None),
    (Metric::RoundTrip, None),
];

/// The targets. Each has hawser's quantity, a peer with the quantity to compare with, a factor, and whether the factor
/// is a minimum.
const TARGETS: [(Metric, Peer, Metric, f64, bool); 7] = [
    (Metric::TcpOut, Peer::Plain, Metric::TcpOut, 1.05, true),
    (Metric::TcpIn, Peer::AsCloudHypervisor, Metric::TcpIn, 10.0, true),
    (Metric::TcpIn, Peer::PlainUnmerged, Metric::TcpIn, 10.0, true),
    (Metric::CpuOut, Peer::Hawser, Metric::BareWrite, 1.25, false),
    (Metric::CpuIn, Peer::Hawser, Metric::BareRead, 1.4, false),
    (Metric::Between, Peer::Hawser, Metric::TcpOut, 0.8, true),
    (Metric::RoundTrip, Peer::Plain, Metric::RoundTrip, 1.0, false),
];

/// Samples by peer and metric. Samples at equal positions are of the same round. Those of the bare loop are under
/// hawser.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<(Peer, Metric), Vec<f64>>);

impl Results {
    /// Adds a sample. It is NaN if the measurement failed.
    pub fn add(&mut self, peer: Peer, metric: Metric, value: f64) {
        self.0.entry((peer, metric)).or_default().push(value);
    }

    fn of(&self, peer: Peer, metric: Metric) -> &[f64] {
        self.0.get(&(peer, metric)).map_or(&[], Vec::as_slice)
    }

    /// The panels of the picture.
    pub fn panels(&self) -> Vec<Panel> {
        let spread = |peer, metric| Spread::of(self.of(peer, metric));
        let measured = |peer: &Peer| self.0.keys().any(|(known, _)| known == peer);
        let panel = |(metric, bare): (Metric, Option<Metric>)| {
            let peers = Peer::ALL.into_iter().filter(measured).map(|peer| Bar {
                name: peer.title(),
                ours: peer == Peer::Hawser,
                spread: spread(peer, metric),
            });
            let bare = bare.map(|bare| Bar {
                name: "bare loop",
                ours: false,
                spread: spread(Peer::Hawser, bare),
            });
            Panel {
                about: metric.about(),
                bars: peers.chain(bare).collect(),
            }
        };
        let mut panels: Vec<Panel> = SHOWN.into_iter().map(panel).collect();
        panels.push(Panel {
            about: About {
                title: "TCP between guests, and to the host",
                ..Metric::Between.about()
            },
            bars: [("guest → guest", Metric::Between), ("guest → host", Metric::TcpOut)]
                .map(|(name, metric)| Bar {
                    name,
                    ours: true,
                    spread: spread(Peer::Hawser, metric),
                })
                .into(),
        });
        panels
    }

    /// Each target, the measured ratio, and whether the target is reached.
    fn verdicts(&self) -> impl Iterator<Item = (String, Option<Spread>, bool)> {
        TARGETS.iter().map(|&(metric, peer, theirs, times, at_least)| {
            let spread = Spread::of_ratios(self.of(Peer::Hawser, metric), self.of(peer, theirs));
            let met = spread.is_some_and(|s| if at_least { s.median >= times } else { s.median <= times });
            let sign = if at_least { '≥' } else { '≤' };
            let against = if peer == Peer::Hawser {
                theirs.about().title
            } else {
                peer.title()
            };
            (
                format!("{}: {sign} {times}× {against}", metric.about().title),
                spread,
                met,
            )
        })
    }

    /// Two tables in Markdown: the figures, and the targets.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| |");
        for peer in Peer::ALL {
            // Writing to a String cannot fail, here and below.
            let _ = write!(text, " {} |", peer.title());
        }
        text.push_str("\n|---|---|---|---|---|\n");
        for metric in Metric::ALL {
            let About {
                title, unit, digits, ..
            } = metric.about();
            let _ = write!(text, "| {title}, {unit} |");
            for peer in Peer::ALL {
                let cell = Spread::of(self.of(peer, metric)).map_or_else(|| "—".to_owned(), |s| s.text(digits));
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text.push_str("\n| target | measured | |\n|---|---|---|\n");
        for (target, spread, met) in self.verdicts() {
            let measured = spread.map_or_else(|| "—".to_owned(), Spread::times);
            let _ = writeln!(
                text,
                "| {target} | {measured} | {} |",
                if met { "met" } else { "**missed**" }
            );
        }
        text
    }

    /// Everything as JSON.
    pub fn to_json(&self) -> Value {
        let mut peers = Map::new();
        for ((peer, metric), samples) in &self.0 {
            let Some(spread) = Spread::of(samples) else { continue };
            let mut value = spread.to_json();
            value["samples"] = json!(samples);
            value["unit"] = json!(metric.about().unit);
            peers.entry(peer.key()).or_insert_with(|| json!({}))[metric.about().key] = value;
        }
        let verdicts: Vec<_> = self
            .verdicts()
            .map(|(target, spread, met)| json!({ "target": target, "measured": spread.map(Spread::to_json), "met": met }))
            .collect();
        json!({ "peers": peers, "targets": verdicts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart;

    #[test]
    fn the_bare_loop_and_the_way_between_guests_are_in_the_picture() {
        let mut results = Results::default();
        for metric in [Metric::CpuIn, Metric::BareRead, Metric::Between, Metric::TcpOut] {
            results.add(Peer::Hawser, metric, 2.0);
        }
        results.add(Peer::Plain, Metric::CpuIn, 1.0);
        let picture = chart::svg(&results.panels(), "");
        for name in ["bare loop", "plain TAP", "guest → guest"] {
            assert!(picture.contains(name), "{name}");
        }
        // The panels for CPU, for throughput, and for both directions side by side.
        assert_eq!(picture.matches("<rect class=\"bar").count(), 3 + 1 + 2);
        assert_eq!(picture.matches("not measured").count(), 1);
    }
}
