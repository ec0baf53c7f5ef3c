//! Measures a real guest on each back end in turn: throughput, cost, latency, rates, memory.
//!
//! `hack/bench` builds everything this needs and runs it. Rounds are interleaved (A B C A B C …),
//! so that changes of the machine affect all of them equally.

use clap::Parser;
use hawser_benches::measure::{self, Lengths};
use hawser_benches::metric::{Back, Quantity, SHOWN, Samples, TARGETS};
use hawser_benches::report::{Files, Report};
use hawser_benches::results::{Metric as _, Peer as _};
use hawser_benches::setup::Setup;
use hawser_benches::surroundings::Surroundings;
use hawser_testkit::Result;
use hawser_testkit::lab::Lab;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measures a real guest on hawser and on the back ends for comparison.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each measures every back end once
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Seconds of each TCP transfer
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// One short round, to check that everything works
    #[arg(long)]
    quick: bool,
    /// Back ends to measure: hawser, passt, passt-65520, tap, tap-unmerged
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "hawser,passt,passt-65520,tap,tap-unmerged"
    )]
    peers: Vec<String>,
    /// Measure only these (keys of the JSON file, such as tcp_out,connections_64)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    files: Files,
}

impl Options {
    fn lengths(&self) -> Lengths {
        let quick = self.quick;
        Lengths {
            transfer: Duration::from_secs(if quick { 1 } else { self.seconds }),
            short: Duration::from_millis(if quick { 300 } else { 1000 }),
            round_trips: if quick { 300 } else { 2000 },
        }
    }

    fn wants(&self, metric: Quantity) -> bool {
        self.only.is_empty() || self.only.iter().any(|key| key == metric.about().key)
    }

    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn peers(&self) -> Result<Vec<Back>> {
        let find = |key: &String| {
            let found = Back::ALL.iter().copied().find(|peer| peer.key() == key);
            found.ok_or_else(|| hawser_testkit::failure(format!("no back end '{key}': see --help")))
        };
        self.peers.iter().map(find).collect()
    }
}

/// Prints the current step, with the seconds so far.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("[{:4.0} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Starts all peers; a peer that does not start is left out, except hawser.
fn start(peers: &[Back], surroundings: &Surroundings, progress: &Progress) -> Result<Vec<Setup>> {
    let mut setups = Vec::new();
    for &peer in peers {
        progress.say(&format!("starting {}", peer.title()));
        match Setup::new(peer, surroundings) {
            Ok(setup) => setups.push(setup),
            Err(error) if peer != Back::Hawser => eprintln!("{} is left out: {error}", peer.title()),
            Err(error) => return Err(error),
        }
    }
    Ok(setups)
}

fn measure(setups: &[Setup], options: &Options, progress: &Progress) -> Result<Samples> {
    let mut results = Samples::default();
    for setup in setups {
        let start = measure::megabytes(setup.resident_start_kib)?;
        results.add(setup.peer, Quantity::ResidentStart, start);
        // For the other peers, the kernel holds the flows.
        if options.wants(Quantity::FlowMemory) && matches!(setup.peer, Back::Hawser | Back::Passt) {
            progress.say(&format!("idle flows: {}", setup.peer.title()));
            match measure::flow_memory(setup) {
                Ok([own, shared]) => {
                    results.add(setup.peer, Quantity::FlowMemory, own);
                    results.add(setup.peer, Quantity::FlowMemoryShared, shared);
                }
                Err(error) => progress.say(&format!("failed: {error}")),
            }
        }
    }
    for round in 1..=options.rounds() {
        for setup in setups {
            progress.say(&format!(
                "round {round} of {}: {}",
                options.rounds(),
                setup.peer.title()
            ));
            let mut complain = |what: &str| progress.say(&format!("{} failed: {what}", setup.peer.title()));
            for (metric, value) in
                measure::round(setup, options.lengths(), &|metric| options.wants(metric), &mut complain)
            {
                results.add(setup.peer, metric, value);
            }
        }
    }
    for setup in setups {
        results.add(setup.peer, Quantity::ResidentEnd, measure::resident_mb(setup)?);
    }
    if !options.wants(Quantity::IdleSwitches) {
        return Ok(results);
    }
    progress.say("idle guests, after a pause for what is still to end");
    std::thread::sleep(measure::IDLE / 2);
    for (setup, switches) in setups.iter().zip(measure::idle_switches(setups)?) {
        results.add(setup.peer, Quantity::IdleSwitches, switches);
    }
    Ok(results)
}

fn run(options: &Options) -> Result<()> {
    let progress = Progress(Instant::now());
    let peers = options.peers()?;
    progress.say("waiting for the machine, building, fetching guests");
    let _lab = Lab::alone()?;
    let report = Report::start(options.rounds(), &options.surroundings);
    let setups = start(&peers, &options.surroundings, &progress)?;
    let results = measure(&setups, options, &progress)?;
    let panels: Vec<_> = SHOWN.iter().map(|metric| results.panel(*metric)).collect();
    report.write(&results, &panels, &results.verdicts(&TARGETS), &options.files)?;
    progress.say("done");
    Ok(())
}

fn main() -> ExitCode {
    hawser_benches::exit(run(&Options::parse()))
}
