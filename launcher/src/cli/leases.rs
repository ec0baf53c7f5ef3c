//! Options of `hawser leases`.

use super::SourceArgs;
use super::plan_args::PlanArgs;
use crate::leases::args::StoreArgs;
use clap::{Args, Subcommand};
use hawser_store::VmName;

/// Options of `leases`
#[derive(Debug, Args)]
pub(crate) struct Leases {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: LeasesCommand,
}

/// Subcommands of `leases`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeasesCommand {
    /// Reserve and print the leases of the VMs in the manifests, before they run
    Allocate(ReserveLeases),
    /// Print the leases: VM, interface, network, MAC, addresses
    List(ListLeases),
    /// Release the leases of a VM that is gone, and print them
    Release(ReleaseLeases),
}

/// Options of `leases allocate`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ReserveLeases {
    /// Manifests.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Options that complete the files.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Options of the lease store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `leases list`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ListLeases {
    /// Print the leases of this VM only
    #[arg(value_name = "NAMESPACE/VM")]
    pub vm: Option<VmName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Options of the lease store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `leases release`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ReleaseLeases {
    /// VM whose leases to release
    #[arg(value_name = "NAMESPACE/VM")]
    pub vm: VmName,
    /// Release the lease of this interface only
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Options of the lease store.
    #[command(flatten)]
    pub store: StoreArgs,
}
