//! An environment for layer2 mode: nodes on an underlay that routes to a world beyond it.

use crate::guest::{Guest, Kind, Plan};
use crate::hawser::Hawser;
use crate::lab::{Turn, have_machine, share_machine};
use crate::netns::Namespace;
use crate::peers;
use crate::process::Background;
use crate::relay::{self, Relay};
use crate::sniffer::Sniffer;
use crate::{Result, failure};
use std::net::SocketAddr;
use std::path::PathBuf;
use tempfile::TempDir;

/// IPv4 address of the underlay's router, which is also the world.
pub const WORLD4: &str = "198.51.100.254";
/// IPv6 address of the underlay's router.
pub const WORLD6: &str = "2001:db8:100::254";
/// Port of the traffic servers.
pub const PORT: u16 = 7000;

/// Environment of a test. Fields are dropped in order: servers, then the namespaces, then the machine.
#[derive(Debug)]
pub struct Nodes {
    servers: Vec<Background>,
    /// Nodes in which the processes run.
    pub nodes: Vec<Namespace>,
    /// Underlay with a router and servers.
    pub world: Namespace,
    mtu: u32,
    folder: TempDir,
    _machine: Option<Turn>,
}

/// A guest of a network.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// The node on which it runs.
    pub node: usize,
    /// Number of the guest, from which its MAC and addresses are derived.
    pub number: u8,
    /// UDP port of its process.
    pub vtep_port: u16,
}

impl Port {
    /// Guest `number` on `node`, with Geneve's UDP port.
    pub const fn new(node: usize, number: u8) -> Self {
        Self {
            node,
            number,
            vtep_port: 6081,
        }
    }

    /// MAC of the guest.
    pub fn mac(self) -> String {
        format!("52:54:00:00:01:{:02x}", self.number)
    }

    /// IPv4 address of the guest.
    pub fn address4(self) -> String {
        format!("10.100.0.{}", self.number)
    }

    /// IPv6 address of the guest.
    pub fn address6(self) -> String {
        format!("fd00:100::{:x}", self.number)
    }

    /// The `--peer` option that describes the guest to other processes, over an IPv4 or IPv6 underlay.
    pub fn peer(self, underlay6: bool) -> String {
        let vtep = if underlay6 {
            format!("[{}]:{}", Nodes::vtep6(self.node), self.vtep_port)
        } else {
            format!("{}:{}", Nodes::vtep4(self.node), self.vtep_port)
        };
        format!("--peer={},{},{}@{vtep}", self.mac(), self.address4(), self.address6())
    }
}

impl Nodes {
    /// Waits for a share of the machine, and creates `count` nodes on an underlay with this MTU.
    pub fn new(count: usize, mtu: u32) -> Result<Self> {
        Ok(Self {
            _machine: Some(share_machine()?),
            ..Self::beside(count, mtu)?
        })
    }

    /// Waits for exclusive use of the machine, and creates nodes.
    pub fn alone(count: usize, mtu: u32) -> Result<Self> {
        Ok(Self {
            _machine: Some(have_machine()?),
            ..Self::beside(count, mtu)?
        })
    }

    /// Creates nodes for a caller that already has the machine.
    pub fn beside(count: usize, mtu: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hawser-nodes-").tempdir()?;
        let world = Namespace::new()?;
        for line in [
            format!("ip link add br0 mtu {mtu} type bridge"),
            "ip link set br0 up".to_owned(),
            format!("ip addr add {WORLD4}/24 dev br0"),
            format!("ip -6 addr add {WORLD6}/64 dev br0 nodad"),
        ] {
            world.run(&line)?;
        }
        let mut nodes = Vec::new();
        for number in 0..count {
            let node = Namespace::new()?;
            node.run(&format!(
                "ip link add eth0 mtu {mtu} type veth peer name node{number} mtu {mtu} netns {}",
                world.path()
            ))?;
            world.run(&format!("ip link set node{number} master br0 up"))?;
            for line in [
                format!("ip addr add {}/24 dev eth0", Self::vtep4(number)),
                format!("ip -6 addr add {}/64 dev eth0 nodad", Self::vtep6(number)),
                "ip link set eth0 up".to_owned(),
                format!("ip route add default via {WORLD4}"),
                format!("ip -6 route add default via {WORLD6}"),
            ] {
                node.run(&line)?;
            }
            node.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
            nodes.push(node);
        }
        Ok(Self {
            servers: Vec::new(),
            nodes,
            world,
            mtu,
            folder,
            _machine: None,
        })
    }

    /// IPv4 address of a node.
    pub fn vtep4(node: usize) -> String {
        format!("198.51.100.{}", node + 1)
    }

    /// IPv6 address of a node.
    pub fn vtep6(node: usize) -> String {
        format!("2001:db8:100::{:x}", node + 1)
    }

    /// A path in the set-up's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts hawser for a guest of network `vni` with a subnet of each family. `arguments` name its peers and the
    /// local end of the tunnel.
    pub fn hawser(&self, vni: u32, port: Port, arguments: &[&str]) -> Result<Hawser> {
        let subnets = [
            format!("--guest-address={},{}", port.address4(), port.address6()),
            "--ipv4=10.100.0.0/24".to_owned(),
            "--ipv6=fd00:100::/64".to_owned(),
        ];
        let subnets: Vec<&str> = subnets.iter().map(String::as_str).collect();
        self.hawser_without_subnets(vni, port, &[&subnets, arguments].concat())
    }

    /// Does the same without subnets, and without an address of the guest.
    pub fn hawser_without_subnets(&self, vni: u32, port: Port, arguments: &[&str]) -> Result<Hawser> {
        let options = [
            "--mode=layer2".to_owned(),
            format!("--vni={vni}"),
            format!("--vtep-port={}", port.vtep_port),
            format!("--mac={}", port.mac()),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let socket = self.path(&format!("vm{vni}-{}.sock", port.number));
        let arguments = [&options, arguments].concat();
        Hawser::start(&self.nodes[port.node], &socket, &arguments)
    }

    /// MTU of the network for guests, which follows from that of the underlay.
    pub const fn inner_mtu(&self, underlay6: bool) -> u32 {
        self.mtu - if underlay6 { 82 } else { 62 }
    }

    /// Boots a guest on `hawser` and configures its NIC by DHCP and router advertisements.
    pub fn guest(&self, kind: Kind, hawser: &Hawser) -> Result<Guest> {
        let guest = Plan::new(kind, hawser.socket()).boot()?;
        guest.net_up()?;
        Ok(guest)
    }

    /// Serves traffic in the world, at `address` and [`PORT`].
    pub fn serve_world(&mut self, address: &str) -> Result<SocketAddr> {
        let at = SocketAddr::new(address.parse()?, PORT);
        self.servers.push(peers::serve(&self.world, self.folder.path(), at)?);
        Ok(at)
    }

    /// Interrupts a node's link and makes a relay forward between the ends. The relay's link has the node's MTU.
    pub fn relay(&self, node: usize) -> Result<Relay> {
        let (namespace, link) = (relay::namespace()?, format!("node{node}"));
        self.complete_frames(node)?;
        let mtu = self.mtu;
        self.world
            .run(&format!("ip link set {link} netns {}", namespace.path()))?;
        namespace.run(&format!(
            "ip link add underlay mtu {mtu} type veth peer name {link} mtu {mtu} netns {}",
            self.world.path()
        ))?;
        namespace.run(&format!("ip link set {link} up"))?;
        namespace.run("ip link set underlay up")?;
        self.world.run(&format!("ip link set {link} master br0 up"))?;
        self.complete_frames(node)?;
        Relay::start(namespace, [&link, "underlay"])
    }

    /// Makes frames to and from a node split, and their checksums computed, before they cross its link. This is for
    /// programs that read them by packet sockets.
    pub fn complete_frames(&self, node: usize) -> Result<()> {
        self.nodes[node].run("ethtool -K eth0 tx off tso off gso off")?;
        self.world
            .run(&format!("ethtool -K node{node} tx off tso off gso off"))?;
        Ok(())
    }

    /// Number of datagrams over IPv6 that a node's kernel refused because of their checksum.
    pub fn refused_checksums(&self, node: usize) -> Result<u64> {
        let text = self.nodes[node].run("cat /proc/net/snmp6")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
        Ok(line.ok_or_else(|| failure("no Udp6InCsumErrors"))?.trim().parse()?)
    }

    /// Captures all traffic of a node on the underlay.
    pub fn listen(&self, node: usize) -> Result<Sniffer> {
        Sniffer::start(&self.world, self.folder.path(), &format!("node{node}"))
    }
}
