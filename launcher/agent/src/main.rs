//! `hawser-agent`: one process per node, which starts a hawser process for each VM of the node and connects the nodes
//! together through a store.
//!
//! ```text
//!  VM files ─── desired ──┐
//!                         ├── node ──┬── store: leases, owner of each port ── other nodes
//!  store: other ports ────┘          └── process: hawser run -f VM …, its leases and peers in files
//! ```
//!
//! Only the agent uses the store ([`store`]). It reads the directory of VMs ([`desired`]), leases each VM its MACs and
//! addresses, claims the VM's ports on the networks that span nodes, and starts the VM's process ([`process`]). The
//! process has its leases in a private store file, and the ports of other VMs in peers files ([`peers`]), which it reads
//! again when they change. So the process of a VM has no credentials of the cluster and cannot access the records of
//! another VM, and it forwards with the last state while the agent or the store is unavailable.
//!
//! [`node`] repeatedly compares the desired VMs with those that run. Every step may be repeated. The processes outlive
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
