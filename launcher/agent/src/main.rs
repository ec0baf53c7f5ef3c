//! `hawser-agent`: one process per node, which launches a hawser process for each VM of the node and ties the nodes
//! together through a store.
//!
//! ```text
//!  VM folder ── desired ──┐
//!                         ├── node ──┬── store: leases, owner of each port ── other nodes
//!  store: other ports ────┘          └── process: hawser run -f VM …, its leases and peers in files
//! ```
//!
//! The agent alone talks to the store ([`store`]). It reads the folder of VMs ([`desired`]), leases each VM its MACs and
//! addresses, claims the VM's ports on the networks that span nodes, and starts the VM's process ([`process`]) with its
//! leases in a private store file and the ports of other VMs in files of peers ([`peers`]), which the process reads again
//! when they change. So the process of a VM has neither credentials of the cluster nor a way to another VM's records, and
//! it forwards with the last state while the agent or the store is away.
//!
//! [`node`] compares what is desired with what runs, again and again; every step may be repeated. The processes outlive
//! the agent: a new agent finds them by their PID files.

#![forbid(unsafe_code)]

mod cli;
mod desired;
mod folder;
mod node;
mod peers;
mod process;
mod report;
mod store;
mod vm;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::Cli::parse();
    match args.command {
        cli::Command::Serve(args) => node::serve(&args),
        cli::Command::Get(args) => report::get(&args),
    }
    .map_or_else(|error| error.report(), |()| ExitCode::SUCCESS)
}
