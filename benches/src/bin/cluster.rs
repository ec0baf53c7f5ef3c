//! Measures the store of a large cluster: see `hawser_benches::cluster`.
//!
//! Run by `hack/bench --cluster`.

use clap::Parser;
use hawser_benches::cluster::{Size, run, run_one};
use std::process::ExitCode;
use std::time::Duration;

/// Measures a real etcd with the store clients of many agents and with simulated VMs.
#[derive(Debug, Parser)]
struct Options {
    /// Number of VMs; networks have 100 of them
    #[arg(long, default_value_t = 10_000)]
    vms: usize,
    /// Number of nodes
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Number of agents, each with a connection to etcd
    #[arg(long, default_value_t = 50)]
    agents: usize,
    /// Number of changes whose way to all watchers is measured
    #[arg(long, default_value_t = 300)]
    samples: usize,
    /// Measure one real agent with this number of VMs instead, with their processes (root)
    #[arg(long, value_name = "VMS")]
    one_agent: Option<usize>,
    /// Time in seconds for which that agent is left alone
    #[arg(long, default_value_t = 60, requires = "one_agent")]
    idle: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let size = Size {
        vms: options.vms,
        nodes: options.nodes,
        agents: options.agents,
        samples: options.samples,
    };
    let rows = match options.one_agent {
        Some(vms) => run_one(vms, Duration::from_secs(options.idle)),
        None => run(size),
    };
    hawser_benches::exit(rows.map(|rows| {
        for row in rows {
            println!("| {} | {} |", row.what, row.figure);
        }
    }))
}
