//! All samples of a run: as JSON, as a table, and compared with the targets.

use crate::chart::{Bar, Panel};
use crate::metric::{Bound, Metric, Peer, TARGETS};
use crate::numbers::Spread;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The quantities in the picture.
const SHOWN: [Metric; 10] = [
    Metric::TcpOut,
    Metric::TcpIn,
    Metric::CpuOut,
    Metric::CpuIn,
    Metric::RoundTrip,
    Metric::Connections64,
    Metric::UdpOut1400,
    Metric::UdpIn1400,
    Metric::ResidentStart,
    Metric::ResidentEnd,
];

/// Samples by peer and metric. Samples at equal positions are of the same round.
#[derive(Debug, Default)]
pub struct Results {
    samples: BTreeMap<(Peer, Metric), Vec<f64>>,
}

/// The result for a target.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Target as text.
    pub target: String,
    /// Measured value as text. `None` without a measurement.
    pub measured: Option<String>,
    /// True if the target is reached.
    pub met: bool,
}

impl Results {
    /// Adds a sample.
    pub fn add(&mut self, peer: Peer, metric: Metric, value: f64) {
        self.samples.entry((peer, metric)).or_default().push(value);
    }

    /// Peers that were measured.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        Peer::ALL
            .into_iter()
            .filter(|peer| self.samples.keys().any(|(measured, _)| measured == peer))
    }

    fn of(&self, peer: Peer, metric: Metric) -> &[f64] {
        self.samples.get(&(peer, metric)).map_or(&[], Vec::as_slice)
    }

    /// Statistics of one quantity of one peer.
    pub fn spread(&self, peer: Peer, metric: Metric) -> Option<Spread> {
        Spread::of(self.of(peer, metric))
    }

    /// The panels of the picture.
    pub fn panels(&self) -> Vec<Panel> {
        let bar = |metric, peer: Peer| Bar {
            name: peer.title(),
            ours: peer == Peer::Hawser,
            spread: self.spread(peer, metric),
        };
        let panel = |metric: Metric| Panel {
            about: metric.about(),
            bars: self.peers().map(|peer| bar(metric, peer)).collect(),
        };
        SHOWN.into_iter().map(panel).collect()
    }

    /// All targets.
    pub fn verdicts(&self) -> Vec<Verdict> {
        TARGETS
            .iter()
            .map(|&(metric, bound)| self.verdict(metric, bound))
            .collect()
    }

    fn verdict(&self, metric: Metric, bound: Bound) -> Verdict {
        let about = metric.about();
        let ratio = |peer| Spread::of_ratios(self.of(Peer::Hawser, metric), self.of(peer, metric));
        let (demand, measured, met) = match bound {
            Bound::AtLeastTimes(peer, least) => {
                let spread = ratio(peer);
                let met = spread.is_some_and(|s| s.median >= least);
                (format!("≥ {least}× {}", peer.title()), spread.map(Spread::times), met)
            }
            Bound::AtMostTimes(peer, most) => {
                let spread = ratio(peer);
                let met = spread.is_some_and(|s| s.median <= most);
                (format!("≤ {most}× {}", peer.title()), spread.map(Spread::times), met)
            }
            Bound::AtMost(most) => {
                let spread = self.spread(Peer::Hawser, metric);
                let shown = |s: Spread| format!("{:.*} {}", about.digits, s.median, about.unit);
                let met = spread.is_some_and(|s| s.median <= most);
                (format!("≤ {most} {}", about.unit), spread.map(shown), met)
            }
        };
        Verdict {
            target: format!("{}: {demand}", about.title).trim_end().to_owned(),
            measured: measured.map(|text| text.trim_end().to_owned()),
            met,
        }
    }

    /// Two tables in Markdown: the figures, and the targets.
    pub fn to_markdown(&self) -> String {
        let peers: Vec<_> = self.peers().collect();
        let mut text = String::from("| |");
        for peer in &peers {
            // Writing to a String cannot fail, here and below.
            let _ = write!(text, " {} |", peer.title());
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(peers.len()));
        for metric in Metric::ALL {
            let about = metric.about();
            let unit = if about.unit.is_empty() {
                String::new()
            } else {
                format!(", {}", about.unit)
            };
            let _ = write!(text, "| {}{unit} |", about.title);
            for &peer in &peers {
                let _ = write!(text, " {} |", cell(self.spread(peer, metric), about.digits));
            }
            text.push('\n');
        }
        text.push_str("\n| target | measured | |\n|---|---|---|\n");
        for verdict in self.verdicts() {
            let (measured, mark) = match (verdict.measured, verdict.met) {
                (Some(measured), true) => (measured, "met"),
                (Some(measured), false) => (measured, "**missed**"),
                (None, _) => ("—".to_owned(), "not measured"),
            };
            let _ = writeln!(text, "| {} | {measured} | {mark} |", verdict.target);
        }
        text
    }

    /// Everything as JSON.
    pub fn to_json(&self) -> Value {
        let mut peers = Map::new();
        for peer in self.peers() {
            let mut metrics = Map::new();
            for metric in Metric::ALL {
                let Some(spread) = self.spread(peer, metric) else {
                    continue;
                };
                let mut value = spread.to_json();
                value["samples"] = json!(self.of(peer, metric));
                value["unit"] = json!(metric.about().unit);
                metrics.insert(metric.about().key.to_owned(), value);
            }
            peers.insert(peer.key().to_owned(), metrics.into());
        }
        let verdicts: Vec<_> = self
            .verdicts()
            .into_iter()
            .map(|v| json!({ "target": v.target, "measured": v.measured, "met": v.met }))
            .collect();
        json!({ "peers": peers, "targets": verdicts })
    }
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    let Some(spread) = spread else {
        return "—".to_owned();
    };
    if (spread.max - spread.min).abs() < f64::EPSILON {
        format!("{:.digits$}", spread.median)
    } else {
        spread.text(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(ours: &[f64], theirs: &[f64]) -> Results {
        let mut results = Results::default();
        for (peer, samples) in [(Peer::Hawser, ours), (Peer::Passt, theirs)] {
            for &sample in samples {
                results.add(peer, Metric::TcpOut, sample);
            }
        }
        results
    }

    fn first_verdict(results: &Results) -> Verdict {
        results.verdicts().swap_remove(0)
    }

    #[test]
    fn a_target_is_held_against_the_median_of_ratios() {
        let met = first_verdict(&results(&[4.0, 10.0, 6.0], &[2.0, 5.0, 4.0]));
        assert!(met.met, "{met:?}");
        assert_eq!(met.measured.as_deref(), Some("2.00× (1.50–2.00)"));
        let missed = first_verdict(&results(&[3.9, 10.0, 6.0], &[2.0, 6.0, 4.0]));
        assert!(!missed.met, "{missed:?}");
    }

    #[test]
    fn a_target_without_measurement_is_not_met() {
        let verdict = first_verdict(&results(&[1.0], &[]));
        assert!(!verdict.met);
        assert_eq!(verdict.measured, None);
    }
}
