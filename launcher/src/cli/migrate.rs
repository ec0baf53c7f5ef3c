//! Options of `migrate`.

use super::client::ProcessArgs;
use clap::{Args, Subcommand};
use hawser_manifest::values;
use std::path::PathBuf;

/// Seconds for which connections are carried unless an option says otherwise.
const DRAIN: &str = "600";

/// Subcommands of `migrate`.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Open a channel for each NIC to the process that the guest will migrate to. Its connections then go on over these
    Prepare(PrepareArgs),
    /// Show the channels of the process
    Status(MigrateArgs),
    /// Close the channels. The guest stays where it runs; connections that are carried are reset
    Abort(MigrateArgs),
}

/// Options of `migrate prepare`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PrepareArgs {
    /// Socket of the other process (its --migration-socket)
    #[arg(long, value_name = "PATH", value_parser = values::socket_path)]
    pub to: PathBuf,
    /// Longest time in seconds for which connections are carried once the guest has left
    #[arg(long, value_name = "SECONDS", default_value = DRAIN)]
    pub drain: u64,
    /// Selects the process and the port.
    #[command(flatten)]
    pub args: MigrateArgs,
}

/// Options of `migrate`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct MigrateArgs {
    /// Selects the process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the port [default: all ports]
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
