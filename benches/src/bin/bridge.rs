//! Measures a real guest on a Linux bridge, on each back end in turn.
//!
//! Run by `hack/bench --mode bridge`. Rounds are interleaved (A B C A B C …), so that changes of
//! the machine affect all of them equally.

use clap::Parser;
use hawser_benches::bridge::large_frames;
use hawser_benches::bridge::results::{Back, Quantity, Samples, TARGETS, panels};
use hawser_benches::bridge::setup::Setup;
use hawser_benches::report::{Options, Report};
use hawser_benches::results::Peer as _;
use hawser_testkit::Result;
use hawser_testkit::lab::have_machine;
use std::process::ExitCode;

/// Measures a real guest on a bridge: out, in, between, round-trip, udp, bare.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn measure(setup: &Setup, options: &Options, results: &mut Samples) {
    let (peer, time) = (setup.peer, options.transfer());
    if options.measures("out") {
        let found = setup.transfer(time, "").map(Vec::from);
        results.keep(peer, &[Quantity::TcpOut, Quantity::CpuOut], found);
    }
    if options.measures("in") {
        let found = setup.transfer(time, "--reverse").map(Vec::from);
        results.keep(peer, &[Quantity::TcpIn, Quantity::CpuIn], found);
    }
    if options.measures("between") {
        let found = setup.between_guests(time).map(|rate| rate.into_iter().collect());
        results.keep(peer, &[Quantity::Between], found);
    }
    for (what, metric, scale, name, arguments) in [
        ("round-trip", Quantity::RoundTrip, 1.0, "p50_us", "rounds count=2000"),
        (
            "udp",
            Quantity::UdpOut64,
            1e3,
            "received_per_second",
            "flood from=client size=64 millis=700",
        ),
        (
            "udp",
            Quantity::UdpIn64,
            1e3,
            "received_per_second",
            "flood from=server size=64 millis=700",
        ),
    ] {
        if options.measures(what) {
            let found = setup.traffic(arguments, name).map(|value| vec![value / scale]);
            results.keep(peer, &[metric], found);
        }
    }
    if peer == Back::Hawser && options.measures("bare") {
        let bare = large_frames::run(time, &options.surroundings);
        let found = bare.map(|bare| vec![bare.write, bare.read]);
        results.keep(peer, &[Quantity::BareWrite, Quantity::BareRead], found);
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
    let verdicts = results.verdicts(&TARGETS);
    report.write(&results, &panels(&results), &verdicts, &options.files)
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
