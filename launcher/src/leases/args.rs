//! Options of the lease store, in the form that clap parses.

use clap::Args;
use hawser_packet::MacRange;
use std::path::PathBuf;
use std::str::FromStr as _;

/// Value of `--store`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// There is no store, so there are no leases.
    Off,
    /// Leases are in this file.
    File(PathBuf),
}

fn store_place(text: &str) -> Result<StorePlace, String> {
    match text {
        "" => Err("name a file".into()),
        "off" => Ok(StorePlace::Off),
        path => Ok(StorePlace::File(path.into())),
    }
}

/// The lease store, and the MACs that may be leased.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct StoreArgs {
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
    /// The MACs for interfaces without one: those of the option or the manifests, or the default.
    pub(crate) fn pool(&self, manifests: Option<MacRange>) -> MacRange {
        self.mac_range.or(manifests).unwrap_or(MacRange::DEFAULT)
    }
}
