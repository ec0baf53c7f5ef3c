//! Samples of several peers, taken in interleaved rounds: as tables, as JSON, as panels of a picture, and compared with
//! targets. Every bench with guests names its peers, quantities and targets, and has the rest from here.

use crate::chart::{Bar, Panel};
use crate::numbers::Spread;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A back end or network that is measured.
pub trait Peer: Copy + Ord + 'static {
    /// All of them, in the order of runs and results.
    const ALL: &'static [Self];
    /// hawser's own.
    const OURS: Self;

    /// Name on the command line and in the JSON file.
    fn key(self) -> &'static str;

    /// Name for people.
    fn title(self) -> &'static str;
}

/// A quantity.
pub trait Metric: Copy + Ord + 'static {
    /// All of them, in the order of the results.
    const ALL: &'static [Self];

    /// Its presentation.
    fn about(self) -> About;
}

/// Presentation of a quantity.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Name in the JSON file.
    pub key: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Number of decimals.
    pub digits: usize,
    /// Whether more is better.
    pub more_is_better: bool,
}

/// A bound on a quantity of hawser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At least this many times the other's.
    AtLeastTimes(f64),
    /// At most this many times the other's.
    AtMostTimes(f64),
    /// At most this much more than the other's.
    AtMostMore(f64),
    /// At most this, without another.
    AtMost(f64),
    /// At least this, without another.
    AtLeast(f64),
    /// At least this in every round, without another.
    AlwaysAtLeast(f64),
}

/// A quantity of hawser, and the quantity of a peer that it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Target<P, M> {
    /// hawser's quantity.
    pub metric: M,
    /// The peer; hawser itself to compare two of its quantities.
    pub peer: P,
    /// The peer's quantity.
    pub theirs: M,
    /// The bound.
    pub bound: Bound,
}

impl<P: Peer, M: Metric> Target<P, M> {
    /// A comparison of the same quantity.
    pub const fn of(metric: M, peer: P, bound: Bound) -> Self {
        Self {
            metric,
            peer,
            theirs: metric,
            bound,
        }
    }

    /// A bound on hawser's figure alone.
    pub const fn alone(metric: M, most: f64) -> Self {
        Self::of(metric, P::OURS, Bound::AtMost(most))
    }
}

/// The result for a target.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Target as text.
    pub target: String,
    /// Measured value as text. `None` without a measurement.
    pub measured: Option<String>,
    /// The same in numbers.
    pub spread: Option<Spread>,
    /// Whether the target is met. One that is not measured is not.
    pub is_met: bool,
}

impl Verdict {
    /// The result for a ratio that may be at most `most`.
    pub fn at_most_times(what: &str, most: f64, other: &str, ratio: Option<Spread>) -> Self {
        Self {
            target: format!("{what}: ≤ {most}× {other}"),
            measured: ratio.map(Spread::times),
            spread: ratio,
            is_met: ratio.is_some_and(|ratio| ratio.median <= most),
        }
    }

    /// A table of targets in Markdown.
    pub fn table(verdicts: &[Self]) -> String {
        let mut text = String::from("| target | measured | |\n|---|---|---|\n");
        for Self {
            target,
            measured,
            is_met,
            ..
        } in verdicts
        {
            let (measured, mark) = match (measured, is_met) {
                (Some(measured), true) => (measured.as_str(), "met"),
                (Some(measured), false) => (measured.as_str(), "**missed**"),
                (None, _) => ("—", "not measured"),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {target} | {measured} | {mark} |");
        }
        text
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "target": self.target, "measured": self.measured, "spread": self.spread.map(Spread::to_json),
            "met": self.is_met,
        })
    }
}

/// Samples by peer and quantity; equal positions are of the same round.
#[derive(Debug)]
pub struct Results<P, M>(BTreeMap<(P, M), Vec<f64>>);

impl<P, M> Default for Results<P, M> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P: Peer, M: Metric> Results<P, M> {
    /// Adds a sample; NaN if the measurement failed.
    pub fn add(&mut self, peer: P, metric: M, value: f64) {
        self.0.entry((peer, metric)).or_default().push(value);
    }

    /// Adds what a measurement has found for each of `metrics`, or reports its failure.
    pub fn keep(&mut self, peer: P, metrics: &[M], found: hawser_testkit::Result<Vec<f64>>) {
        let found = found.unwrap_or_else(|error| {
            eprintln!("{} failed: {error}", peer.title());
            vec![f64::NAN; metrics.len()]
        });
        for (metric, value) in metrics.iter().zip(found) {
            self.add(peer, *metric, value);
        }
    }

    /// Peers that were measured.
    pub fn peers(&self) -> impl Iterator<Item = P> {
        let measured = |peer: &P| self.0.keys().any(|(known, _)| known == peer);
        P::ALL.iter().copied().filter(measured)
    }

    fn of(&self, peer: P, metric: M) -> &[f64] {
        self.0.get(&(peer, metric)).map_or(&[], Vec::as_slice)
    }

    /// Statistics of one quantity of one peer.
    pub fn spread(&self, peer: P, metric: M) -> Option<Spread> {
        Spread::of(self.of(peer, metric))
    }

    /// A panel with a bar for each peer.
    pub fn panel(&self, metric: M) -> Panel {
        let bar = |peer: P| Bar {
            name: peer.title(),
            ours: peer == P::OURS,
            spread: self.spread(peer, metric),
        };
        Panel {
            about: metric.about(),
            bars: self.peers().map(bar).collect(),
        }
    }

    /// The results for `targets`.
    pub fn verdicts(&self, targets: &[Target<P, M>]) -> Vec<Verdict> {
        targets.iter().map(|target| self.verdict(*target)).collect()
    }

    fn verdict(&self, target: Target<P, M>) -> Verdict {
        let Target {
            metric,
            peer,
            theirs,
            bound,
        } = target;
        let About {
            title, unit, digits, ..
        } = metric.about();
        let other = if peer == P::OURS {
            theirs.about().title
        } else {
            peer.title()
        };
        let (ours, theirs) = (self.of(P::OURS, metric), self.of(peer, theirs));
        let ratio = || Spread::of_ratios(ours, theirs);
        let difference = || {
            let differences = ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs);
            Spread::of(&differences.collect::<Vec<_>>())
        };
        let (demand, spread) = match bound {
            Bound::AtLeastTimes(times) => (format!("≥ {times}× {other}"), ratio()),
            Bound::AtMostTimes(times) => (format!("≤ {times}× {other}"), ratio()),
            Bound::AtMostMore(more) => (format!("≤ {more} {unit} above {other}"), difference()),
            Bound::AtMost(most) => (format!("≤ {most} {unit}"), Spread::of(ours)),
            Bound::AtLeast(least) => (format!("≥ {least} {unit}"), Spread::of(ours)),
            Bound::AlwaysAtLeast(least) => (format!("always ≥ {least} {unit}"), Spread::of(ours)),
        };
        let text = |spread: Spread| match bound {
            Bound::AtLeastTimes(_) | Bound::AtMostTimes(_) => spread.times(),
            Bound::AtMostMore(_) => format!("{} {unit}", spread.text(1)),
            Bound::AtMost(_) | Bound::AtLeast(_) => format!("{:.digits$} {unit}", spread.median).trim_end().to_owned(),
            Bound::AlwaysAtLeast(_) => format!("{:.digits$} {unit}", spread.min).trim_end().to_owned(),
        };
        Verdict {
            target: format!("{title}: {demand}").trim_end().to_owned(),
            measured: spread.map(text),
            is_met: spread.is_some_and(|spread| match bound {
                Bound::AtLeastTimes(least) | Bound::AtLeast(least) => spread.median >= least,
                Bound::AlwaysAtLeast(least) => spread.min >= least,
                Bound::AtMostTimes(most) | Bound::AtMostMore(most) | Bound::AtMost(most) => spread.median <= most,
            }),
            spread,
        }
    }

    /// A table of all figures in Markdown.
    pub fn table(&self) -> String {
        let peers: Vec<_> = self.peers().collect();
        let mut text = String::from("| |");
        for peer in &peers {
            // Writing to a String cannot fail, here and below.
            let _ = write!(text, " {} |", peer.title());
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(peers.len()));
        for &metric in M::ALL {
            let About {
                title, unit, digits, ..
            } = metric.about();
            let unit = if unit.is_empty() {
                String::new()
            } else {
                format!(", {unit}")
            };
            let _ = write!(text, "| {title}{unit} |");
            for &peer in &peers {
                let _ = write!(text, " {} |", cell(self.spread(peer, metric), digits));
            }
            text.push('\n');
        }
        text
    }

    /// All samples as JSON, and the results for targets.
    pub fn to_json(&self, verdicts: &[Verdict]) -> Value {
        let mut peers = Map::new();
        for ((peer, metric), samples) in &self.0 {
            let Some(spread) = Spread::of(samples) else { continue };
            let About { key, unit, .. } = metric.about();
            let mut value = spread.to_json();
            value["samples"] = json!(samples);
            value["unit"] = json!(unit);
            peers.entry(peer.key()).or_insert_with(|| json!({}))[key] = value;
        }
        let verdicts: Vec<_> = verdicts.iter().map(Verdict::to_json).collect();
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
    use crate::metric::{Back, Quantity};

    fn results(ours: &[f64], theirs: &[f64]) -> Results<Back, Quantity> {
        let mut results = Results::default();
        for (peer, samples) in [(Back::Hawser, ours), (Back::Passt, theirs)] {
            for &sample in samples {
                results.add(peer, Quantity::RoundTrip, sample);
            }
        }
        results
    }

    fn verdict(bound: Bound, ours: &[f64], theirs: &[f64]) -> Verdict {
        let target = Target::of(Quantity::RoundTrip, Back::Passt, bound);
        results(ours, theirs).verdicts(&[target]).remove(0)
    }

    #[test]
    fn a_target_is_held_against_the_median_of_ratios() {
        let twice = Bound::AtLeastTimes(2.0);
        let met = verdict(twice, &[4.0, 10.0, 6.0], &[2.0, 5.0, 4.0]);
        assert!(met.is_met, "{met:?}");
        assert_eq!(met.measured.as_deref(), Some("2.00× (1.50–2.00)"));
        let missed = verdict(twice, &[3.9, 10.0, 6.0], &[2.0, 6.0, 4.0]);
        assert!(!missed.is_met, "{missed:?}");
        assert!(verdict(Bound::AtMostTimes(2.0), &[3.9], &[2.0]).is_met);
    }

    #[test]
    fn a_difference_is_one_of_the_same_round_and_a_figure_alone_needs_no_peer() {
        let more = verdict(Bound::AtMostMore(15.0), &[90.0, 300.0, 95.0], &[80.0, 290.0, 70.0]);
        assert_eq!(more.measured.as_deref(), Some("10.0 (10.0–25.0) µs"));
        assert_eq!(more.target, "TCP round trip, 1 byte: ≤ 15 µs above passt");
        assert!(more.is_met);
        let alone = results(&[7.0], &[]).verdicts(&[Target::alone(Quantity::RoundTrip, 6.0)]);
        assert_eq!((alone[0].measured.as_deref(), alone[0].is_met), (Some("7 µs"), false));
    }

    #[test]
    fn a_target_without_measurement_is_not_met() {
        let verdict = verdict(Bound::AtMostTimes(1.0), &[1.0], &[]);
        assert!(!verdict.is_met);
        assert_eq!(verdict.measured, None);
        assert!(Verdict::table(&[verdict]).contains("| — | not measured |"));
    }
}
