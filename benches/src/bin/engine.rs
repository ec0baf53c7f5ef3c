//! Measures hawser's engine without a VM, compared with the floor: see `hawser_benches::engine`.
//!
//! Run by `hack/bench --engine`.

use clap::Parser;
use hawser_benches::engine::{FAR, Outcome, Run, Way, floor, guest};
use hawser_benches::machine;
use hawser_benches::numbers::Spread;
use hawser_testkit::Result;
use hawser_testkit::netns::Namespace;
use std::process::ExitCode;
use std::time::Duration;

/// Target for the engine's throughput, relative to the floor's.
const LEAST: f64 = 0.85;

/// Measures the engine without a VM, compared with a floor of bare system calls.
#[derive(Debug, Parser)]
struct Options {
    /// Pairs of runs, one of the engine and one of the floor
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Run only the engine, only in this direction (out or in): for a profiler
    #[arg(long)]
    only: Option<String>,
}

fn line(what: &str, outcomes: &[Outcome]) {
    let of = |f: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(f).collect::<Vec<_>>());
    let (Some(rate), Some(cost)) = (of(Outcome::rate), of(Outcome::cost)) else {
        return;
    };
    println!("| {what} | {} | {} |", rate.text(1), cost.text(3));
}

fn compare(title: &str, run: Run, options: &Options) -> Result<Option<Spread>> {
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        eprintln!("{title}: round {round} of {}", options.rounds);
        ours.push(guest::run(run)?);
        floors.push(floor::run(run)?);
    }
    line(&format!("{title}: engine"), &ours);
    line(&format!("{title}: floor"), &floors);
    let all = |outcomes: &[Outcome], f: fn(&Outcome) -> f64| outcomes.iter().map(f).collect::<Vec<_>>();
    if let Some(cost) = Spread::of_ratios(&all(&ours, Outcome::cost), &all(&floors, Outcome::cost)) {
        eprintln!("{title}: the worker's CPU per byte is {:.2}× the floor's", cost.median);
    }
    Ok(Spread::of_ratios(
        &all(&ours, Outcome::rate),
        &all(&floors, Outcome::rate),
    ))
}

fn measure(options: &Options) -> Result<()> {
    let time = Duration::from_millis(options.millis);
    let run = |way| Run::anywhere(way, time);
    if let Some(way) = &options.only {
        let way = if way == "in" { Way::In } else { Way::Out };
        line("engine", &[guest::run(run(way))?]);
        return Ok(());
    }
    println!("load average before the run: {:.1}\n", machine::load());
    println!("| | Gbit/s | CPU of the thread, s/GB |\n|---|---|---|");
    let out = compare("guest → host", run(Way::Out), options)?;
    let into = compare("host → guest", run(Way::In), options)?;
    println!("\n| target | measured | |\n|---|---|---|");
    for (title, ratio) in [("guest → host", out), ("host → guest", into)] {
        let Some(ratio) = ratio else { continue };
        let mark = if ratio.median >= LEAST { "met" } else { "**missed**" };
        println!("| engine, {title}: ≥ {LEAST}× floor | {} | {mark} |", ratio.times());
    }
    Ok(())
}

fn run() -> Result<()> {
    let options = Options::parse();
    let namespace = Namespace::new()?;
    namespace.run(&format!("ip addr add {FAR}/32 dev lo"))?;
    namespace.inside(|| measure(&options))?
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
