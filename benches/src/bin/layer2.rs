//! Measures two real guests on two nodes, on each network in turn.
//!
//! Run by `hack/bench --mode layer2`. Rounds are interleaved (A B C A B C …), so that changes of the machine affect all
//! of them equally.

use clap::Parser;
use hawser_benches::layer2::results::{Quantity, Samples, TARGETS};
use hawser_benches::layer2::setup::Setup;
use hawser_benches::report::{Options, Report};
use hawser_benches::results::{Metric as _, Peer as _};
use hawser_testkit::Result;
use hawser_testkit::lab::have_machine;
use std::process::ExitCode;

/// Measures two real guests on two nodes: tcp, round-trip, udp.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
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
    let Arguments { options } = Arguments::parse();
    let _machine = have_machine()?;
    let report = Report::start(options.rounds, &options.surroundings);
    let setups = options.start(|peer| Setup::new(peer, &options.surroundings))?;
    let mut results = Samples::default();
    options.each_round(
        &setups,
        |setup| setup.peer.title(),
        |setup| measure(setup, &options, &mut results),
    );
    let panels: Vec<_> = Quantity::ALL.iter().map(|metric| results.panel(*metric)).collect();
    let verdicts = results.verdicts(&TARGETS);
    report.write(&results, &panels, &verdicts, &options.files)
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
