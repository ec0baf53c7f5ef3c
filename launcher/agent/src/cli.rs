//! Options of the agent, and of the commands that ask it.

pub(crate) mod verbs;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use hawser_store::etcd::Place;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use verbs::{ApplyArgs, DeleteArgs, DescribeArgs, GetArgs, MoveArgs, PowerArgs};

/// Starts a hawser process for each VM of this node, and connects nodes through a store.
#[derive(Debug, Parser)]
#[command(name = "hawser-agent", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the VMs of this node until SIGTERM, after which their processes continue
    Serve(Box<ServeArgs>),
    /// Stores the objects of manifests, all or none; VMs start on the nodes that they are placed on
    Apply(ApplyArgs),
    /// Lists objects: VMs, nodes, networks and others
    Get(GetArgs),
    /// Shows objects in detail
    Describe(DescribeArgs),
    /// Deletes objects; a VM is stopped, and its MAC and addresses are released
    Delete(DeleteArgs),
    /// Starts a VM that was stopped
    Start(PowerArgs),
    /// Stops a VM, which keeps its MAC and addresses
    Stop(PowerArgs),
    /// Moves a VM to another node with the same MAC and addresses; stops it for that, unless --live is given
    Move(MoveArgs),
    /// Lists the VMs that this node serves, including those of --vm-dir
    Status(StatusArgs),
    /// Carries the channel of a migration between two nodes over mutual TLS
    Carry(CarryArgs),
    /// Prints the completion script of a shell
    Completion {
        /// Shell that reads the script
        shell: Shell,
    },
}

/// Options of `hawser-agent serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory of VMs of this node that are not in the store: each file (*.yaml, *.yml, *.json) contains the
    /// manifests of one VM; a file that is added, changed or removed takes effect within a second
    #[arg(long, value_name = "DIR")]
    pub vm_dir: Option<PathBuf>,
    /// File or directory of manifests that the VMs of --vm-dir share, such as their networks; may be repeated
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
    /// Label of this node, by which VMs choose it (nodeSelector); may be repeated. kubernetes.io/hostname is the name of
    /// the node
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Address of this node to which other nodes send the frames of networks that span nodes [default: the source
    /// address of the default route]
    #[arg(long, value_name = "ADDR")]
    pub vtep: Option<IpAddr>,
    /// First UDP port for these frames; each interface takes the next free one
    #[arg(long, value_name = "PORT", default_value_t = 6081)]
    pub vtep_port: u16,
    /// Address at which anybody may read the node's metrics (/metrics) and a page with its state, such as 127.0.0.1:9180
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// Directory of network namespaces, such as /run/netns: the process of VM NAMESPACE/NAME runs in the network namespace
    /// NAMESPACE.NAME if that file exists when the process starts [default: all run in that of the agent]
    #[arg(long, value_name = "DIR")]
    pub netns_dir: Option<PathBuf>,
    /// Makes that namespace for each VM for which it does not exist, in --netns-dir or /run/netns, and removes it with the
    /// VM
    #[arg(long)]
    pub make_netns: bool,
    /// Program that connects the namespaces of --make-netns: it is run as PROGRAM add NAMESPACE.NAME PATH after one was
    /// made, and as PROGRAM del NAMESPACE.NAME PATH before it is removed, each again if it fails
    #[arg(long, value_name = "PROGRAM", requires = "make_netns")]
    pub netns_program: Option<PathBuf>,
    /// What runs the processes of VMs: systemd as hawser@NAMESPACE.NAME.service, or the agent as its children; auto is
    /// systemd where it runs and has the packaged unit
    #[arg(long, value_enum, default_value_t = Supervisor::Auto)]
    pub supervisor: Supervisor,
    /// Path of the hawser program
    #[arg(long, value_name = "PATH", default_value = "hawser")]
    pub hawser: PathBuf,
    /// Option for every hawser process, such as --hawser-option=--log-level=debug; may be repeated
    #[arg(long = "hawser-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub hawser_options: Vec<String>,
    /// Seconds within which the node must reach its default gateways and etcd after a NodeNetworkConfigurationPolicy has
    /// changed its links; otherwise they are put back
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub reach_within: u64,
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

/// What runs the processes of VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Supervisor {
    Auto,
    Systemd,
    Agent,
}

/// Options of `hawser-agent status`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Directory given to the agent by --run-dir
    #[arg(long, value_name = "DIR", default_value = "/run/hawser-agent")]
    pub run_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `hawser-agent carry`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CarryArgs {
    /// Node of the source: Unix socket for the --to of hawser migrate prepare
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "listen",
        conflicts_with = "listen"
    )]
    pub from: Option<PathBuf>,
    /// Node of the target: address and port for other nodes
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// With --from: address and port of the other node; with --listen: the --migration-socket of hawser
    #[arg(long, value_name = "ADDR:PORT|PATH")]
    pub to: String,
    /// With --from: name in the certificate of the other node [default: its address]
    #[arg(long, value_name = "NAME", conflicts_with = "listen")]
    pub name: Option<String>,
    /// Certificates of the authorities that sign those of the nodes, in PEM
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// Certificate of this node, in PEM
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// Private key of this node, in PEM
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
}

/// The place of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// In a file of this node.
    File(PathBuf),
    /// In a cluster of etcd.
    Etcd(Place),
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("give KEY=VALUE, such as zone=a")?;
    Ok((key.to_owned(), value.to_owned()))
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
