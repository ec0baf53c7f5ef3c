//! Options of the commands that ask a running process, as clap sees them.

use crate::api::status::LinkState;
use crate::cli::{API_SOCKET, DEFAULT_SOCKET_DIR};
use crate::client::rate::Wanted;
use crate::{forward, policy, values};
use clap::{Args, Subcommand};
use hawser_backend::config::{Forward, Rate};
use hawser_backend::port::capture::{BadFilter, CaptureFilter};
use std::path::PathBuf;

/// Which running process is asked.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ProcessArgs {
    /// Unix socket of the running process (its --api-socket)
    #[arg(long, value_name = "PATH", value_parser = values::socket_path)]
    pub api_socket: Option<PathBuf>,
    /// Folder of the running process (the --socket-dir of hawser run), where api.sock is
    #[arg(
        long,
        value_name = "DIR",
        default_value = DEFAULT_SOCKET_DIR,
        conflicts_with = "api_socket"
    )]
    pub socket_dir: PathBuf,
}

/// Which running process is asked, and about what.
#[derive(Debug, Args)]
#[group(skip)]
pub struct AskArgs {
    /// The process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the port, where the process serves several
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
}

impl ProcessArgs {
    /// Where the process is met.
    pub fn socket(&self) -> PathBuf {
        self.api_socket
            .clone()
            .unwrap_or_else(|| self.socket_dir.join(API_SOCKET))
    }
}

/// Options of `plug`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct PlugArgs {
    /// The process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// The VM's manifests as they are to be: a file, a directory, or - for standard input; may be
    /// repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The only interface to be changed
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `unplug`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct UnplugArgs {
    /// The process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the interface
    #[arg(value_name = "INTERFACE")]
    pub interface: String,
}

/// Options of `link`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct LinkArgs {
    /// The process.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Name of the interface
    #[arg(value_name = "INTERFACE")]
    pub interface: String,
    /// What its link is to be
    #[arg(value_name = "STATE")]
    pub state: LinkState,
}

/// Options of `status`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct StatusArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do with forwards.
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Have one more port reach the guest
    Add {
        /// [tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]], as --port has it
        #[arg(value_name = "SPEC", value_parser = forward::parse)]
        forward: Forward,
        /// Where.
        #[command(flatten)]
        args: ForwardArgs,
    },
    /// Let go of a port; connections that came by it stay
    Remove {
        /// The forward as it is listed; the guest's port may be left out
        #[arg(value_name = "SPEC", value_parser = forward::parse)]
        forward: Forward,
        /// Where.
        #[command(flatten)]
        args: ForwardArgs,
    },
    /// List the ports that reach the guest
    List(ForwardArgs),
}

/// Options of `forward`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ForwardArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `top`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct TopArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Seconds between samples
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: f64,
    /// Show one sample and end
    #[arg(long)]
    pub once: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give 0.1 to 3600 seconds".to_owned())
}

/// Options of `rate`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct RateArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Most the guest is sent: bits per second such as 500M or 1G, and how many bytes may come
    /// at once; off: no limit
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::byte_rate))]
    pub rate_in: Option<Wanted>,
    /// Most the guest may send, like --rate-in
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::byte_rate))]
    pub rate_out: Option<Wanted>,
    /// Most packets per second the guest is sent, and how many may come at once; off: no limit
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::packet_rate))]
    pub packet_rate_in: Option<Wanted>,
    /// Most packets per second the guest may send, like --packet-rate-in
    #[arg(long, value_name = "RATE[:BURST]|off", value_parser = |text: &str| wanted(text, policy::packet_rate))]
    pub packet_rate_out: Option<Wanted>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn wanted(text: &str, parse: fn(&str) -> Result<Rate, String>) -> Result<Wanted, String> {
    match text {
        "off" => Ok(Wanted::Off),
        text => parse(text).map(Wanted::Limit),
    }
}

/// Options of `loglevel`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct LogLevelArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// What is to be logged: error, warn, info, debug, trace, off, or a filter such as
    /// info,hawser_backend::vhost_user=debug
    #[arg(value_name = "LEVEL|FILTER", value_parser = values::log_filter)]
    pub filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Whose packets are to be seen, and which.
#[derive(Debug, Args)]
#[group(skip)]
pub struct CaptureArgs {
    /// The process.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Bytes kept of each packet [default: all]
    #[arg(long, value_name = "BYTES")]
    pub snap_length: Option<u32>,
    /// Which packets, all words of which hold: in, out, dropped, arp, ip, ip6, tcp, udp, icmp,
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
