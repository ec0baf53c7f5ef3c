//! Command line: options and subcommands, declared with clap. [`hawser_manifest::values`] checks each value on its own,
//! and [`crate::config`] checks options against each other.

use crate::leases::args::StoreArgs;
use crate::logging;
use crate::mode::Mode;
use crate::sandbox::SandboxArgs;
use crate::vmm::QemuVersion;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hawser_backend::packet::MacAddr;
use hawser_manifest::forward::{self, Kept, Ports};
use hawser_manifest::nic::Family;
use hawser_manifest::plan::PlanSetup;
use hawser_manifest::plan::options::PlanOptions;
use hawser_manifest::values;
use ipnet::{Ipv4Net, Ipv6Net};
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

pub(crate) mod client;
mod layer2;
pub(crate) mod leases;
pub(crate) mod migrate;
pub(crate) mod node;
mod pace;
pub(crate) mod passt;
mod plan_args;
pub(crate) mod policy;
mod segment;
mod sources;
mod spec;
mod takeover;
mod tunnel;

use client::{
    AnnounceArgs, CaptureArgs, ForwardCommand, LinkArgs, LogLevelArgs, PeersArgs, PlugArgs, RateArgs, StatusArgs,
    TopArgs, UnplugArgs,
};
use layer2::Layer2Args;
use leases::Leases;
use migrate::MigrateCommand;
use node::Node;
use pace::PaceArgs;
use passt::PasstArgs;
use plan_args::PlanArgs;
use policy::PolicyArgs;
use segment::SegmentArgs;
pub(crate) use sources::SourceArgs;
pub(crate) use takeover::TakeoverArgs;

const EXAMPLES: &str = "\
Examples:
  Serve one VM from this network namespace, with its SSH on port 2222 of the host:
      hawser --socket-path=/run/user/1000/vm.sock --port=2222:22

  Start QEMU with the matching flags:
      eval \"qemu-system-x86_64 -nographic -hda disk.img \\
          $(hawser qemu-args --socket-path=/run/user/1000/vm.sock)\"

  QEMU or cloud-hypervisor listens on the socket and hawser connects:
      hawser --socket-path=/run/vm.sock --connect

Signals: SIGTERM and SIGINT end hawser; SIGUSR1 writes the counters to standard error.
Exit status: 0 ended on request, 1 failed at run time, 2 wrong usage.";

/// The command line of `hawser`.
#[derive(Debug, Parser)]
#[command(
    name = "hawser",
    version,
    about = "Serves a virtual machine's network interface over vhost-user, without root",
    long_about = "Serves a virtual machine's network interface (virtio-net) to QEMU or cloud-hypervisor over a \
        vhost-user socket. By default (--mode=masquerade) the guest is on a private network, gets its addresses by \
        DHCP, DHCPv6 and router advertisement, and reaches other hosts through ordinary sockets of the network \
        namespace that hawser runs in; this needs no privilege. With --mode=bridge the guest is on an L2 segment \
        of the host, with --mode=layer2 on a network that spans nodes.",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Print the flags for a VMM instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the vhost-user socket.
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Options of the NIC.
    #[command(flatten)]
    pub port: PortArgs,
    /// Options of the process.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Default of `--socket-dir`.
pub(crate) const DEFAULT_SOCKET_DIR: &str = "/run/hawser";
/// Name of the API socket of `hawser run`, in its `--socket-dir`.
pub(crate) const API_SOCKET: &str = "api.sock";

/// Path of the API socket of a process that serves one NIC on `socket`.
pub(crate) fn api_socket_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".api");
    path.into()
}

/// Subcommands. Without one, hawser serves the NIC that the options describe.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve every NIC of a VM's manifests, each on its own socket
    Run(RunManifest),
    /// Check a VM's manifests: print what is wrong with them, or what would be served
    Validate(ValidateArgs),
    /// Print the QEMU flags that match these options
    QemuArgs(VmmArgs),
    /// Print the elements of libvirt's domain XML that match these options
    LibvirtXml(VmmArgs),
    /// Print the cloud-hypervisor flags that match these options
    CloudHypervisorArgs(VmmArgs),
    /// Serve one virtual machine by the arguments of passt(1), for libvirt and QEMU; the same as hawser under the name passt
    Passt(PasstArgs),
    /// Show the NICs of a running process: addresses, MAC, link
    Status(StatusArgs),
    /// Watch the ports of a running process: rates, flows, drops by reason
    Top(TopArgs),
    /// Write the packets that cross a port of a running process, as pcapng
    Capture(CaptureArgs),
    /// List, add or remove port forwards of a running process
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Change the NICs of a running VM to match its manifests: plug new ones, unplug removed or
    /// absent ones, set links up or down
    Plug(PlugArgs),
    /// Unplug a NIC of a running VM; the guest must release it
    Unplug(UnplugArgs),
    /// Set the link that the guest sees on a NIC up or down
    Link(LinkArgs),
    /// Show or change the rate limits of a port of a running process
    Rate(RateArgs),
    /// Show the tunnel of a port on a network that spans nodes, and what crosses it to and from
    /// each peer; add, remove or replace peers
    Peers(PeersArgs),
    /// Carry the connections of a guest that migrates: prepare, watch or end that
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Tell the segment of a port in bridge mode that its guest is there, as after the primary of its failover pair was
    /// unplugged
    Announce(AnnounceArgs),
    /// Show or change the log filter of a running process
    Loglevel(LogLevelArgs),
    /// Reserve, list and release the MACs and addresses of VMs
    Leases(Leases),
    /// Print cloud-init network data that matches a VM's manifests
    CloudInit(CloudInitArgs),
    /// Give the PFs of this node their VFs, and show them
    Node(Node),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Write the manual pages into a directory, for packages
    #[command(hide = true)]
    ManualPages(ManualArgs),
    /// Set up VFs for the process at the other end of standard input
    #[command(hide = true)]
    VfKeeper(ManualArgs),
}

/// Options of `completion`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct CompletionArgs {
    /// Shell to print the script for
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Options of `manual-pages`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ManualArgs {
    /// Directory to write to
    pub folder: PathBuf,
}

/// Options that name a VM's manifests.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ManifestArgs {
    /// Manifests of one VM and its networks.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Directory for the sockets; each is named <interface name>.sock
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SOCKET_DIR)]
    pub socket_dir: PathBuf,
    /// Options that complete the manifests.
    #[command(flatten)]
    pub plan: PlanArgs,
}

impl ManifestArgs {
    /// The inputs of the plan in addition to the manifests. `options` are those of `plan`.
    pub(crate) fn setup<'a>(&'a self, options: &'a PlanOptions) -> PlanSetup<'a> {
        PlanSetup::new(&self.socket_dir, options)
    }
}

/// Options of `validate`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ValidateArgs {
    /// Manifests of the VM.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Print the plan and all problems as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `cloud-init`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct CloudInitArgs {
    /// Manifests of the VM.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Store with the MACs that the manifests do not give.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Options of `run`.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct RunManifest {
    /// Manifests of the VM.
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Print the flags for this VMM to use the VM's NICs, instead of serving them; libvirt: elements of the domain's XML
    #[arg(long, value_name = "VMM", help_heading = "Virtual machine")]
    pub print_args: Option<FlagReader>,
    /// Version of the QEMU that reads the flags [default: with QEMU after --, what it says of itself; else 9.2 or later]
    #[arg(long, value_name = "VERSION", help_heading = "Virtual machine")]
    pub qemu_version: Option<QemuVersion>,
    /// Print what would be served and done; create no lease, socket, link or process
    #[arg(long, conflicts_with = "print_args")]
    pub dry_run: bool,
    /// Memory of the VM for the printed flags, in bytes or with K, M, G [default: that of -m after
    /// --, or 1G]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Virtual machine",
        value_parser = values::memory_size
    )]
    pub memory: Option<String>,
    /// Exceptions from `--port=all`.
    #[command(flatten)]
    pub kept: KeptArgs,
    /// QMP socket of the running QEMU (its -qmp), used to plug and unplug NICs [default: with QEMU
    /// after --, a socket that hawser adds]
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Virtual machine",
        value_parser = values::socket_path,
        conflicts_with_all = ["cloud_hypervisor", "vmm"]
    )]
    pub qmp: Option<PathBuf>,
    /// API socket of the running cloud-hypervisor (its --api-socket), used to plug and unplug NICs
    /// [default: with cloud-hypervisor after --, a socket that hawser adds]
    #[arg(
        long,
        value_name = "PATH",
        help_heading = "Virtual machine",
        value_parser = values::socket_path,
        conflicts_with = "vmm"
    )]
    pub cloud_hypervisor: Option<PathBuf>,
    /// KubeVirt's file with the VFs of the pod (/etc/podinfo/network-info), which is waited for; it decides which VF an
    /// sriov interface gets
    #[arg(long, value_name = "FILE", help_heading = "Virtual machine")]
    pub network_info: Option<PathBuf>,
    /// VMM to start when the sockets are ready, with its own options; hawser adds options for
    /// memory and NICs, forwards signals, and exits with the VMM's exit status
    #[arg(last = true, value_name = "VMM OPTION", conflicts_with = "print_args")]
    pub vmm: Vec<OsString>,
    /// Descriptor of the line to the process that starts the VMM.
    #[arg(long, hide = true, value_parser = values::descriptor)]
    pub vmm_parent: Option<RawFd>,
    /// Options of the lease store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Options of the process.
    #[command(flatten)]
    pub run: RunArgs,
}

impl RunManifest {
    /// Path of the API socket.
    pub(crate) fn api_socket(&self) -> PathBuf {
        let given = self.run.api_socket.clone();
        given.unwrap_or_else(|| self.manifest.socket_dir.join(API_SOCKET))
    }

    /// Path of the socket on which the process can be taken over. Processes with API sockets of their own may share a
    /// directory, so they have one only if it is given.
    pub(crate) fn takeover_socket(&self) -> Option<PathBuf> {
        let default = || self.manifest.socket_dir.join(takeover::SOCKET);
        let given = self.run.takeover.socket.clone();
        given.or_else(|| self.run.api_socket.is_none().then(default))
    }
}

/// Program whose flags `--print-args` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlagReader {
    /// QEMU.
    Qemu,
    /// cloud-hypervisor.
    CloudHypervisor,
    /// libvirt, which reads XML.
    Libvirt,
}

/// Options of the vhost-user socket.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct EndpointArgs {
    /// Unix socket the VMM connects to; hawser creates it and removes it at the end, unless
    /// --connect is given
    #[arg(
        long,
        visible_alias = "socket",
        value_name = "PATH",
        help_heading = "Front end",
        value_parser = values::socket_path
    )]
    pub socket_path: Option<PathBuf>,
    /// Connect to a VMM that listens on --socket-path, instead of listening
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
    /// Print the capabilities of this back end as JSON, following QEMU's convention for vhost-user programs, and exit
    /// (other options are ignored)
    #[arg(long, help_heading = "Front end")]
    pub print_capabilities: bool,
}

/// Options of one NIC.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct PortArgs {
    /// How the guest is connected: masquerade, a private network behind NAT; bridge, an L2
    /// segment of the host; or layer2, a network that spans nodes
    #[arg(
        long,
        value_name = "MODE",
        help_heading = "Network card",
        value_enum,
        default_value = "masquerade"
    )]
    pub mode: Mode,
    /// MAC of the guest's NIC [default: the VMM's choice]
    #[arg(long, value_name = "MAC", help_heading = "Network card", value_parser = values::guest_mac)]
    pub mac: Option<MacAddr>,
    /// MTU of the guest's NIC, 68 to 65535 [default: that of the default route or the segment,
    /// else 1500]
    #[arg(long, value_name = "BYTES", help_heading = "Network card", value_parser = values::mtu)]
    pub mtu: Option<u16>,
    /// Number of receive and transmit queue pairs; each has its own thread
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
    /// The guest's IPv6 network: gateway ::1, guest ::2; with a /64 a guest without
    /// DHCPv6 chooses its own address [default: fd10:0:2::/120 where this network namespace has a global
    /// IPv6 address, else off]
    #[arg(long, value_name = "CIDR|off", help_heading = "Guest network", value_parser = values::ipv6_network)]
    pub ipv6: Option<Family<Ipv6Net>>,
    /// Interface of this network namespace whose addresses the guest has too, instead of a private network; pod: that of
    /// the default route
    #[arg(long, value_name = "INTERFACE|pod", help_heading = "Guest network")]
    pub guest_address_of: Option<String>,
    /// Host name for the guest, one label [default: this system's]
    #[arg(long, value_name = "NAME", help_heading = "Guest network", value_parser = values::hostname)]
    pub hostname: Option<String>,
    /// Name servers for the guest; the guest reaches a server on a loopback address of this
    /// network namespace through the gateway [default: those of /etc/resolv.conf]
    #[arg(
        long,
        value_name = "ADDR,…",
        help_heading = "Guest network",
        value_delimiter = ',',
        value_parser = values::name_server
    )]
    pub dns: Vec<IpAddr>,
    /// Search domains for the guest [default: those of /etc/resolv.conf]
    #[arg(
        long,
        value_name = "DOMAIN,…",
        help_heading = "Guest network",
        value_delimiter = ',',
        value_parser = values::search_domain
    )]
    pub search: Vec<String>,

    /// Ports to forward to the guest: [tcp|udp]:[ADDR:]HOST[-HOST2][:GUEST[-GUEST2]], TCP by
    /// default, an IPv6 ADDR in brackets; or all, tcp:all, udp:all: every port that no program of
    /// this network namespace listens on (with CAP_NET_ADMIN and CAP_BPF at start through one socket,
    /// else through a socket for each, as far as descriptors last); may be repeated
    #[arg(
        long = "port",
        value_name = "SPEC,…",
        help_heading = "Reachability",
        value_delimiter = ',',
        value_parser = forward::parse_ports
    )]
    pub ports: Vec<Ports>,
    /// Exceptions from `--port=all`.
    #[command(flatten)]
    pub kept: KeptArgs,
    /// Address of the guest's network that leads to the loopback of this network namespace, which
    /// the guest cannot reach otherwise; may be repeated
    #[arg(long, value_name = "ADDR,…", help_heading = "Reachability", value_delimiter = ',')]
    pub map_host_loopback: Vec<IpAddr>,

    /// Options of the segment (bridge mode).
    #[command(flatten)]
    pub segment: SegmentArgs,
    /// Options of the network (layer2 mode).
    #[command(flatten)]
    pub layer2: Layer2Args,
    /// Checks, VLANs and rate limits.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Exceptions from `--port=all`.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub(crate) struct KeptArgs {
    /// Ports to leave to the programs of this network namespace when every other port is forwarded
    /// (--port=all, or an interface without ports): [tcp|udp]:PORT[-PORT2]; may be repeated
    #[arg(
        long = "keep-port",
        value_name = "PORT,…",
        help_heading = "Reachability",
        value_delimiter = ',',
        value_parser = forward::parse_kept
    )]
    pub kept_ports: Vec<Kept>,
}

/// Options of the process.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct RunArgs {
    /// Exit when the first front end disconnects, instead of waiting for the next
    #[arg(long, help_heading = "Process")]
    pub one_off: bool,
    /// Network namespace to serve from, as `ip netns` names it, or a path such as /proc/PID/ns/net
    /// [default: hawser's own]
    #[arg(long, value_name = "NAME|PATH", help_heading = "Process")]
    pub netns: Option<PathBuf>,
    /// Directory for the journal of network changes, which the next start undoes after a crash
    /// [default: $RUNTIME_DIRECTORY, /run/hawser, or $XDG_RUNTIME_DIR/hawser]
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub runtime_dir: Option<PathBuf>,
    /// Unix socket of the control API, which hawser status and other subcommands use [default: with
    /// hawser run, api.sock in --socket-dir; else --socket-path with .api after it]
    #[arg(long, value_name = "PATH", help_heading = "Process", value_parser = values::socket_path)]
    pub api_socket: Option<PathBuf>,
    /// Unix socket for migrations to this process: the hawser from which a guest comes connects to
    /// it (hawser migrate prepare), and the guest's connections go on
    #[arg(long, value_name = "PATH", help_heading = "Process", value_parser = values::socket_path)]
    pub migration_socket: Option<PathBuf>,
    /// Unix socket of the QEMU guest agent, from which hawser status takes interface names and
    /// addresses
    #[arg(long, value_name = "PATH", help_heading = "Process", value_parser = values::socket_path)]
    pub guest_agent: Option<PathBuf>,
    /// File to append events of the NICs to, one line of JSON each (lease given, link changed,
    /// guest announced, spoof seen); -: standard output
    #[arg(long, value_name = "FILE|-", help_heading = "Process")]
    pub event_log: Option<PathBuf>,
    /// Log level on standard error: error, warn, info, debug, trace, off, or a filter such as
    /// info,hawser_backend::vhost_user=debug
    #[arg(
        long,
        value_name = "LEVEL|FILTER",
        help_heading = "Process",
        default_value = "info",
        value_parser = logging::parse_filter
    )]
    pub log: String,
    /// Options of the takeover from another process.
    #[command(flatten)]
    pub takeover: TakeoverArgs,
    /// Options of the sandbox.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Modes of NICs that may be plugged later, in addition to those present at start; the process keeps the
    /// privileges they need [default: all for hawser run, else none]
    #[arg(
        long,
        value_name = "MODE,…",
        help_heading = "Process",
        value_enum,
        value_delimiter = ','
    )]
    pub plug_mode: Vec<Mode>,
    /// File of the lease store, if leases may be created while the process runs.
    #[arg(skip)]
    pub store: Option<PathBuf>,
}

/// Options of the subcommands that print flags for a VMM.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct VmmArgs {
    /// Memory of the VM in bytes, or with K, M, G
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "Virtual machine",
        default_value = "1G",
        value_parser = values::memory_size
    )]
    pub memory: String,
    /// Version of the QEMU that reads the flags [default: 9.2 or later]
    #[arg(long, value_name = "VERSION", help_heading = "Virtual machine")]
    pub qemu_version: Option<QemuVersion>,
    /// Options of the vhost-user socket.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Options of the NIC.
    #[command(flatten)]
    pub port: PortArgs,
    /// --netns and --api-socket tell where the NIC is served. The others are accepted so that the same options can be
    /// passed, and have no effect here.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The part of [`EndpointArgs`] that matters to a VMM.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct SocketArgs {
    /// Unix socket that hawser listens on, or the VMM with --connect
    #[arg(
        long,
        visible_alias = "socket",
        value_name = "PATH",
        help_heading = "Front end",
        value_parser = values::socket_path
    )]
    pub socket_path: PathBuf,
    /// The VMM listens and hawser connects
    #[arg(long, help_heading = "Front end")]
    pub connect: bool,
}
