//! `hawser-agent`: one process per node, which starts a hawser process for each VM of the node and connects the nodes
//! together through a store.
//!
//! ```text
//!  operators ── client ── api ── cluster ── store ── other nodes
//!                                             │ VMs placed here, ports of other nodes
//!  VM files ─── desired ──┐                   │
//!                         ├── node ───────────┘
//!  store ────── placed ───┘    └── vm ── process: hawser run -f VM …, its leases and peers in files
//! ```
//!
//! Operators change the objects of the cluster ([`cluster`]) by commands ([`client`]), which ask the agent of their node
//! ([`api`]).
//!
//! Only the agent uses the store ([`store`]). It reads the directory of VMs ([`desired`]) and the VMs that are placed on
//! its node ([`placed`]), leases each VM its MACs and
//! addresses, claims the VM's ports on the networks that span nodes, and starts the VM's process ([`process`]). The
//! process has its leases in a private store file, and the ports of other VMs in peers files ([`peers`]), which it reads
//! again when they change. So the process of a VM has no credentials of the cluster and cannot access the records of
//! another VM, and it forwards with the last state while the agent or the store is unavailable.
//!
//! [`node`] repeatedly compares the desired VMs with those that run. Every step may be repeated. The processes outlive
//! the agent: a new agent finds them by their PID files.

#![forbid(unsafe_code)]

mod api;
mod carry;
mod cli;
mod client;
mod cluster;
mod desired;
mod exchange;
mod folder;
mod history;
mod moment;
mod netns;
mod node;
mod objects;
mod output;
mod peers;
mod placed;
mod placement;
mod process;
mod report;
mod resources;
mod store;
mod unit;
mod vm;

use clap::{CommandFactory as _, Parser as _};
use cli::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::Cli::parse();
    match &args.command {
        Command::Serve(args) => node::serve(args),
        Command::Apply(args) => client::apply(args),
        Command::Get(args) => client::get(args),
        Command::Describe(args) => client::describe(args),
        Command::Delete(args) => client::delete(args),
        Command::Start(args) => client::set_power(args, "/v1/start", "started"),
        Command::Stop(args) => client::set_power(args, "/v1/stop", "stopped"),
        Command::Move(args) => client::relocate(args),
        Command::Status(args) => report::show(args),
        Command::Carry(args) => carry::run(args),
        Command::Completion { shell } => {
            let mut command = cli::Cli::command();
            clap_complete::generate(*shell, &mut command, "hawser-agent", &mut std::io::stdout());
            Ok(())
        }
    }
    .map_or_else(|error| error.report(), |()| ExitCode::SUCCESS)
}
