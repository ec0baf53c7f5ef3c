//! Measures two real guests on two nodes, on each network in turn.
//!
//! Run by `hack/bench --mode layer2`. Rounds are interleaved (A B C A B C …), so that changes of the machine affect all
//! of them equally.

use clap::Parser;
use hawser_benches::layer2::results::{Metric, Peer, Results};
use hawser_benches::layer2::setup::Setup;
use hawser_benches::surroundings::Surroundings;
use hawser_benches::{chart, machine};
use hawser_testkit::Result;
use hawser_testkit::lab::have_machine;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures two real guests on two nodes.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each measures every network once
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each TCP transfer
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Networks to measure: hawser, ovs, ovs-tso, bridge (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// What to measure: tcp, round-trip, udp (default: all)
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
    let mut keep = |metrics: &[Metric], found: Result<Vec<f64>>| {
        let found = found.unwrap_or_else(|error| {
            eprintln!("{} failed: {error}", setup.peer.title());
            vec![f64::NAN; metrics.len()]
        });
        for (metric, value) in metrics.iter().zip(found) {
            results.add(setup.peer, *metric, value);
        }
    };
    if options.measures("tcp") {
        let found = setup.transfer(Duration::from_secs(options.seconds)).map(Vec::from);
        keep(&[Metric::Tcp, Metric::Cpu], found);
    }
    if options.measures("round-trip") {
        let found = setup.traffic("rounds count=2000", "p50_us");
        keep(&[Metric::RoundTrip], found.map(|value| vec![value]));
    }
    if options.measures("udp") {
        let found = setup.traffic("flood from=client size=64 millis=700", "received_per_second");
        keep(&[Metric::Udp64], found.map(|value| vec![value / 1e3]));
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
