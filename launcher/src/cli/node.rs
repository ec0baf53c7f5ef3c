//! Options of `hawser node`.

use super::SourceArgs;
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `node`
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// Subcommands of `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Create the VFs and bridges of this node that SriovNetworkNodePolicy and
    /// NodeNetworkConfigurationPolicy objects request
    Apply(ApplyPolicies),
    /// Print the PFs and VFs of this node, as a SriovNetworkNodeState, or its links
    Status(ShowNode),
}

/// Options of `node apply`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ApplyPolicies {
    /// Manifests.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// File with the record of the pools [default: vf-pools.json beside the lease store]
    #[arg(long, value_name = "FILE")]
    pub pools: Option<PathBuf>,
    /// TCP endpoint that must be reached before and after links change, otherwise they are put
    /// back; the default gateways always are such endpoints; may be repeated
    #[arg(long, value_name = "ADDR:PORT")]
    pub reach: Vec<SocketAddr>,
    /// Seconds in which they must be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub reach_within: u64,
    /// Directory of the journal of changes [default: as for hawser run]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
}

/// Options of `node status`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ShowNode {
    /// Print the links of this node, as a NodeNetworkState
    #[arg(long)]
    pub links: bool,
    /// Print JSON instead of YAML
    #[arg(long)]
    pub json: bool,
    /// File with the record of the pools [default: vf-pools.json beside the lease store]
    #[arg(long, value_name = "FILE")]
    pub pools: Option<PathBuf>,
}
