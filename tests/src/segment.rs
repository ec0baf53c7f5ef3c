//! The environment for bridge mode: a namespace with a Linux bridge, to which the guests' devices are attached. The
//! bridge has an address of its own.

use crate::Result;
use crate::guest::{Guest, Kind, Plan};
use crate::hawser::Hawser;
use crate::lab::{Turn, have_machine, share_machine};
use crate::netns::Namespace;
use crate::peers;
use crate::process::Background;
use crate::sniffer::Sniffer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Name of the bridge.
pub const BRIDGE: &str = "br0";
/// The host's IPv4 address on the segment. Guests are in 192.0.2.0/24.
pub const HOST4: &str = "192.0.2.1";
/// The host's IPv6 address on the segment. Guests are in 2001:db8:2::/64.
pub const HOST6: &str = "2001:db8:2::1";
/// Port of the traffic server.
pub const PORT: u16 = 7000;
/// Addresses that dnsmasq leases.
const DHCP_RANGE: &str = "192.0.2.100,192.0.2.200,255.255.255.0,1h";
const PATIENCE: Duration = Duration::from_secs(30);

/// Environment of a test. Fields are dropped in order: servers, then the namespace, then the machine.
#[derive(Debug)]
pub struct Segment {
    servers: Vec<Background>,
    /// Namespace with the bridge, hawser, servers and clients.
    pub host: Namespace,
    mtu: u32,
    folder: TempDir,
    _machine: Option<Turn>,
}

impl Segment {
    /// Waits for a share of the machine, and creates a bridge with this MTU.
    pub fn new(mtu: u32) -> Result<Self> {
        Self::on(share_machine()?, mtu)
    }

    /// Does the same with exclusive use of the machine.
    pub fn alone(mtu: u32) -> Result<Self> {
        Self::on(have_machine()?, mtu)
    }

    fn on(machine: Turn, mtu: u32) -> Result<Self> {
        Ok(Self {
            _machine: Some(machine),
            ..Self::beside(mtu)?
        })
    }

    /// Creates a bridge with this MTU, for a caller that already has the machine.
    pub fn beside(mtu: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hawser-segment-").tempdir()?;
        let host = Namespace::new()?;
        for line in [
            format!("ip link add {BRIDGE} type bridge"),
            format!("ip link set {BRIDGE} mtu {mtu} up"),
            format!("ip addr add {HOST4}/24 dev {BRIDGE}"),
            format!("ip -6 addr add {HOST6}/64 dev {BRIDGE} nodad"),
        ] {
            host.run(&line)?;
        }
        Ok(Self {
            servers: Vec::new(),
            host,
            mtu,
            folder,
            _machine: None,
        })
    }

    /// The environment's directory, which is removed together with the environment.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the environment's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Starts hawser in bridge mode on a socket called `name`.
    pub fn hawser(&self, name: &str, arguments: &[&str]) -> Result<Hawser> {
        let arguments = [&["--mode=bridge"], arguments].concat();
        Hawser::start(&self.host, &self.path(name).with_extension("sock"), &arguments)
    }

    /// Creates a persistent single-queue TAP device on the bridge, as a CNI plugin does.
    pub fn add_tap(&self, name: &str, options: &str) -> Result<()> {
        self.host
            .run(&format!("ip tuntap add dev {name} mode tap vnet_hdr {options}"))?;
        self.enslave(name)
    }

    /// Attaches a device to the bridge.
    pub fn enslave(&self, name: &str) -> Result<()> {
        self.host
            .run(&format!("ip link set {name} mtu {} master {BRIDGE} up", self.mtu))?;
        Ok(())
    }

    /// Creates a link `up0` with a neighbour `far0` that is not on the segment.
    pub fn add_uplink(&self) -> Result<()> {
        for line in [
            "ip link add up0 type veth peer name far0",
            "ip link set up0 up",
            "ip addr add 198.51.100.1/24 dev far0",
            "ip link set far0 up",
        ] {
            self.host.run(line)?;
        }
        Ok(())
    }

    /// Captures everything that the bridge sends to an additional port, as another host would receive it.
    pub fn listen(&self, name: &str) -> Result<Sniffer> {
        let port = format!("{name}p");
        self.host
            .run(&format!("ip link add {name} type veth peer name {port}"))?;
        self.host.run(&format!("ip link set {name} up"))?;
        self.enslave(&port)?;
        Sniffer::start(&self.host, self.folder(), name)
    }

    /// Boots a guest with default options on `hawser`. Its NIC is up and has no address.
    pub fn guest(&self, kind: Kind, hawser: &Hawser) -> Result<Guest> {
        let guest = Plan::new(kind, hawser.socket()).boot()?;
        guest.sh("ip link set eth0 up")?;
        Ok(guest)
    }

    /// Serves traffic on the host's address.
    pub fn serve(&mut self) -> Result<SocketAddr> {
        let at = SocketAddr::new(HOST4.parse()?, PORT);
        self.servers.push(peers::serve(&self.host, self.folder.path(), at)?);
        Ok(at)
    }

    /// Leases addresses to the guests by DHCP.
    pub fn serve_dhcp(&mut self) -> Result<()> {
        let mut command = self.host.command("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--port=0",
                "--user=",
            ])
            .args(["--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--no-ping"])
            .arg(format!("--interface={BRIDGE}"))
            .arg(format!("--dhcp-range={DHCP_RANGE}"))
            .arg(format!("--dhcp-leasefile={}", self.path("leases").display()));
        let log = self.path("dhcp.log");
        let mut server = Background::start(command, "dnsmasq (package dnsmasq-base)", log)?;
        server.wait_until("started", PATIENCE, |log| log.contains("started"))?;
        self.servers.push(server);
        Ok(())
    }
}
