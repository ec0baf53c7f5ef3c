//! Options by which a process takes over from another one.

use hawser_manifest::values;
use std::path::PathBuf;

/// Name of the socket of `hawser run`, in its `--socket-dir`.
pub(crate) const SOCKET: &str = "takeover.sock";

/// Options of the takeover.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct TakeoverArgs {
    /// Take the NICs over from the running process with the same options, such as one of an older version; front ends,
    /// guests and connections notice nothing, and that process ends
    #[arg(long, help_heading = "Process")]
    pub takeover: bool,
    /// With --takeover: leave the new process in the background, and return when it serves the guest or has failed
    #[arg(long, help_heading = "Process", requires = "takeover")]
    pub detach: bool,
    /// Report the start on standard input.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub detached: bool,
    /// Unix socket on which this process can be taken over [default: with hawser run and without --api-socket,
    /// takeover.sock in --socket-dir; else none]
    #[arg(
        id = "takeover_socket",
        long = "takeover-socket",
        value_name = "PATH",
        help_heading = "Process",
        value_parser = values::socket_path
    )]
    pub socket: Option<PathBuf>,
}
