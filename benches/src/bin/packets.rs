//! Measures 64-byte packets per second, compared with a bare loop: see `hawser_benches::packets`.
//!
//! Run by `hack/bench --packets`.

use clap::Parser;
use hawser_benches::machine;
use hawser_benches::numbers::Spread;
use hawser_benches::packets::{Load, Outcome, floor, guest};
use hawser_testkit::Result;
use hawser_testkit::frontend::feature;
use std::process::ExitCode;
use std::time::Duration;

/// Target for packets per second, as a multiple of the floor's.
const LEAST: f64 = 2.0;
/// VIRTIO_NET_F_HOST_USO, GUEST_USO4, GUEST_USO6
const USO: u64 = 1 << 56 | 1 << 54 | 1 << 55;

/// Measures small packets without a VM, compared with a bare loop of one system call per frame.
#[derive(Debug, Parser)]
struct Options {
    /// Pairs of runs, one of hawser and one of the floor
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// Measure only loads whose title contains this, such as "cannot be merged"
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// Let the guest accept merged datagrams
    #[arg(long)]
    uso: bool,
}

fn line(what: &str, outcomes: &[Outcome]) {
    let of = |f: fn(&Outcome) -> f64| Spread::of(&outcomes.iter().map(f).collect::<Vec<_>>());
    let (Some(rate), Some(cost)) = (of(Outcome::rate), of(Outcome::cost)) else {
        return;
    };
    println!("| {what} | {} | {} |", rate.text(2), cost.text(0));
}

fn compare(load: Load, options: &Options) -> Result<Option<Spread>> {
    let time = Duration::from_millis(options.millis);
    let features = if options.uso {
        feature::LINUX
    } else {
        feature::LINUX & !USO
    };
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        eprintln!("{}: round {round} of {}", load.title(), options.rounds);
        ours.push(guest::run(load, features, time)?);
        floors.push(floor::run(load, time)?);
    }
    line(&format!("{}: hawser", load.title()), &ours);
    line(&format!("{}: bare loop", load.title()), &floors);
    let rates = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::rate).collect::<Vec<_>>();
    Ok(Spread::of_ratios(&rates(&ours), &rates(&floors)))
}

fn run() -> Result<()> {
    let options = Options::parse();
    println!("load average before the run: {:.1}\n", machine::load());
    println!("| | million packets/s | CPU of the thread, ns per packet |\n|---|---|---|");
    let mut ratios = Vec::new();
    for load in Load::ALL
        .into_iter()
        .filter(|load| load.title().contains(&options.only))
    {
        ratios.push((load, compare(load, &options)?));
    }
    println!("\n| 64-byte packets | measured | |\n|---|---|---|");
    for (load, ratio) in ratios {
        let Some(ratio) = ratio else { continue };
        let mark = if ratio.median >= LEAST { "met" } else { "**missed**" };
        println!(
            "| {}: ≥ {LEAST}× bare loop | {} | {mark} |",
            load.title(),
            ratio.times()
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
