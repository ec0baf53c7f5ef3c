//! Two guests, their nodes, and the network between them.

use super::results::Network;
use crate::results::Peer as _;
use crate::surroundings::Surroundings;
use hawser_testkit::guest::{Guest, Kind, Plan, Running};
use hawser_testkit::netns::Namespace;
use hawser_testkit::nodes::{Nodes, PORT, Port};
use hawser_testkit::ovs::{Ovs, Tunnel};
use hawser_testkit::process::Background;
use hawser_testkit::{Result, artifacts, failure};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const UNDERLAY_MTU: u32 = 1500;
const VNI: u32 = 4711;
const PORTS: [Port; 2] = [Port::new(0, 11), Port::new(1, 12)];
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest time for which a server in a guest runs.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A peer that is ready to be measured. Fields are dropped in order: servers, guests, back ends, switches, nodes.
#[derive(Debug)]
pub struct Setup {
    /// Which one.
    pub peer: Network,
    _servers: [Running; 2],
    guests: Vec<Guest>,
    backends: Vec<Background>,
    switches: Vec<Ovs>,
    _nodes: Nodes,
}

impl Setup {
    /// Starts everything, in these `surroundings`. The caller must have exclusive use of the machine.
    ///
    /// # Errors
    /// A part does not start.
    pub fn new(peer: Network, surroundings: &Surroundings) -> Result<Self> {
        let nodes = Nodes::beside(PORTS.len(), UNDERLAY_MTU)?;
        let switches = match peer {
            Network::Ovs | Network::OvsTso => switches(peer, &nodes)?,
            Network::Hawser | Network::Bridge => Vec::new(),
        };
        let backends = PORTS.map(|port| start(peer, port, &nodes, &switches));
        let backends = backends.into_iter().collect::<Result<Vec<_>>>()?;
        let guests = PORTS.map(|port| boot(peer, port, &nodes, surroundings));
        let guests = guests.into_iter().collect::<Result<Vec<_>>>()?;
        let far = &guests[1];
        let iperf = far.start("exec iperf3 --server", LIFETIME)?;
        far.sh("for n in $(seq 100); do ss -ltn | grep -q :5201 && exit; usleep 50000; done; exit 1")?;
        Ok(Self {
            peer,
            _servers: [iperf, far.serve(&format!("0.0.0.0:{PORT}"))?],
            guests,
            backends,
            switches,
            _nodes: nodes,
        })
    }

    /// Gbit/s that arrive at the second guest, and CPU seconds per GB of everything between the guests.
    ///
    /// # Errors
    /// iperf3 fails.
    pub fn transfer(&self, time: Duration) -> Result<[f64; 2]> {
        let before = self.cpu_seconds()?;
        let command = format!(
            "iperf3 --client {} --time {} --json",
            PORTS[1].address4(),
            time.as_secs()
        );
        let output = self.guests[0].run_for(&command, time + PATIENCE)?;
        let cpu = self.cpu_seconds()? - before;
        let report: Value =
            serde_json::from_str(&output.out).map_err(|_| failure(format!("iperf3: {}{}", output.out, output.err)))?;
        if let Some(error) = report["error"].as_str() {
            return Err(failure(format!("iperf3: {error}")));
        }
        let received = &report["end"]["sum_received"];
        let rate = number(received, "bits_per_second")?;
        Ok([rate / 1e9, cpu / (number(received, "bytes")? / 1e9)])
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let backends = self.backends.iter().map(Background::cpu_seconds);
        backends.chain(self.switches.iter().map(Ovs::cpu_seconds)).sum()
    }

    /// A number in a report of `hawser-traffic` from the first guest to the second.
    ///
    /// # Errors
    /// The traffic fails.
    pub fn traffic(&self, arguments: &str, name: &str) -> Result<f64> {
        let (command, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let to = format!("{}:{PORT}", PORTS[1].address4());
        let report = self.guests[0].traffic_for(&format!("{command} to={to} {rest}"), PATIENCE)?;
        number(&report, name)
    }
}

fn number(value: &Value, name: &str) -> Result<f64> {
    let found = value[name].as_f64();
    found.ok_or_else(|| failure(format!("no number '{name}' in {value}")))
}

fn socket(nodes: &Nodes, port: Port) -> PathBuf {
    nodes.path(&format!("vm{}.sock", port.number))
}

fn switches(peer: Network, nodes: &Nodes) -> Result<Vec<Ovs>> {
    let mut switches = Vec::new();
    for (port, other) in [(PORTS[0], PORTS[1]), (PORTS[1], PORTS[0])] {
        let settings = if peer == Network::OvsTso {
            "other_config:userspace-tso-enable=true"
        } else {
            nodes.complete_frames(port.node)?;
            ""
        };
        let tunnel = Tunnel {
            own: &Nodes::vtep4(port.node),
            remote: &Nodes::vtep4(other.node),
            key: VNI,
        };
        let folder = nodes.path(&format!("ovs{}", port.node));
        switches.push(Ovs::endpoint(&nodes.nodes[port.node], &folder, &tunnel, settings)?);
    }
    Ok(switches)
}

/// Creates a TAP device on a node, and connects it to the node's link by a bridge.
pub(crate) fn connect_by_bridge(node: &Namespace) -> Result<()> {
    for line in [
        "ip tuntap add dev tap0 mode tap vnet_hdr",
        "ip link add br1 type bridge",
        "ip link set br1 up",
        "ip link set eth0 master br1",
        "ip link set tap0 master br1 up",
    ] {
        node.run(line)?;
    }
    Ok(())
}

fn start(peer: Network, port: Port, nodes: &Nodes, switches: &[Ovs]) -> Result<Background> {
    let (node, path, mac) = (&nodes.nodes[port.node], socket(nodes, port), port.mac());
    let mut command = node.command(match peer {
        Network::Hawser | Network::Bridge => artifacts::hawser()?,
        Network::Ovs | Network::OvsTso => std::env::current_exe()?.with_file_name("tap"),
    });
    match peer {
        Network::Hawser => {
            let other = PORTS[1 - port.node];
            command
                .args(["--mode=layer2", "--ipv4=10.100.0.0/24"])
                .arg(format!("--vni={VNI}"))
                .arg(format!("--vtep={}", Nodes::vtep4(port.node)))
                .arg(format!("--guest-address={}", port.address4()))
                .arg(format!(
                    "--peer={},{}@{},frames",
                    other.mac(),
                    other.address4(),
                    Nodes::vtep4(other.node)
                ));
        }
        Network::Bridge => {
            connect_by_bridge(node)?;
            command.args(["--mode=bridge", "--tap=tap0"]);
        }
        Network::Ovs => drop(command.arg(&path).args(["tap0", &mac, "without-offloads"])),
        Network::OvsTso => drop(command.arg(&path).args(["tap0", &mac])),
    }
    if matches!(peer, Network::Hawser | Network::Bridge) {
        command
            .arg(format!("--mac={mac}"))
            .arg(format!("--socket-path={}", path.display()));
    }
    let mut process = Background::start(command, peer.key(), path.with_extension("log"))?;
    process.wait_for_socket(&path, PATIENCE)?;
    if let Some(switch) = switches.get(port.node) {
        node.run("ip link set tap0 up")?;
        switch.vsctl("add-port br-int tap0")?;
    }
    Ok(process)
}

fn boot(peer: Network, port: Port, nodes: &Nodes, surroundings: &Surroundings) -> Result<Guest> {
    let mut plan = Plan::new(Kind::Uml, &socket(nodes, port));
    surroundings.apply_to_guest(&mut plan, port.node);
    let guest = plan.boot()?;
    let mtu = match peer {
        Network::Bridge => UNDERLAY_MTU,
        Network::Hawser | Network::Ovs | Network::OvsTso => nodes.inner_mtu(false),
    };
    guest.sh(&format!(
        "ip link set eth0 mtu {mtu} up && ip addr add {}/24 dev eth0",
        port.address4()
    ))?;
    if peer == Network::Ovs {
        // The datapath completes neither segments nor checksums.
        guest.sh("ethtool -K eth0 tx off tso off gso off")?;
    }
    Ok(guest)
}
