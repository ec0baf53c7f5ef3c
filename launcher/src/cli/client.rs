//! Options of the subcommands that communicate with a running process.

use super::policy;
use super::{API_SOCKET, DEFAULT_SOCKET_DIR, SourceArgs, api_socket_beside};
use crate::logging;
use clap::{Args, Subcommand, ValueEnum};
use hawser_backend::capture::{BadFilter, CaptureFilter};
use hawser_backend::config::{Forward, Rate};
use hawser_manifest::{forward, values};
use std::path::PathBuf;

/// Options that select a running process.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ProcessArgs {
    /// Unix socket of the running process (its --api-socket)
    #[arg(long, value_name = "PATH", value_parser = values::socket_path)]
    pub api_socket: Option<PathBuf>,
    /// Directory that holds api.sock of the running process (the --socket-dir of hawser run)
    #[arg(
        long,
        value_name = "DIR",
        default_value = DEFAULT_SOCKET_DIR,
        conflicts_with_all = ["api_socket", "vhost_user_socket"]
    )]
    pub socket_dir: PathBuf,
    /// vhost-user socket of a process that serves one NIC (its --socket-path); its API socket is beside it
    #[arg(
        id = "vhost_user_socket",
        long = "socket-path",
        visible_alias = "socket",
        value_name = "PATH",
        value_parser = values::socket_path,
        conflicts_with = "api_socket"
    )]
    pub socket_path: Option<PathBuf>,
}

/// Options that select a running process and one of its ports.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AskArgs {
    /// Selects the process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the port; required if the process serves several
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
}

impl ProcessArgs {
    /// Path of the API socket.
    pub(crate) fn socket(&self) -> PathBuf {
        let beside = || self.socket_path.as_deref().map(api_socket_beside);
        let given = self.api_socket.clone().or_else(beside);
        given.unwrap_or_else(|| self.socket_dir.join(API_SOCKET))
    }
}

/// Options of `plug`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PlugArgs {
    /// Selects the process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Manifests.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Change this interface only
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Print the changes without making them
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `unplug`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct UnplugArgs {
    /// Selects the process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the interface
    #[arg(value_name = "INTERFACE")]
    pub interface: String,
}

/// Options of `link`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LinkArgs {
    /// Selects the process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the interface
    #[arg(value_name = "INTERFACE")]
    pub interface: String,
    /// New state of the link
    #[arg(value_name = "STATE")]
    pub state: LinkState,
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkState {
    /// Frames can pass.
    Up,
    /// No frames can pass.
    Down,
}

/// Options of `status`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct StatusArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `peers`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PeersArgs {
    /// The change; none: show the peers.
    #[command(subcommand)]
    pub change: Option<PeersCommand>,
    /// The process and port.
    #[command(flatten)]
    pub args: StatusArgs,
}

/// Subcommands of `peers`.
#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// Add peers; an entry with the MAC of another one takes its place
    Add(PeersChangeArgs),
    /// Remove peers
    Remove(PeersChangeArgs),
    /// Replace all peers
    Replace(PeersChangeArgs),
}

/// Options of a change of peers.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PeersChangeArgs {
    /// Peers in the syntax of --peer; to remove one, its MAC is enough
    #[arg(value_name = "MAC[,ADDR…]@ADDR[:PORT][,frames][,name=NAME]")]
    pub peers: Vec<String>,
    /// Number of the change; refused unless it is greater than that of the last change that had one
    #[arg(long, value_name = "N")]
    pub epoch: Option<u64>,
    /// The process and port.
    #[command(flatten)]
    pub args: StatusArgs,
}

/// Subcommands of `forward`.
#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    /// Add a port forward to the guest
    Add {
        /// [tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]], in the syntax of --port
        #[arg(value_name = "SPEC", value_parser = forward::parse)]
        forward: Forward,
        /// Selects the process and the port.
        #[command(flatten)]
        args: ForwardArgs,
    },
    /// Remove a port forward; its open connections stay
    Remove {
        /// The forward, as `hawser forward list` prints it; the guest's port is optional
        #[arg(value_name = "SPEC", value_parser = forward::parse)]
        forward: Forward,
        /// Selects the process and the port.
        #[command(flatten)]
        args: ForwardArgs,
    },
    /// List the port forwards
    List(ForwardArgs),
}

/// Options of `forward`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ForwardArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `top`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct TopArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Seconds between samples
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: f64,
    /// Print one sample and exit
    #[arg(long)]
    pub once: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "must be 0.1 to 3600 seconds".to_owned())
}

/// Options of `rate`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RateArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Limit on traffic to the guest: bits per second such as 500M or 1G, and burst in bytes;
    /// off: no limit
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::byte_rate))]
    pub rate_in: Option<Wanted>,
    /// Limit on traffic from the guest, in the syntax of --rate-in
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::byte_rate))]
    pub rate_out: Option<Wanted>,
    /// Limit on packets per second to the guest, and burst in packets; off: no limit
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::packet_rate))]
    pub packet_rate_in: Option<Wanted>,
    /// Limit on packets per second from the guest, in the syntax of --packet-rate-in
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::packet_rate))]
    pub packet_rate_out: Option<Wanted>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Value of a rate option: a limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Limits traffic to this rate.
    Limit(Rate),
    /// Removes the limit.
    Off,
}

fn wanted(text: &str, parse: fn(&str) -> Result<Rate, String>) -> Result<Wanted, String> {
    match text {
        "off" => Ok(Wanted::Off),
        text => parse(text).map(Wanted::Limit),
    }
}

/// Options of `announce`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct AnnounceArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `loglevel`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct LogLevelArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// New log level: error, warn, info, debug, trace, off, or a filter such as
    /// info,hawser_backend::vhost_user=debug [default: print the current one]
    #[arg(value_name = "LEVEL|FILTER", value_parser = logging::parse_filter)]
    pub filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `capture`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct CaptureArgs {
    /// Selects the process and the port.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Write the outer packets of a layer2 port's tunnel instead of the guest's frames
    #[arg(long)]
    pub tunnel: bool,
    /// Bytes to keep of each packet [default: all]
    #[arg(long, value_name = "BYTES")]
    pub snap_length: Option<u32>,
    /// Write only packets that match every word: in, out, dropped, arp, ip, ip6, tcp, udp, icmp,
    /// host=ADDR, port=N, mac=MAC
    #[arg(long, value_name = "WORD,…", default_value = "", value_parser = capture_filter)]
    pub filter: String,
    /// File to write to [default: standard output]
    #[arg(long, short = 'w', value_name = "FILE")]
    pub write: Option<PathBuf>,
}

fn capture_filter(text: &str) -> Result<String, BadFilter> {
    text.parse::<CaptureFilter>().map(|_| text.to_owned())
}
