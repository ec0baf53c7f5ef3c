//! Two nodes with a process of a back end each, and the guest's plan.

use crate::results::Peer;
use hawser_testkit::guest::{Guest, Incoming, Plan};
use hawser_testkit::migrating::{Client, FORWARDED, Setting, plan};
use hawser_testkit::nodes::{Nodes, PORT, WORLD4};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, peers};
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

/// Port of the beat, at both ends.
const BEAT: u16 = 7100;
/// Milliseconds between two datagrams of the beat.
const EVERY: u32 = 5;
/// Slot of the witness, behind that of the back end's NIC, so that the guest calls it eth1.
const SLOT: u32 = 16;
/// Sockets of the back end on the two nodes. hawser's have these names in [`Setting`].
const SOCKETS: [&str; 2] = ["source.sock", "target.sock"];
/// Socket on which the witness's frames arrive.
const WITNESS: &str = "witness.sock";

/// What serves the guest's NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackEnd {
    /// hawser in masquerade mode, with a channel between the two processes.
    Hawser,
    /// passt. Its connections move only if the address moves too, which it does not here.
    Passt,
}

impl Peer for BackEnd {
    const ALL: &'static [Self] = &[Self::Hawser, Self::Passt];
    const OURS: Self = Self::Hawser;

    fn key(self) -> &'static str {
        match self {
            Self::Hawser => "hawser",
            Self::Passt => "passt",
        }
    }

    fn title(self) -> &'static str {
        self.key()
    }
}

/// The processes of a back end on two nodes.
pub(super) struct Place {
    ends: Ends,
    /// Server of the world.
    pub world: SocketAddr,
}

enum Ends {
    Hawser(Setting),
    Passt { nodes: Nodes, _processes: [Background; 2] },
}

impl Place {
    /// Waits until it has the machine alone, and starts the processes.
    pub(super) fn new(back_end: BackEnd) -> Result<Self> {
        let mut nodes = Nodes::alone(2, 1500)?;
        if back_end == BackEnd::Hawser {
            let setting = Setting::on(nodes, &[])?;
            let world = setting.world;
            let ends = Ends::Hawser(setting);
            return Ok(Self { ends, world });
        }
        let world = nodes.serve_world(WORLD4)?;
        let forward = format!("{FORWARDED}:{PORT}");
        let start = |node: usize, name: &str| {
            // The world is the router, whose address is the host's own to passt otherwise.
            let arguments = ["--tcp-ports", &forward, "--no-map-gw"];
            peers::passt(&nodes.nodes[node], &nodes.path(name), &arguments)
        };
        let processes = [start(0, SOCKETS[0])?, start(1, SOCKETS[1])?];
        let ends = Ends::Passt {
            nodes,
            _processes: processes,
        };
        Ok(Self { ends, world })
    }

    fn nodes(&self) -> &Nodes {
        match &self.ends {
            Ends::Hawser(setting) => &setting.nodes,
            Ends::Passt { nodes, .. } => nodes,
        }
    }

    /// Options of the guest on one of the nodes, with a witness.
    fn plan(&self, node: usize) -> Plan {
        let path = |name: &str| self.nodes().path(name);
        let mut plan = plan(&path(SOCKETS[node]));
        let at = |name: &str| path(name).display().to_string();
        let (near, far) = (at(&format!("witness-{node}.sock")), at(WITNESS));
        plan.arguments.extend([
            "-netdev".to_owned(),
            format!("dgram,id=witness,local.type=unix,local.path={near},remote.type=unix,remote.path={far}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=witness,romfile=,addr={SLOT:#x}"),
        ]);
        plan
    }

    /// Where the frames of the witness arrive.
    pub(super) fn witness(&self) -> Result<UnixDatagram> {
        Ok(UnixDatagram::bind(self.nodes().path(WITNESS))?)
    }

    /// Where the datagrams of the back end's NIC arrive.
    pub(super) fn beat(&self) -> Result<UdpSocket> {
        Ok(self.nodes().world.inside(|| UdpSocket::bind((WORLD4, BEAT)))??)
    }

    /// Boots the guest in the source, with a server, and with its beat on both NICs.
    pub(super) fn boot(&self) -> Result<Guest> {
        let guest = self.plan(0).boot_to_migrate()?;
        guest.net_up()?;
        guest.serve(&format!("0.0.0.0:{PORT}"))?;
        guest.sh("ip link set eth1 up; ip addr add 10.255.0.2/24 dev eth1; \
             ip neigh add 10.255.0.1 lladdr 02:00:00:00:00:01 dev eth1")?;
        guest.sh(&format!(
            "setsid hawser-traffic beat to={WORLD4}:{BEAT} witness=10.255.0.1:{BEAT} every={EVERY} \
             >/run/beat.log 2>&1 </dev/null &"
        ))?;
        Ok(guest)
    }

    /// Starts the QEMU that waits for the guest on the second node.
    pub(super) fn incoming(&self, guest: &Guest) -> Result<Incoming> {
        self.plan(1).incoming(guest)
    }

    /// A client of the guest's server.
    pub(super) fn client(&self) -> Result<Client> {
        Client::connect(self.nodes())
    }

    /// The counters of the world's links.
    pub(super) fn counters(&self) -> Result<File> {
        Ok(self
            .nodes()
            .world
            .inside(|| File::open("/proc/thread-self/net/dev"))??)
    }

    /// Does what the back end needs before a migration.
    pub(super) fn prepare(&self) -> Result<()> {
        match &self.ends {
            Ends::Hawser(setting) => setting.prepare().map(drop),
            Ends::Passt { .. } => Ok(()),
        }
    }
}
