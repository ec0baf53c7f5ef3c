//! The command line, as clap sees it. What a value must look like on its own is said
//! in [`crate::values`]; what the options mean together, in [`crate::config`].

use crate::attachment::SegmentArgs;
use crate::client::args::{
    CaptureArgs, ForwardCommand, LinkArgs, LogLevelArgs, PlugArgs, RateArgs, StatusArgs, TopArgs, UnplugArgs,
};
use crate::forward::{self, Kept, Ports};
use crate::pace::PaceArgs;
use crate::plan::PlanSetup;
use crate::plan::args::PlanArgs;
use crate::policy::PolicyArgs;
use crate::sandbox::SandboxArgs;
use crate::store::args::{Leases, StoreArgs};
use crate::values::{self, Family};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hawser_backend::packet::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  Serve one VM from this network namespace, its SSH reachable on port 2222:
      hawser --socket-path=/run/user/1000/vm.sock --port=2222:22

  The flags to give QEMU for it (quoted for the shell):
      eval \"qemu-system-x86_64 -nographic -hda disk.img \\
          $(hawser qemu-args --socket-path=/run/user/1000/vm.sock)\"

  QEMU or cloud-hypervisor listens on the socket and hawser connects:
      hawser --socket-path=/run/vm.sock --connect

Signals: SIGTERM and SIGINT end it; SIGUSR1 writes the counters to standard error.
Exit status: 0 ended as asked, 1 failed at run time, 2 wrong usage.";

/// hawser: the line that ties a virtual machine to its network.
#[derive(Debug, Parser)]
#[command(
    name = "hawser",
    version,
    about = "Serves a virtual machine's network card over vhost-user, without root",
    long_about = "Serves a virtual machine's network card (virtio-net) to QEMU or cloud-hypervisor over a \
        vhost-user socket. The guest lives on a private network, gets its addresses by DHCP, DHCPv6 and router \
        advertisement, and reaches the world through ordinary sockets of the network namespace hawser runs in. \
        No privilege is needed.",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Print the flags for a VMM instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How the front end is met.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// The port.
    #[command(flatten)]
    pub port: PortArgs,
    /// How the process runs.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `--socket-dir` where nobody says otherwise.
pub const DEFAULT_SOCKET_DIR: &str = "/run/hawser";
/// The API socket of `hawser run`, in its --socket-dir.
pub const API_SOCKET: &str = "api.sock";

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the flags to give QEMU for the same options
    QemuArgs(VmmArgs),
    /// Print the flags to give cloud-hypervisor for the same options
    CloudHypervisorArgs(VmmArgs),
    /// Write the packets that cross a port of a running process, as pcapng
    Capture(CaptureArgs),
    /// Make the NICs of a running VM those of its manifests: plug new ones, unplug those that are
    /// gone or absent, take links up and down
    Plug(PlugArgs),
    /// Unplug a NIC of a running VM, when its guest lets go of it
    Unplug(UnplugArgs),
    /// Take the link of a NIC up or down, as its guest sees it
    Link(LinkArgs),
    /// Show the NICs of a running process: addresses, MAC, link
    Status(StatusArgs),
    /// Show or change which ports of the host reach a guest of a running process
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Watch what crosses the ports of a running process: rates, flows, drops by reason
    Top(TopArgs),
    /// Show or change how much may cross a port of a running process
    Rate(RateArgs),
    /// Show or change what a running process logs
    Loglevel(LogLevelArgs),
    /// Check a VM's manifests: say what is wrong with them, or what would be served
    Validate(ValidateArgs),
    /// Print the network data for cloud-init that fit what a VM's manifests ask for
    CloudInit(CloudInitArgs),
    /// Serve every NIC of a VM's manifests, each on its own socket
    Run(RunManifest),
    /// Reserve, list and release the MACs and addresses of VMs
    Leases(Leases),
    /// Print what completes options and commands in a shell
    Completion(CompletionArgs),
    /// Write the manual pages into a folder, for packages
    #[command(hide = true)]
    ManualPages(ManualArgs),
}

/// Options of `completion`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `manual-pages`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ManualArgs {
    /// The folder
    pub folder: PathBuf,
}

/// A VM's manifests.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ManifestArgs {
    /// Manifests of one VM and its networks (VirtualMachine, NetworkAttachmentDefinition, Service, …):
    /// a file, a directory, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the sockets are made, <interface name>.sock each
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SOCKET_DIR)]
    pub socket_dir: PathBuf,
    /// What the files do not say.
    #[command(flatten)]
    pub plan: PlanArgs,
}

impl ManifestArgs {
    /// What the plan is made with.
    pub fn setup(&self) -> PlanSetup<'_> {
        PlanSetup::new(&self.socket_dir, &self.plan)
    }
}

/// Options of `validate`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ValidateArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Print plan and problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `cloud-init`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct CloudInitArgs {
    /// The manifests.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Where MACs come from that the manifests do not give.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `run`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct RunManifest {
    /// The manifests.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Print the flags to give this VMM for the VM's cards, instead of serving them
    #[arg(long, value_name = "VMM", help_heading = "Virtual machine")]
    pub print_args: Option<Vmm>,
    /// Say what would be served and done, and do nothing: no lease, socket, link or process is made
    #[arg(long, conflicts_with = "print_args")]
    pub dry_run: bool,
    /// Memory of the VM in bytes, or with K, M, G, for the flags [default: that of -m after
    /// --, or 1G]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Virtual machine",
        value_parser = values::memory_size
    )]
    pub memory: Option<String>,
    /// What of every port is not the guest's.
    #[command(flatten)]
    pub kept: KeptArgs,
    /// Monitor of the QEMU that runs (its -qmp), for NICs that come and go [default: with QEMU
    /// after --, one of its own]
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Virtual machine",
        value_parser = values::socket_path,
        conflicts_with_all = ["cloud_hypervisor", "vmm"]
    )]
    pub qmp: Option<PathBuf>,
    /// API socket of the cloud-hypervisor that runs (its --api-socket), for NICs that come and
    /// go [default: with cloud-hypervisor after --, one of its own]
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Virtual machine",
        value_parser = values::socket_path,
        conflicts_with = "vmm"
    )]
    pub cloud_hypervisor: Option<PathBuf>,
    /// VMM to start when the sockets are ready, with its own options; hawser adds those of the
    /// memory and the cards, hands on signals, and ends when it ends, with its exit status
    #[arg(last = true, value_name = "VMM OPTION", conflicts_with = "print_args")]
    pub vmm: Vec<OsString>,
    /// Where leases are kept.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How the process runs.
    #[command(flatten)]
    pub run: RunArgs,
}

impl RunManifest {
    /// Where the process can be asked.
    pub fn api_socket(&self) -> PathBuf {
        let given = self.run.api_socket.clone();
        given.unwrap_or_else(|| self.manifest.socket_dir.join(API_SOCKET))
    }
}

/// A VMM that flags can be printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// QEMU 10 and later.
    Qemu,
    /// cloud-hypervisor.
    CloudHypervisor,
}

/// Where the front end is met.
#[derive(Debug, Args)]
#[group(skip)]
pub struct EndpointArgs {
    /// Unix socket where the VMM is met; made, and removed at the end, unless --connect is given
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Front end",
        value_parser = values::socket_path
    )]
    pub socket_path: Option<PathBuf>,
    /// Connect to a VMM that listens on --socket-path, instead of listening there
    #[arg(long, help_heading = "Front end", requires = "socket_path", conflicts_with = "fd")]
    pub connect: bool,
    /// Inherited descriptor of the vhost-user socket, listening or connected
    #[arg(
        long,
        value_name = "N",
        help_heading = "Front end",
        conflicts_with = "socket_path",
        value_parser = values::descriptor
    )]
    pub fd: Option<RawFd>,
    /// Print what this back end can do, as JSON, and exit (other options are ignored)
    #[arg(long, help_heading = "Front end")]
    pub print_capabilities: bool,
}

/// What the guest is given and what reaches it.
#[derive(Debug, Args)]
#[group(skip)]
pub struct PortArgs {
    /// What stands between the guest and the world: masquerade, a private network behind NAT; or
    /// bridge, the L2 segment itself
    #[arg(
        long,
        value_name = "MODE",
        help_heading = "Network card",
        value_enum,
        default_value = "masquerade"
    )]
    pub mode: Mode,
    /// MAC of the guest's card [default: the one the VMM gives it]
    #[arg(long, value_name = "MAC", help_heading = "Network card", value_parser = values::guest_mac)]
    pub mac: Option<MacAddr>,
    /// MTU of the guest's card, 68 to 65535 [default: that of the default route or the segment,
    /// else 1500]
    #[arg(long, value_name = "BYTES", help_heading = "Network card", value_parser = values::mtu)]
    pub mtu: Option<u16>,
    /// Receive and transmit queue pairs, one thread each
    #[arg(
        long,
        value_name = "N",
        help_heading = "Network card",
        default_value = "1",
        value_parser = values::queue_pairs
    )]
    pub queue_pairs: NonZeroU16,
    #[command(flatten)]
    pub pace: PaceArgs,

    /// The guest's IPv4 network: gateway .1, guest .2 [default: 10.0.2.0/24 where this
    /// network namespace has an IPv4 address, else off]
    #[arg(long, value_name = "CIDR|off", help_heading = "Guest network", value_parser = values::ipv4_network)]
    pub ipv4: Option<Family<Ipv4Net>>,
    /// The guest's IPv6 network: gateway ::1, guest ::2; with 64 bits a guest without DHCPv6
    /// makes up its address [default: fd10:0:2::/120 where this network namespace has a global
    /// IPv6 address, else off]
    #[arg(long, value_name = "CIDR|off", help_heading = "Guest network", value_parser = values::ipv6_network)]
    pub ipv6: Option<Family<Ipv6Net>>,
    /// Host name given to the guest, one label [default: this system's]
    #[arg(long, value_name = "NAME", help_heading = "Guest network", value_parser = values::hostname)]
    pub hostname: Option<String>,
    /// Name servers given to the guest; a loopback address stands for a server of this network
    /// namespace, reached through the gateway [default: those of /etc/resolv.conf]
    #[arg(
        long,
        value_name = "ADDR,…",
        help_heading = "Guest network",
        value_delimiter = ',',
        value_parser = values::name_server
    )]
    pub dns: Vec<IpAddr>,
    /// Search domains given to the guest [default: those of /etc/resolv.conf]
    #[arg(
        long,
        value_name = "DOMAIN,…",
        help_heading = "Guest network",
        value_delimiter = ',',
        value_parser = values::search_domain
    )]
    pub search: Vec<String>,

    /// Ports that reach the guest: [tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]], TCP unless
    /// said otherwise, an IPv6 ADDR in brackets; or all, tcp:all, udp:all: every port that no
    /// program here listens on (takes CAP_NET_ADMIN and CAP_BPF at start); may be repeated
    #[arg(
        long = "port",
        value_name = "SPEC,…",
        help_heading = "Reachability",
        value_delimiter = ',',
        value_parser = forward::parse_ports
    )]
    pub ports: Vec<Ports>,
    /// What of every port is not the guest's.
    #[command(flatten)]
    pub kept: KeptArgs,
    /// Address of the guest's network that stands for the loopback of this network namespace,
    /// which the guest cannot reach otherwise; may be repeated
    #[arg(long, value_name = "ADDR,…", help_heading = "Reachability", value_delimiter = ',')]
    pub map_host_loopback: Vec<IpAddr>,

    /// The segment, in bridge mode.
    #[command(flatten)]
    pub segment: SegmentArgs,
    /// What crosses the port.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Ports that are nobody's but the pod's.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub struct KeptArgs {
    /// Of every port (--port=all, or an interface without ports), those that do not reach the
    /// guest but this network namespace's own programs: [tcp|udp]:PORT[-PORT2]; may be repeated
    #[arg(
        long = "keep-port",
        value_name = "PORT,…",
        help_heading = "Reachability",
        value_delimiter = ',',
        value_parser = forward::parse_kept
    )]
    pub kept_ports: Vec<Kept>,
}

impl PortArgs {
    /// What the options are where none is given.
    pub fn unset() -> Self {
        /// A command line of nothing else.
        #[derive(Parser)]
        struct Bare {
            #[command(flatten)]
            port: PortArgs,
        }
        Bare::parse_from(["hawser"]).port
    }
}

/// `--mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A private network behind NAT on ordinary sockets.
    Masquerade,
    /// The L2 segment itself.
    Bridge,
}

/// How the process runs.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct RunArgs {
    /// End when the first front end goes away, instead of waiting for the next
    #[arg(long, help_heading = "Process")]
    pub one_off: bool,
    /// Network namespace to serve from, as `ip netns` names it, or a path such as /proc/PID/ns/net
    /// [default: the one hawser is started in]
    #[arg(long, value_name = "NAME|PATH", help_heading = "Process")]
    pub netns: Option<PathBuf>,
    /// Folder where changes to the network are noted, so that they can be undone after a kill
    /// [default: $RUNTIME_DIRECTORY, /run/hawser, or $XDG_RUNTIME_DIR/hawser]
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub runtime_dir: Option<PathBuf>,
    /// Unix socket where the running process can be asked and told, by hawser status for one
    /// [default: with hawser run, api.sock beside the others; else none]
    #[arg(long, value_name = "PATH", help_heading = "Process", value_parser = values::socket_path)]
    pub api_socket: Option<PathBuf>,
    /// Unix socket of the QEMU guest agent, which hawser status asks for the guest's names and
    /// addresses
    #[arg(long, value_name = "PATH", help_heading = "Process", value_parser = values::socket_path)]
    pub guest_agent: Option<PathBuf>,
    /// File to add a line of JSON to for each thing that happens to a card (lease given, link
    /// changed, guest announced, spoof seen); -: standard output
    #[arg(long, value_name = "FILE|-", help_heading = "Process")]
    pub event_log: Option<PathBuf>,
    /// What is written to standard error: error, warn, info, debug, trace, off, or a filter
    /// such as info,hawser_backend::vhost_user=debug
    #[arg(
        long,
        value_name = "LEVEL|FILTER",
        help_heading = "Process",
        default_value = "info",
        value_parser = values::log_filter
    )]
    pub log: String,
    /// What the process gives up.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Modes of NICs that may be plugged while it runs, besides those it is started with: what
    /// bridge mode takes is kept for them [default: all for hawser run, else none]
    #[arg(
        long,
        value_name = "MODE,…",
        help_heading = "Process",
        value_enum,
        value_delimiter = ','
    )]
    pub plug_mode: Vec<Mode>,
    /// The file that keeps leases, if any are made while it runs.
    #[arg(skip)]
    pub store: Option<PathBuf>,
}

/// Options of the subcommands that describe a VMM's side.
#[derive(Debug, Args)]
#[group(skip)]
pub struct VmmArgs {
    /// Memory of the VM in bytes, or with K, M, G
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Virtual machine",
        default_value = "1G",
        value_parser = values::memory_size
    )]
    pub memory: String,
    /// The socket, as hawser is given it.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The port, as hawser is given it.
    #[command(flatten)]
    pub port: PortArgs,
    /// Accepted so that the same options can be given; without meaning here.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The part of [`EndpointArgs`] that means something to a VMM.
#[derive(Debug, Args)]
#[group(skip)]
pub struct SocketArgs {
    /// Unix socket where hawser is met
    #[arg(long, value_name = "PATH", help_heading = "Front end", value_parser = values::socket_path)]
    pub socket_path: PathBuf,
    /// The VMM listens and hawser connects
    #[arg(long, help_heading = "Front end")]
    pub connect: bool,
}
