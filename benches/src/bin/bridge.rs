//! Measures a real guest on a Linux bridge, on each back end in turn.
//!
//! Run by `hack/bench --mode bridge`. Rounds are interleaved (A B C A B C …), so that changes of
//! the machine affect all of them equally.

use clap::Parser;
use hawser_benches::bridge::large_frames;
use hawser_benches::bridge::results::{Metric, Peer, Results};
use hawser_benches::bridge::setup::Setup;
use hawser_benches::surroundings::Surroundings;
use hawser_benches::{chart, machine};
use hawser_testkit::Result;
use hawser_testkit::lab::have_machine;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures a real guest on a bridge.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each measures every back end once
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each TCP transfer
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Back ends to measure: hawser, plain, plain-unmerged, as-cloud-hypervisor (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// What to measure: out, in, between, round-trip, udp, bare (default: all)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    surroundings: Surroundings,
    /// File for all samples
    #[arg(long)]
    json: Option<PathBuf>,
    /// File for the picture
    #[arg(long)]
    chart: Option<PathBuf>,
}

impl Options {
    fn measures(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == what)
    }

    fn peers(&self) -> impl Iterator<Item = Peer> {
        let named = |peer: &Peer| self.peers.is_empty() || self.peers.iter().any(|name| name == peer.key());
        Peer::ALL.into_iter().filter(named)
    }
}

fn round(setup: &Setup, options: &Options, results: &mut Results) {
    let time = Duration::from_secs(options.seconds);
    let mut keep = |metrics: &[Metric], found: Result<Vec<f64>>| {
        let found = found.unwrap_or_else(|error| {
            eprintln!("{} failed: {error}", setup.peer.title());
            vec![f64::NAN; metrics.len()]
        });
        for (metric, value) in metrics.iter().zip(found) {
            results.add(setup.peer, *metric, value);
        }
    };
    if options.measures("out") {
        let found = setup.transfer(time, "").map(Vec::from);
        keep(&[Metric::TcpOut, Metric::CpuOut], found);
    }
    if options.measures("in") {
        let found = setup.transfer(time, "--reverse").map(Vec::from);
        keep(&[Metric::TcpIn, Metric::CpuIn], found);
    }
    if options.measures("between") {
        let found = setup.between_guests(time).map(|rate| rate.into_iter().collect());
        keep(&[Metric::Between], found);
    }
    for (what, metric, scale, name, arguments) in [
        ("round-trip", Metric::RoundTrip, 1.0, "p50_us", "rounds count=2000"),
        (
            "udp",
            Metric::UdpOut64,
            1e3,
            "received_per_second",
            "flood from=client size=64 millis=700",
        ),
        (
            "udp",
            Metric::UdpIn64,
            1e3,
            "received_per_second",
            "flood from=server size=64 millis=700",
        ),
    ] {
        if options.measures(what) {
            let found = setup.traffic(arguments, name).map(|value| vec![value / scale]);
            keep(&[metric], found);
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse();
    let _machine = have_machine()?;
    let (machine, load) = (machine::Machine::this(), machine::load());
    let setups = options.peers().map(|peer| {
        eprintln!("starting {}", peer.title());
        Setup::new(peer, &options.surroundings)
    });
    let setups = setups.collect::<Result<Vec<_>>>()?;
    let mut results = Results::default();
    for number in 1..=options.rounds {
        for setup in &setups {
            eprintln!("round {number} of {}: {}", options.rounds, setup.peer.title());
            round(setup, &options, &mut results);
        }
        if options.measures("bare") {
            let bare = large_frames::run(Duration::from_secs(options.seconds), &options.surroundings)?;
            results.add(Peer::Hawser, Metric::BareWrite, bare.write);
            results.add(Peer::Hawser, Metric::BareRead, bare.read);
        }
    }
    let note = format!(
        "{}; medians of {} interleaved rounds, whiskers: least and most",
        machine.describe(),
        options.rounds
    );
    println!(
        "{note}\nload average before the run: {load:.1}\n\n{}",
        results.to_markdown()
    );
    if let Some(path) = &options.chart {
        fs::write(path, chart::svg(&results.panels(), &note))?;
    }
    if let Some(path) = &options.json {
        let mut json = results.to_json();
        json["machine"] = machine.to_json();
        json["rounds"] = options.rounds.into();
        json["surroundings"] = options.surroundings.to_json();
        json["load_before"] = load.into();
        fs::write(path, format!("{json:#}\n"))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
