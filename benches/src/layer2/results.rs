//! All samples of a run between two nodes, and the targets for it.

use crate::chart::{Bar, Panel};
use crate::metric::About;
use crate::numbers::Spread;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A network between two guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// hawser in layer2 mode.
    Hawser,
    /// Open vSwitch, user-space datapath with Geneve and TAP devices, as it is by default.
    Ovs,
    /// Open vSwitch with `userspace-tso-enable`.
    OvsTso,
    /// hawser's bridge mode on TAP devices and Linux bridges, without a tunnel.
    Bridge,
}

impl Peer {
    /// All networks, in the order of runs and results.
    pub const ALL: [Self; 4] = [Self::Hawser, Self::Ovs, Self::OvsTso, Self::Bridge];

    /// Name in the JSON file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Ovs => "ovs",
            Self::OvsTso => "ovs-tso",
            Self::Bridge => "bridge",
        }
    }

    /// Name of the network in tables and pictures.
    pub const fn title(self) -> &'static str {
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
#[allow(missing_docs, reason = "`about` describes each")]
pub enum Metric {
    Tcp,
    Cpu,
    RoundTrip,
    Udp64,
}

impl Metric {
    /// All quantities, in the order of the results.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Cpu, Self::RoundTrip, Self::Udp64];

    const fn about(self) -> About {
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

/// The bound on hawser's figure, relative to that of another network.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// It is at least this many times the other's.
    TimesAtLeast(f64),
    /// It is at most this many times the other's.
    TimesAtMost(f64),
    /// It exceeds the other's by at most this much.
    MoreAtMost(f64),
}

const TARGETS: [(Metric, Peer, Bound); 8] = [
    (Metric::Tcp, Peer::Ovs, Bound::TimesAtLeast(3.0)),
    (Metric::Cpu, Peer::Ovs, Bound::TimesAtMost(0.33)),
    (Metric::Udp64, Peer::Ovs, Bound::TimesAtLeast(2.0)),
    (Metric::Tcp, Peer::OvsTso, Bound::TimesAtLeast(3.0)),
    (Metric::Cpu, Peer::OvsTso, Bound::TimesAtMost(0.33)),
    (Metric::Udp64, Peer::OvsTso, Bound::TimesAtLeast(2.0)),
    (Metric::Tcp, Peer::Bridge, Bound::TimesAtLeast(0.6)),
    (Metric::RoundTrip, Peer::Bridge, Bound::MoreAtMost(15.0)),
];

/// A target, the measured result in words and numbers, and whether the target is reached.
struct Verdict {
    target: String,
    measured: String,
    spread: Option<Spread>,
    is_met: bool,
}

/// Samples by peer and metric. Samples at equal positions are of the same round.
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
        let measured = |peer: &Peer| self.0.keys().any(|(known, _)| known == peer);
        let panel = |metric: Metric| Panel {
            about: metric.about(),
            bars: Peer::ALL
                .into_iter()
                .filter(measured)
                .map(|peer| Bar {
                    name: peer.title(),
                    ours: peer == Peer::Hawser,
                    spread: Spread::of(self.of(peer, metric)),
                })
                .collect(),
        };
        Metric::ALL.into_iter().map(panel).collect()
    }

    fn verdict(&self, (metric, peer, bound): (Metric, Peer, Bound)) -> Verdict {
        let (ours, theirs) = (self.of(Peer::Hawser, metric), self.of(peer, metric));
        let About { title, unit, .. } = metric.about();
        let ratios = Spread::of_ratios(ours, theirs);
        let differences: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect();
        let (words, spread) = match bound {
            Bound::TimesAtLeast(times) => (format!("≥ {times}×"), ratios),
            Bound::TimesAtMost(times) => (format!("≤ {times}×"), ratios),
            Bound::MoreAtMost(more) => (format!("≤ {more} {unit} above"), Spread::of(&differences)),
        };
        let is_met = spread.is_some_and(|spread| match bound {
            Bound::TimesAtLeast(least) => spread.median >= least,
            Bound::TimesAtMost(most) | Bound::MoreAtMost(most) => spread.median <= most,
        });
        let measured = spread.map_or_else(
            || "—".to_owned(),
            |spread| match bound {
                Bound::MoreAtMost(_) => format!("{} {unit}", spread.text(1)),
                _ => spread.times(),
            },
        );
        Verdict {
            target: format!("{title}: {words} {}", peer.title()),
            measured,
            spread,
            is_met,
        }
    }

    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        TARGETS.iter().map(|target| self.verdict(*target))
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
        for verdict in self.verdicts() {
            let mark = if verdict.is_met { "met" } else { "**missed**" };
            let _ = writeln!(text, "| {} | {} | {mark} |", verdict.target, verdict.measured);
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
            .map(|v| json!({ "target": v.target, "measured": v.spread.map(Spread::to_json), "met": v.is_met }))
            .collect();
        json!({ "peers": peers, "targets": verdicts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_missed_unless_the_median_reaches_it() {
        let mut results = Results::default();
        for (peer, tcp, round_trip) in [
            (Peer::Hawser, 6.0, 90.0),
            (Peer::Ovs, 2.0, 200.0),
            (Peer::Bridge, 12.0, 80.0),
        ] {
            results.add(peer, Metric::Tcp, tcp);
            results.add(peer, Metric::RoundTrip, round_trip);
        }
        let met: Vec<bool> = results.verdicts().map(|verdict| verdict.is_met).collect();
        // A quantity that was not measured counts as a missed target.
        assert_eq!(met, [true, false, false, false, false, false, false, true]);
        let text = results.to_markdown();
        assert!(
            text.contains("≥ 3× Open vSwitch, user space | 3.00× (3.00–3.00) | met"),
            "{text}"
        );
        assert!(
            text.contains("≤ 15 µs above bridges, no tunnel | 10.0 (10.0–10.0) µs | met"),
            "{text}"
        );
    }
}
