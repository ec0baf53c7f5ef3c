//! Measures the overlay without a VM, compared with the floor: see `hawser_benches::tunnel`.
//!
//! Run by `hack/bench --tunnel`.

use clap::{Parser, ValueEnum};
use hawser_benches::machine;
use hawser_benches::numbers::Spread;
use hawser_benches::tunnel::{Between, Burst, Exchange, Floor, Outcome, Pair, WholeFloor, run};
use hawser_testkit::Result;
use hawser_testkit::netns::Namespace;
use std::process::ExitCode;
use std::time::Duration;

/// Target for processor time per byte, relative to the floor's.
const MOST: f64 = 1.3;
/// The same target for two processes of one node, relative to one datagram of 64 KiB into a guest's memory.
const MOST_WHOLE: f64 = 1.5;
/// Payload bytes of a segment on an underlay with MTU 1500, and with MTU 9000.
const SEGMENTS: [u16; 2] = [1376, 8876];
/// Number of additional guests in the table, for the cost of the lookup.
const MANY: u32 = 10_000;

/// Measures the overlay without a VM, compared with a floor of bare system calls.
#[derive(Debug, Parser)]
struct Options {
    /// Number of runs of each
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Run only one part: for a profiler
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    #[arg(long)]
    exchange: bool,
}

fn exchange(options: &Options) -> Result<()> {
    let mut tunnel = Exchange::new(Between::Tunnel)?;
    let mut bridges = Exchange::new(Between::Bridges)?;
    let (mut a, mut b, mut d) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let t = Spread::of(&tunnel.run(5000)?).unwrap();
        let u = Spread::of(&bridges.run(5000)?).unwrap();
        a.push(t.median);
        b.push(u.median);
        d.push(t.median - u.median);
    }
    for v in [&a, &b, &d] {
        println!("{}", Spread::of(v).unwrap().text(1));
    }
    Ok(())
}

/// A part that a profiler may examine alone.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// Segments of an underlay of 1500 bytes
    Cut,
    /// Their floor
    CutFloor,
    /// Segments of an underlay of 9000 bytes
    Large,
    /// Their floor
    LargeFloor,
    /// Whole frames between processes of one node
    Whole,
    /// Their floor
    WholeFloor,
}

impl Part {
    fn make(self) -> Result<Box<dyn Burst>> {
        let [mss, large] = SEGMENTS;
        Ok(match self {
            Self::Cut => Box::new(Pair::new(mss, 0)?),
            Self::CutFloor => Box::new(Floor::new(mss.into())?),
            Self::Large => Box::new(Pair::new(large, 0)?),
            Self::LargeFloor => Box::new(Floor::new(large.into())?),
            Self::Whole => Box::new(Pair::whole(mss)?),
            Self::WholeFloor => Box::new(WholeFloor::new()?),
        })
    }
}

fn line(what: &str, outcomes: &[Outcome]) {
    let of = |f: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(f).collect::<Vec<_>>());
    if let (Some(rate), Some(cost)) = (of(Outcome::rate), of(Outcome::cost)) {
        println!("| {what} | {} | {} |", rate.text(1), cost.text(3));
    }
}

fn ratio(ours: &[Outcome], theirs: &[Outcome]) -> Option<Spread> {
    let cost = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::cost).collect::<Vec<_>>();
    Spread::of_ratios(&cost(ours), &cost(theirs))
}

fn measure(options: &Options) -> Result<()> {
    let time = Duration::from_millis(options.millis);
    if let Some(part) = options.only {
        line(&format!("{part:?}"), &[run(&mut *part.make()?, time)?]);
        return Ok(());
    }
    println!("load average before the run: {:.1}\n", machine::load());
    println!("| | Gbit/s of one processor | its time for both ends, s/GB |\n|---|---|---|");
    let mut targets = Vec::new();
    for mss in SEGMENTS {
        let (mut floor, mut pair) = (Floor::new(mss.into())?, Pair::new(mss, 0)?);
        let mut crowded = Pair::new(mss, MANY)?;
        let (mut floors, mut ours, mut many) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            eprintln!("segments of {mss} bytes: round {round} of {}", options.rounds);
            floors.push(run(&mut floor, time)?);
            ours.push(run(&mut pair, time)?);
            many.push(run(&mut crowded, time)?);
        }
        line(&format!("segments of {mss} bytes: floor"), &floors);
        line(&format!("segments of {mss} bytes: overlay"), &ours);
        line(&format!("segments of {mss} bytes: overlay, {MANY} guests known"), &many);
        targets.push((mss, ratio(&ours, &floors), ratio(&many, &ours)));
    }
    let whole = measure_whole(options.rounds, time)?;
    println!("\n| target | measured | |\n|---|---|---|");
    for (mss, ours, many) in targets {
        if let Some(ours) = ours {
            let mark = if ours.median <= MOST { "met" } else { "**missed**" };
            println!(
                "| {mss} bytes, processor time: ≤ {MOST}× floor | {} | {mark} |",
                ours.times()
            );
        }
        if let Some(many) = many {
            let mark = if many.median <= 1.03 { "met" } else { "**missed**" };
            println!(
                "| {mss} bytes, {MANY} guests known: ≤ 1.03× | {} | {mark} |",
                many.times()
            );
        }
    }
    if let Some(ours) = whole.memory {
        let mark = if ours.median <= MOST_WHOLE { "met" } else { "**missed**" };
        println!(
            "| same node, processor time: ≤ {MOST_WHOLE}× one datagram of 64 KiB into a guest's memory | {} | {mark} |",
            ours.times()
        );
    }
    if let Some(ours) = whole.cached {
        println!(
            "| same node, relative to one datagram of 64 KiB into a cached buffer | {} | |",
            ours.times()
        );
    }
    Ok(())
}

/// Costs of whole frames between processes of one node.
struct Whole {
    /// Cost relative to a datagram received into memory as large as a guest's.
    memory: Option<Spread>,
    /// Cost relative to a datagram received into a buffer that stays in the caches.
    cached: Option<Spread>,
}

fn measure_whole(rounds: u32, time: Duration) -> Result<Whole> {
    let [mss, _] = SEGMENTS;
    let (mut memory, mut cached, mut pair) = (WholeFloor::new()?, WholeFloor::cached()?, Pair::whole(mss)?);
    let (mut in_memory, mut in_caches, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("whole frames: round {round} of {rounds}");
        in_memory.push(run(&mut memory, time)?);
        in_caches.push(run(&mut cached, time)?);
        ours.push(run(&mut pair, time)?);
    }
    line("one datagram of 64 KiB into a guest's memory: floor", &in_memory);
    line("one datagram of 64 KiB into a cached buffer", &in_caches);
    line("whole frames on one node: overlay", &ours);
    Ok(Whole {
        memory: ratio(&ours, &in_memory),
        cached: ratio(&ours, &in_caches),
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.exchange {
        return hawser_benches::exit(exchange(&options));
    }
    let outcome = Namespace::new().and_then(|namespace| namespace.inside(|| measure(&options))?);
    hawser_benches::exit(outcome)
}
