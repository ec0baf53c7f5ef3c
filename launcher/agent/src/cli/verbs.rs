//! Options of the commands that change the cluster.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The agent that a command asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgentArgs {
    /// Directory given to the agent by --run-dir
    #[arg(long, value_name = "DIR", default_value = "/run/hawser-agent")]
    pub run_dir: PathBuf,
    /// Namespace of the object
    #[arg(short = 'n', long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
}

/// How long a command waits for the cluster to follow.
#[derive(Clone, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the VM is in the requested state
    #[arg(long)]
    pub wait: bool,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with more columns
    Wide,
    /// The objects as YAML
    Yaml,
    /// The objects as JSON
    Json,
    /// Only kinds and names
    Name,
}

/// Options of `hawser-agent apply`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File or directory of manifests, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Check the manifests, and store nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `hawser-agent get`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// Kind of the objects (vms, nodes, udn, …), or KIND/NAME
    #[arg(value_name = "KIND", default_value = "vms")]
    pub kind: String,
    /// Name of one object
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Form of the output
    #[arg(short = 'o', long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Print objects again when they change, until the command is interrupted
    #[arg(short = 'w', long)]
    pub watch: bool,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `hawser-agent describe`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Kind of the object, or KIND/NAME
    #[arg(value_name = "KIND")]
    pub kind: String,
    /// Name of the object
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `hawser-agent delete`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kind of the object, or KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Name of the object
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Delete the objects of these manifests; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "kind")]
    pub files: Vec<PathBuf>,
    /// The node of the VM is known to be off: do not wait for it, and release the ports that it has bound
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `hawser-agent start` and `hawser-agent stop`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PowerArgs {
    /// Name of the VM
    #[arg(value_name = "VM")]
    pub vm: String,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Options of `hawser-agent move`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MoveArgs {
    /// Name of the VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Node to move to [default: chosen by nodeSelector and load]
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// The node of the VM is known to be off: take over the ports that it has bound
    #[arg(long)]
    pub force: bool,
    /// The VM keeps running: the other node starts a process that is silent until the guest has migrated to it. This
    /// command ends when the process waits for its VMM, and with --wait when the guest runs there
    #[arg(long, conflicts_with = "force")]
    pub live: bool,
    /// End a move with --live before the guest has migrated
    #[arg(long, conflicts_with_all = ["live", "force", "to"])]
    pub cancel: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}
