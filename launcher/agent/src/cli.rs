//! Options of the agent.

use clap::{Args, Parser, Subcommand};
use hawser_store::etcd::Place;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Starts a hawser process for each VM of this node, and connects nodes through a store.
#[derive(Debug, Parser)]
#[command(name = "hawser-agent", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the VMs of a directory until SIGTERM, after which their processes continue
    Serve(Box<ServeArgs>),
    /// Lists the VMs of this node
    Get(GetArgs),
}

/// Options of `hawser-agent serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory of the VMs of this node: each file (*.yaml, *.yml, *.json) contains the manifests of one VM; a file
    /// that is added, changed or removed takes effect within a second
    #[arg(long, value_name = "DIR", default_value = "/etc/hawser/vms")]
    pub vm_dir: PathBuf,
    /// File or directory of manifests that the VMs share, such as their networks; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub shared: Vec<PathBuf>,
    /// Directory for the sockets, PID files and logs of the VMs' processes
    #[arg(long, value_name = "DIR", default_value = "/run/hawser-agent")]
    pub run_dir: PathBuf,
    /// The store: a file of this node, or etcd://HOST:PORT[,HOST:PORT…]/CLUSTER
    #[arg(long, value_name = "FILE|URL", default_value = "/var/lib/hawser-agent/store.db", value_parser = store_place)]
    pub store: StorePlace,
    /// Name of this node in the cluster [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Address of this node to which other nodes send the frames of networks that span nodes [default: the source
    /// address of the default route]
    #[arg(long, value_name = "ADDR")]
    pub vtep: Option<IpAddr>,
    /// First UDP port for these frames; each interface takes the next free one
    #[arg(long, value_name = "PORT", default_value_t = 6081)]
    pub vtep_port: u16,
    /// Path of the hawser program
    #[arg(long, value_name = "PATH", default_value = "hawser")]
    pub hawser: PathBuf,
    /// Option for every hawser process, such as --hawser-option=--log-level=debug; may be repeated
    #[arg(long = "hawser-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub hawser_options: Vec<String>,
    /// TLS for etcd: certificates of the authorities that sign its certificates, in PEM
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// TLS for etcd: certificate of this node, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    pub etcd_cert: Option<PathBuf>,
    /// TLS for etcd: private key of this node, in PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// File with NAME:PASSWORD of the user of etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_user_file: Option<PathBuf>,
}

/// Options of `hawser-agent get`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// Directory given to the agent by --run-dir
    #[arg(long, value_name = "DIR", default_value = "/run/hawser-agent")]
    pub run_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The place of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// In a file of this node.
    File(PathBuf),
    /// In a cluster of etcd.
    Etcd(Place),
}

fn store_place(text: &str) -> Result<StorePlace, String> {
    match text {
        "" => Err("name a file, or etcd://HOST:PORT/CLUSTER".into()),
        url if url.contains("://") => url.parse().map(StorePlace::Etcd),
        path => Ok(StorePlace::File(path.into())),
    }
}

/// The reason why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The options cannot be used. The exit status is 2.
    #[error("{0}")]
    Usage(String),
    /// The system or the store failed. The exit status is 1.
    #[error("{0}")]
    Runtime(String),
}

impl Failure {
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self::Usage(message.to_string())
    }

    pub(crate) fn runtime(message: impl ToString) -> Self {
        Self::Runtime(message.to_string())
    }

    /// Writes one line to standard error and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("hawser-agent: {self}");
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Runtime(_) => 1,
        })
    }
}
