//! Measures one flow beside many others: see `hawser_benches::engine::crowd`.
//!
//! Run by `hack/bench --scale`.

use clap::Parser;
use hawser_benches::engine::crowd::Background;
use hawser_benches::engine::{FAR, Run, Way, guest};
use hawser_benches::machine::{self, Machine};
use hawser_benches::numbers::Spread;
use hawser_testkit::Result;
use hawser_testkit::netns::Namespace;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Numbers of idle flows, as far as the limit on open files allows.
const CROWDS: [u32; 3] = [10, 20_000, 50_000];
/// Number of descriptors for everything except idle flows.
const OTHERS: u64 = 500;

/// Measures one flow without a VM, beside few and many idle ones, and beside storms of connections.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each measures every case once
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Milliseconds of each run
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Run only cases whose keys begin with this, and that of 10 idle flows: idle, storm_guest
    #[arg(long, default_value = "", hide_default_value = true)]
    only: String,
    /// File for all samples
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A case and its results by direction: Gbit/s, the worker's processor seconds per GB, and
/// connections of the storm per second.
struct Case {
    key: String,
    title: String,
    beside: Background,
    rates: [Vec<f64>; 2],
    costs: [Vec<f64>; 2],
    storm: Vec<f64>,
}

const WAYS: [(Way, &str); 2] = [(Way::Out, "out"), (Way::In, "in")];

fn cases(descriptors: u64) -> Vec<Case> {
    let most = u32::try_from(descriptors.saturating_sub(OTHERS)).unwrap_or(u32::MAX);
    let mut crowds = CROWDS.map(|n| n.min(most)).to_vec();
    crowds.dedup();
    let idle = crowds
        .into_iter()
        .map(|n| (format!("idle_{n}"), format!("{n} idle flows"), Background::Idle(n)));
    let storms = [
        ("storm_guest", "the guest opens connections", Background::StormOfGuest),
        ("storm_world", "clients connect", Background::StormOfClients),
    ];
    let storms = storms.map(|(key, title, beside)| (key.to_owned(), title.to_owned(), beside));
    let case = |(key, title, beside)| Case {
        key,
        title,
        beside,
        rates: Default::default(),
        costs: Default::default(),
        storm: Vec::new(),
    };
    idle.chain(storms).map(case).collect()
}

fn cell(samples: &[f64], digits: usize) -> String {
    Spread::of(samples).map_or_else(String::new, |spread| spread.text(digits))
}

fn print(cases: &[Case]) {
    println!("| load | guest → host, Gbit/s | host → guest, Gbit/s | connections/s of the storm |\n|---|---|---|---|");
    for case in cases {
        let [out, into] = [0, 1].map(|way: usize| cell(&case.rates[way], 1));
        let storm = if matches!(case.beside, Background::Idle(_)) {
            String::new()
        } else {
            cell(&case.storm, 0)
        };
        println!("| {} | {out} | {into} | {storm} |", case.title);
    }
    println!(
        "\n| load, compared with 10 idle flows | rate, guest → host | host → guest | worker's time per byte, \
            guest → host \
         | host → guest |\n|---|---|---|---|---|"
    );
    for case in &cases[1..] {
        let ratio = |ours: &[f64], reference: &[f64]| {
            Spread::of_ratios(ours, reference).map_or_else(String::new, |spread| spread.text(2))
        };
        let few = &cases[0];
        let rates = [0, 1].map(|way| ratio(&case.rates[way], &few.rates[way]));
        let costs = [0, 1].map(|way| ratio(&case.costs[way], &few.costs[way]));
        println!("| {} | {} | {} |", case.title, rates.join(" | "), costs.join(" | "));
    }
}

fn to_json(cases: &[Case]) -> Value {
    let all = |samples: &[f64]| json!({ "samples": samples, "spread": Spread::of(samples).map(Spread::to_json) });
    let one = |case: &Case| json!({ "beside": case.title, "out": all(&case.rates[0]), "in": all(&case.rates[1]), "cost_out": all(&case.costs[0]), "cost_in": all(&case.costs[1]), "storm": all(&case.storm) });
    cases
        .iter()
        .map(|case| (case.key.clone(), one(case)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Raises the limit on open files as far as possible, and returns it.
fn raise_descriptors() -> Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the first call fills in `limit`, and the second only reads it.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done {
        Ok(limit.rlim_max)
    } else {
        Err(io::Error::last_os_error().into())
    }
}

fn measure(options: &Options) -> Result<()> {
    let (machine, load) = (Machine::this(), machine::load());
    let time = Duration::from_millis(options.millis);
    let mut cases = cases(raise_descriptors()?);
    let reference = cases[0].key.clone();
    cases.retain(|case| case.key == reference || case.key.starts_with(&options.only));
    for round in 1..=options.rounds {
        for case in &mut cases {
            for (index, (way, name)) in WAYS.into_iter().enumerate() {
                eprintln!("round {round} of {}: {}, {name}", options.rounds, case.title);
                let (outcome, storm) = guest::run_beside(Run::anywhere(way, time), case.beside)?;
                case.rates[index].push(outcome.rate());
                case.costs[index].push(outcome.cost());
                case.storm.push(storm as f64 / outcome.time.as_secs_f64());
            }
        }
    }
    println!("{}; load average before the run: {load:.1}\n", machine.describe());
    print(&cases);
    if let Some(path) = &options.json {
        let json = json!({ "machine": machine.to_json(), "load_before": load, "cases": to_json(&cases) });
        fs::write(path, format!("{json:#}\n"))?;
    }
    Ok(())
}

fn run() -> Result<()> {
    let options = Options::parse();
    let namespace = Namespace::new()?;
    namespace.run(&format!("ip addr add {FAR}/32 dev lo"))?;
    // Each flow to the same remote port needs its own local port.
    namespace.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    namespace.inside(|| measure(&options))?
}

fn main() -> ExitCode {
    hawser_benches::exit(run())
}
