//! Measures layer2 mode against all its targets: the packet path against floors, round trips, memory, and two real guests
//! on two nodes, on each network in turn.
//!
//! Run by `hack/bench --mode layer2`. Rounds are interleaved (A B C A B C …), so that changes of the machine affect all
//! of them equally.

use clap::Parser;
use hawser_benches::instructions;
use hawser_benches::layer2::footprint;
use hawser_benches::layer2::results::{Quantity, Samples, TARGETS};
use hawser_benches::layer2::setup::Setup;
use hawser_benches::report::{Options, Report};
use hawser_benches::results::{Metric as _, Peer as _, Verdict};
use hawser_benches::tunnel::compare::{against_floors, round_trips};
use hawser_testkit::Result;
use hawser_testkit::lab::have_machine;
use hawser_testkit::netns::Namespace;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Measures layer2 mode: floor, exchange, memory, instructions; and two real guests on two nodes: tcp, round-trip, udp.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// File with instruction counts, to compare them with those before layer2 mode
    #[arg(long)]
    instructions: Option<PathBuf>,
}

/// The parts with guests.
const PARTS: [&str; 3] = ["tcp", "round-trip", "udp"];
/// Rounds of the parts without guests.
const ROUNDS: u32 = 9;
/// Duration of one run of these.
const TIME: Duration = Duration::from_millis(500);

/// The results of the parts without guests. One that fails is reported, and the others continue.
fn without_guests(options: &Options, instructions: Option<&Path>) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    let mut keep = |found: Result<Vec<Verdict>>| match found {
        Ok(found) => verdicts.extend(found),
        Err(error) => eprintln!("failed: {error}"),
    };
    if options.measures("floor") {
        let namespace = Namespace::new()?;
        let found = namespace.inside(|| against_floors(ROUNDS, TIME))?;
        keep(found.map(|found| found.verdicts));
    }
    if options.measures("exchange") {
        keep(round_trips(ROUNDS).map(|verdict| vec![verdict]));
    }
    if options.measures("memory") {
        keep(footprint::measure().map(Vec::from));
    }
    if let Some(path) = instructions {
        keep(instructions::compare(path).map(|verdict| vec![verdict]));
    }
    Ok(verdicts)
}

fn measure(setup: &Setup, options: &Options, results: &mut Samples) {
    let peer = setup.peer;
    if options.measures("tcp") {
        let found = setup.transfer(options.transfer()).map(Vec::from);
        results.keep(peer, &[Quantity::Tcp, Quantity::Cpu], found);
    }
    if options.measures("round-trip") {
        let found = setup.traffic("rounds count=2000", "p50_us");
        results.keep(peer, &[Quantity::RoundTrip], found.map(|value| vec![value]));
    }
    if options.measures("udp") {
        let found = setup.traffic("flood from=client size=64 millis=700", "received_per_second");
        results.keep(peer, &[Quantity::Udp64], found.map(|value| vec![value / 1e3]));
    }
}

fn run() -> Result<()> {
    let Arguments { options, instructions } = Arguments::parse();
    let _machine = have_machine()?;
    let report = Report::start(options.rounds, &options.surroundings);
    let mut verdicts = without_guests(&options, instructions.as_deref())?;
    let mut results = Samples::default();
    let setups = if PARTS.into_iter().any(|part| options.measures(part)) {
        options.start(|peer| Setup::new(peer, &options.surroundings))?
    } else {
        Vec::new()
    };
    options.each_round(
        &setups,
        |setup| setup.peer.title(),
        |setup| measure(setup, &options, &mut results),
    );
    let panels: Vec<_> = Quantity::ALL.iter().map(|metric| results.panel(*metric)).collect();
    verdicts.extend(results.verdicts(&TARGETS));
    report.write(&results, &panels, &verdicts, &options.files)
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
