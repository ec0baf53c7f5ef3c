//! Options of `hawser passt`, which are those of passt(1).

mod spec;

use crate::sandbox::{User, parse_user};
use hawser_manifest::passt_ports::{self, Spec};
use hawser_manifest::values;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The command line of a hawser that is called `passt`.
#[derive(Debug, clap::Parser)]
#[command(name = "passt", version, about = ABOUT)]
pub(crate) struct PasstProgram {
    /// Its options.
    #[command(flatten)]
    pub args: PasstArgs,
}

/// What the program does, in one line.
pub(crate) const ABOUT: &str = "Serves one virtual machine by the arguments of passt(1), for libvirt and QEMU";

/// Options of `passt`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct PasstArgs {
    /// Serve vhost-user, which is required
    #[arg(long)]
    pub vhost_user: bool,
    /// Unix socket for the VMM [default: the first free one of /tmp/passt_1.socket, …]
    #[arg(short, long = "socket", alias = "socket-path", value_name = "PATH", value_parser = values::socket_path)]
    pub socket: Option<PathBuf>,
    /// Connected socket that was inherited, instead of --socket; implies --one-off
    #[arg(short = 'F', long, value_name = "N", conflicts_with = "socket", value_parser = values::descriptor)]
    pub fd: Option<RawFd>,
    /// End when the VMM disconnects
    #[arg(short = '1', long)]
    pub one_off: bool,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Write the process number to this file when the socket listens
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pid: Option<PathBuf>,
    /// Append the log to this file, instead of the system's log
    #[arg(short, long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Log warnings and errors only
    #[arg(short, long, conflicts_with_all = ["debug", "trace"])]
    pub quiet: bool,
    /// Log more, in the foreground
    #[arg(short, long)]
    pub debug: bool,
    /// Log everything, in the foreground
    #[arg(long)]
    pub trace: bool,
    /// User to switch to when started as root: USER[:GROUP]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = parse_user)]
    pub runas: Option<User>,
    /// Network namespace to serve from, which hawser adds to passt's options
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<PathBuf>,

    /// MTU of the guest's NIC [default: that of the default route]
    #[arg(short, long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Interface whose addresses and routers the guest has [default: that of the default route]
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Address of the guest in place of the interface's; one per family
    #[arg(short, long, value_name = "ADDR[/PREFIX]")]
    pub address: Vec<String>,
    /// Netmask or prefix length of the guest's IPv4 address
    #[arg(short, long, value_name = "MASK")]
    pub netmask: Option<String>,
    /// Router of the guest in place of the interface's; one per family
    #[arg(short, long, value_name = "ADDR")]
    pub gateway: Vec<IpAddr>,
    /// The guest has IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6_only")]
    pub ipv4_only: bool,
    /// The guest has IPv6 only
    #[arg(short = '6', long)]
    pub ipv6_only: bool,

    /// TCP ports for the guest: none, all, or [ADDR/]PORTS, such as 22,8080:80,3000-3009 or ~15000
    #[arg(short, long, value_name = "SPEC", value_parser = passt_ports::parse)]
    pub tcp_ports: Vec<Spec>,
    /// UDP ports for the guest, as --tcp-ports
    #[arg(short, long, value_name = "SPEC", value_parser = passt_ports::parse)]
    pub udp_ports: Vec<Spec>,
    /// Address that leads to the loopback of the network namespace, or none
    #[arg(long, value_name = "ADDR|none")]
    pub map_host_loopback: Vec<String>,
    /// The gateway's address leads to no loopback, which is always so here
    #[arg(long)]
    pub no_map_gw: bool,

    /// Name server for the guest; none: no server
    #[arg(short = 'D', long, value_name = "ADDR|none")]
    pub dns: Vec<String>,
    /// Search domains for the guest, separated by spaces; none: no domain
    #[arg(short = 'S', long, value_name = "LIST|none")]
    pub search: Vec<String>,
    /// Host name for the guest
    #[arg(short = 'H', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Host name of the guest with its domain
    #[arg(long, value_name = "NAME")]
    pub fqdn: Option<String>,
    /// Tell the guest no name server
    #[arg(long)]
    pub no_dhcp_dns: bool,
    /// Tell the guest no search domain
    #[arg(long)]
    pub no_dhcp_search: bool,

    /// Options of passt without effect here
    #[command(flatten)]
    pub ignored: Ignored,
    /// Options of passt that are refused
    #[command(flatten)]
    pub refused: Refused,
    /// Report the start on standard input.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Declares options that are only recognised.
macro_rules! recognised {
    ($(#[$doc:meta])* $name:ident { $($(#[$arg:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, clap::Args)]
        #[group(skip)]
        pub(crate) struct $name {
            $($(#[$arg])* $field: $type,)*
        }

        impl $name {
            /// The options that were given.
            pub(crate) fn given(&self) -> Vec<String> {
                let all = [$((Given::is(&self.$field), stringify!($field))),*];
                let given = all.into_iter().filter(|(is, _)| *is);
                given.map(|(_, name)| format!("--{}", name.replace('_', "-"))).collect()
            }
        }
    };
}

/// An option that may have been given.
trait Given {
    fn is(&self) -> bool;
}

impl Given for bool {
    fn is(&self) -> bool {
        *self
    }
}

impl Given for Option<String> {
    fn is(&self) -> bool {
        self.is_some()
    }
}

recognised! {
    /// Options that change nothing.
    Ignored {
        #[arg(short = 'e', long, hide = true)]
        stderr: bool,
        #[arg(long, hide = true)]
        stats: Option<String>,
        #[arg(long, hide = true)]
        log_size: Option<String>,
        #[arg(long, hide = true)]
        freebind: bool,
        #[arg(long, hide = true)]
        chroot_fallback: bool,
        #[arg(long, hide = true)]
        migrate_exit: bool,
        #[arg(long, hide = true)]
        migrate_no_linger: bool,
        #[arg(long, hide = true)]
        repair_path: Option<String>,
    }
}

recognised! {
    /// Options whose effect is not served.
    Refused {
        #[arg(short = 'M', long, hide = true)]
        mac_addr: Option<String>,
        #[arg(short = 'o', long, hide = true)]
        outbound: Option<String>,
        #[arg(long, hide = true)]
        outbound_if4: Option<String>,
        #[arg(long, hide = true)]
        outbound_if6: Option<String>,
        #[arg(short = 'p', long, hide = true)]
        pcap: Option<String>,
        #[arg(long, hide = true)]
        conf_path: Option<String>,
        #[arg(long, hide = true)]
        dns_forward: Option<String>,
        #[arg(long, hide = true)]
        dns_host: Option<String>,
        #[arg(long, hide = true)]
        map_guest_addr: Option<String>,
        #[arg(long, hide = true)]
        no_tcp: bool,
        #[arg(long, hide = true)]
        no_udp: bool,
        #[arg(long, hide = true)]
        no_icmp: bool,
        #[arg(long, hide = true)]
        no_dhcp: bool,
        #[arg(long, hide = true)]
        no_dhcpv6: bool,
        #[arg(long, hide = true)]
        no_ndp: bool,
        #[arg(long, hide = true)]
        no_ra: bool,
    }
}
