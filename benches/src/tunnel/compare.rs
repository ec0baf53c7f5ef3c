//! The overlay without a VM against its floors, as lines of a table and as results for targets.

use super::{Between, Burst, Exchange, Floor, Outcome, Pair, WholeFloor, run};
use crate::numbers::Spread;
use crate::results::Verdict;
use hawser_testkit::Result;
use std::time::Duration;

/// Target: processor time per byte, relative to the floor's.
const MOST: f64 = 1.3;
/// The same for two processes of one node, relative to one datagram of 64 KiB into a guest's memory.
const MOST_WHOLE: f64 = 1.5;
/// The same with many guests known, relative to two.
const MOST_MANY: f64 = 1.03;
/// Target: microseconds that a round trip over the tunnel takes longer than one over bridges.
const MOST_ROUND_TRIP: f64 = 15.0;
/// Payload bytes of a segment on an underlay of 1500 bytes, and of 9000.
pub const SEGMENTS: [u16; 2] = [1376, 8876];
/// Additional guests in the table, for the cost of the look-up.
const MANY: u32 = 10_000;
/// Round trips of a round.
const ROUND_TRIPS: u32 = 5000;

/// Figures, and the results for targets.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Rows of a table: what was measured, Gbit/s of one processor, and its time for both ends.
    pub lines: Vec<String>,
    /// The results.
    pub verdicts: Vec<Verdict>,
}

/// The row of a measurement.
pub fn line(what: &str, outcomes: &[Outcome]) -> Option<String> {
    let of = |f: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(f).collect::<Vec<_>>());
    let (rate, cost) = (of(Outcome::rate)?, of(Outcome::cost)?);
    Some(format!("| {what} | {} | {} |", rate.text(1), cost.text(3)))
}

fn ratio(ours: &[Outcome], theirs: &[Outcome]) -> Option<Spread> {
    let cost = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::cost).collect::<Vec<_>>();
    Spread::of_ratios(&cost(ours), &cost(theirs))
}

/// Runs each of `all` once in each round, so that changes of the machine affect all of them equally.
fn interleaved<const N: usize>(
    what: &str,
    rounds: u32,
    time: Duration,
    all: &mut [&mut dyn Burst; N],
) -> Result<[Vec<Outcome>; N]> {
    let mut outcomes = [const { Vec::new() }; N];
    for round in 1..=rounds {
        eprintln!("{what}: round {round} of {rounds}");
        for (one, outcomes) in all.iter_mut().zip(&mut outcomes) {
            outcomes.push(run(&mut **one, time)?);
        }
    }
    Ok(outcomes)
}

/// Measures processor time against the floors, in the calling thread's network namespace.
///
/// # Errors
/// The system cannot create the sockets, or bytes are lost.
pub fn against_floors(rounds: u32, time: Duration) -> Result<Comparison> {
    let mut found = Comparison::default();
    for mss in SEGMENTS {
        let what = format!("segments of {mss} bytes");
        let (mut floor, mut pair) = (Floor::new(mss.into())?, Pair::new(mss, 0)?);
        let mut crowded = Pair::new(mss, MANY)?;
        let [floors, ours, many] = interleaved(&what, rounds, time, &mut [&mut floor, &mut pair, &mut crowded])?;
        found.lines.extend(line(&format!("{what}: floor"), &floors));
        found.lines.extend(line(&format!("{what}: overlay"), &ours));
        found
            .lines
            .extend(line(&format!("{what}: overlay, {MANY} more guests known"), &many));
        found.verdicts.push(Verdict::at_most_times(
            &format!("Processor time of both ends, {what}"),
            MOST,
            "the floor",
            ratio(&ours, &floors),
        ));
        found.verdicts.push(Verdict::at_most_times(
            &format!("Processor time of both ends, {what}, {MANY} more guests known"),
            MOST_MANY,
            "with 2",
            ratio(&many, &ours),
        ));
    }
    let (mut memory, mut cached, mut pair) = (WholeFloor::new()?, WholeFloor::cached()?, Pair::whole(SEGMENTS[0])?);
    let all: &mut [&mut dyn Burst; 3] = &mut [&mut memory, &mut cached, &mut pair];
    let [in_memory, in_caches, ours] = interleaved("whole frames", rounds, time, all)?;
    for (what, outcomes) in [
        ("one datagram of 64 KiB into a guest's memory: floor", &in_memory),
        ("one datagram of 64 KiB into a cached buffer", &in_caches),
        ("whole frames on one node: overlay", &ours),
    ] {
        found.lines.extend(line(what, outcomes));
    }
    found.verdicts.push(Verdict::at_most_times(
        "Processor time of both ends, same node",
        MOST_WHOLE,
        "one datagram of 64 KiB into a guest's memory",
        ratio(&ours, &in_memory),
    ));
    Ok(found)
}

/// Measures round trips between synthetic guests, over the tunnel and over bridges.
///
/// # Errors
/// A part does not start, or segments are lost.
pub fn round_trips(rounds: u32) -> Result<Verdict> {
    let mut all = [Exchange::new(Between::Tunnel)?, Exchange::new(Between::Bridges)?];
    let mut differences = Vec::new();
    for round in 1..=rounds {
        eprintln!("round trips: round {round} of {rounds}");
        let [tunnel, bridges] = &mut all;
        let medians = [tunnel.run(ROUND_TRIPS)?, bridges.run(ROUND_TRIPS)?].map(|times| Spread::of(&times));
        if let [Some(tunnel), Some(bridges)] = medians {
            eprintln!("{:.1} µs, {:.1} µs", tunnel.median, bridges.median);
            differences.push(tunnel.median - bridges.median);
        }
    }
    let spread = Spread::of(&differences);
    Ok(Verdict {
        target: format!("Round trip of synthetic guests: ≤ {MOST_ROUND_TRIP} µs above bridges, no tunnel"),
        measured: spread.map(|spread| format!("{} µs", spread.text(1))),
        spread,
        is_met: spread.is_some_and(|spread| spread.median <= MOST_ROUND_TRIP),
    })
}
