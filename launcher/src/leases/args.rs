//! Options of leases and their store, as clap sees them.

use crate::plan_args::PlanArgs;
use clap::{Args, Subcommand};
use hawser_packet::MacRange;
use hawser_store::VmName;
use std::path::PathBuf;
use std::str::FromStr as _;

/// `--store`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// Nowhere, so that there are none.
    Off,
    /// In this file.
    File(PathBuf),
}

fn store_place(text: &str) -> Result<StorePlace, String> {
    match text {
        "" => Err("name a file".into()),
        "off" => Ok(StorePlace::Off),
        path => Ok(StorePlace::File(path.into())),
    }
}

/// Where leases are kept, and what may be leased.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct StoreArgs {
    /// File that stores the MACs and addresses of VMs, shared by the hawser processes of the node;
    /// off: hawser assigns none [default: store.db in $STATE_DIRECTORY,
    /// in /var/lib/hawser for root, in $XDG_STATE_HOME/hawser or ~/.local/state/hawser]
    #[arg(
        long,
        value_name = "PATH|off",
        help_heading = "Leases",
        value_parser = store_place
    )]
    pub store: Option<StorePlace>,
    /// MACs for interfaces without a macAddress [default: those of KubeMacPool's
    /// ConfigMap among the manifests, else 02:00:00:00:00:00-02:ff:ff:ff:ff:ff]
    #[arg(
        long,
        value_name = "FIRST-LAST",
        help_heading = "Leases",
        value_parser = MacRange::from_str
    )]
    pub mac_range: Option<MacRange>,
}

impl StoreArgs {
    /// The MACs for interfaces that name none: the option's, the manifests', or the usual ones.
    pub fn pool(&self, manifests: Option<MacRange>) -> MacRange {
        self.mac_range.or(manifests).unwrap_or(MacRange::DEFAULT)
    }
}

/// `leases`
#[derive(Debug, Args)]
pub struct Leases {
    /// What to do with them.
    #[command(subcommand)]
    pub command: LeasesCommand,
}

/// What can be done with leases.
#[derive(Debug, Subcommand)]
pub enum LeasesCommand {
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
pub struct ReserveLeases {
    /// Manifests of VMs and their networks: a file, a directory, or - for standard input; may be
    /// repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What the files do not say.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Where leases are kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `leases list`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ListLeases {
    /// Print the leases of this VM only
    #[arg(value_name = "NAMESPACE/VM")]
    pub vm: Option<VmName>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where leases are kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `leases release`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ReleaseLeases {
    /// VM whose leases to release
    #[arg(value_name = "NAMESPACE/VM")]
    pub vm: VmName,
    /// Release the lease of this interface only
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Where leases are kept.
    #[command(flatten)]
    pub store: StoreArgs,
}
