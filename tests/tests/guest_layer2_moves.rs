//! Tests of a VM on a network that spans nodes. The VM moves to another node, and the nodes share a store.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, Port, WORLD4};
use hawser_testkit::pings::longest_gap;
use hawser_testkit::{Result, artifacts, failure, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A VM on the primary network of its namespace. The VM has the name of its interface.
fn manifest(name: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: {name}, namespace: shop}}
spec:
  domain: {{devices: {{interfaces: [{{name: {name}, binding: {{name: l2bridge}}}}]}}}}
  networks: [{{name: {name}, pod: {{}}}}]
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {{name: primary-udn, namespace: shop}}
spec:
  topology: Layer2
  layer2: {{role: Primary, subnets: [192.168.254.0/24], ipam: {{lifecycle: Persistent}}}}
"
    )
}

/// A line of the peers file, for a VM and its node.
fn peer(last: u8, node: usize) -> String {
    format!("0a:58:c0:a8:fe:{last:02x},192.168.254.{last}@{}\n", Nodes::vtep4(node))
}

/// Replaces a file as a whole, as is necessary for a file that is followed.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

/// An environment whose nodes share a store and a peers file.
struct Cluster {
    nodes: Nodes,
    folder: PathBuf,
    peers: PathBuf,
}

impl Cluster {
    fn new() -> Result<Self> {
        let nodes = Nodes::new(3, 1500)?;
        let folder = nodes.path("cluster");
        fs::create_dir_all(&folder)?;
        let peers = folder.join("peers");
        Ok(Self { nodes, folder, peers })
    }

    /// Runs a VM on a node. DHCP configures its NIC.
    fn run(&self, name: &str, node: usize) -> Result<(Hawser, Guest)> {
        let file = self.folder.join(format!("{name}.yaml"));
        fs::write(&file, manifest(name))?;
        let peers = format!("--peers={}", self.peers.display());
        let api = format!("--api-socket={}", self.folder.join(format!("{name}.api")).display());
        let options = ["--vni=4711", &peers, &api];
        let hawser = Hawser::run_with(&self.nodes.nodes[node], &file, &self.folder, &[name], &options)?;
        let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
        guest.sh("net-up 4")?;
        Ok((hawser, guest))
    }
}

/// The MAC and IPv4 address of a guest's NIC.
fn identity(guest: &Guest) -> Result<(String, String)> {
    let mac = guest.sh("cat /sys/class/net/eth0/address")?.trim().to_owned();
    let addresses = guest.sh("ip -o -4 addr show dev eth0")?;
    let address = addresses.split_whitespace().find(|word| word.contains('/'));
    Ok((mac, address.unwrap_or_default().to_owned()))
}

#[test]
fn a_vm_that_moves_to_another_node_keeps_its_mac_and_address_and_is_found_there() -> Result<()> {
    let cluster = Cluster::new()?;
    replace(&cluster.peers, &format!("{}{}", peer(3, 0), peer(4, 1)))?;
    let (process, mover) = cluster.run("mover", 0)?;
    let (_stays, stayer) = cluster.run("stayer", 1)?;
    let of = |last: u8| (format!("0a:58:c0:a8:fe:{last:02x}"), format!("192.168.254.{last}/24"));
    assert_eq!(identity(&mover)?, of(3));
    assert_eq!(identity(&stayer)?, of(4));
    stayer.reaches("192.168.254.3")?;
    drop(mover);
    process.stop()?;
    // No other VM gets the address in the meantime.
    replace(&cluster.peers, &format!("{}{}{}", peer(3, 2), peer(4, 1), peer(5, 0)))?;
    let (_late, late) = cluster.run("late", 0)?;
    assert_eq!(identity(&late)?, of(5));
    let (_moved, mover) = cluster.run("mover", 2)?;
    assert_eq!(identity(&mover)?, of(3));
    until("the others reach the VM on its new node", || {
        let pings = [&stayer, &late].map(|guest| guest.run("ping -c 1 -W 1 192.168.254.3"));
        let [first, second] = pings;
        Ok(first?.status == Some(0) && second?.status == Some(0))
    })?;
    mover.reaches(WORLD4)?;
    Ok(())
}

/// Requests that a guest has received, by the kernel's count.
fn echoes(guest: &Guest) -> Result<u64> {
    let text = guest.sh("grep ^Icmp: /proc/net/snmp")?;
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let at = names.iter().position(|name| *name == "InEchos");
    Ok(at
        .and_then(|at| values.get(at))
        .ok_or_else(|| failure(text.clone()))?
        .parse()?)
}

/// A third guest sends without a pause while the binding of a guest moves to a process on another node. The process that
/// has lost the guest is silent and passes on what is late, so nothing is lost although the sender learns of the move
/// last.
#[test]
fn a_binding_moves_under_traffic_and_nothing_is_lost() -> Result<()> {
    const SENT: u64 = 300;
    /// Time between two requests, in seconds.
    const BEAT: f64 = 0.01;
    let nodes = Nodes::new(3, 1500)?;
    let sender = Port::new(2, 12);
    let places = [Port::new(0, 11), Port::new(1, 11)];
    let start = |port: Port, peers: &[String]| -> Result<(Hawser, Guest, String)> {
        let folder = nodes.path(&format!("node{}", port.node));
        fs::create_dir(&folder)?;
        let api = format!("--api-socket={}", folder.join("api.sock").display());
        let options = [
            "--mode=layer2".to_owned(),
            "--vni=4711".to_owned(),
            format!("--mac={}", port.mac()),
            format!("--guest-address={},{}", port.address4(), port.address6()),
            "--ipv4=10.100.0.0/24".to_owned(),
            "--ipv6=fd00:100::/64".to_owned(),
            format!("--vtep={}", Nodes::vtep4(port.node)),
            api.clone(),
        ];
        let options: Vec<&str> = options.iter().chain(peers).map(String::as_str).collect();
        let hawser = Hawser::start(&nodes.nodes[port.node], &folder.join("vm.sock"), &options)?;
        let guest = Plan::new(Kind::Uml, hawser.socket()).boot()?;
        guest.sh(&format!(
            "ip link set eth0 up && ip addr add {}/24 dev eth0",
            port.address4()
        ))?;
        Ok((hawser, guest, api))
    };
    let line = |port: Port| port.peer(false);
    let elsewhere = |port: Port| line(port) + ",moved";
    let (mut source, left, source_api) = start(places[0], &[line(sender)])?;
    let (mut target, arrived, target_api) = start(places[1], &[line(sender), elsewhere(places[0])])?;
    let (_hawser, guest, sender_api) = start(sender, &[line(places[0])])?;
    let flip = |api: &str, peers: &[String]| -> Result<()> {
        let peers = peers.iter().map(|peer| peer.replace("--peer=", ""));
        let mut command = Command::new(artifacts::hawser()?);
        command.args(["peers", "replace", "--epoch=2", api]).args(peers);
        let output = command.output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or_else(|| failure(error))
    };

    let address = places[0].address4();
    guest.reaches(&address)?;
    let before = echoes(&left)?;
    let pings = format!("ping -i {BEAT} -c {SENT} -W 2 {address}");
    let pinging = guest.start(&pings, Duration::from_secs(60))?;
    until(
        "requests arrive at the first place",
        || Ok(echoes(&left)? > before + 20),
    )?;
    assert_eq!(echoes(&arrived)?, 0);
    flip(&target_api, &[line(sender)])?;
    flip(&source_api, &[line(sender), elsewhere(places[1])])?;
    source.wait_for_counters("late requests", |counters| counters.get("tunnel_passed_on") >= 5)?;
    flip(&sender_api, &[line(places[1])])?;
    let output = pinging.wait(Duration::from_secs(60))?.out;
    let (first, second) = (echoes(&left)? - before, echoes(&arrived)?);
    assert_eq!(first + second, SENT, "{first} and {second}");
    let gap = longest_gap(&output, BEAT).ok_or_else(|| failure(output))?;
    println!("{first} requests to the first place, {second} to the second; longest gap {gap:?}");

    // The guest that was left behind reaches no other, and the other one has its place.
    assert_ne!(left.run("ping -c 1 -W 1 10.100.0.12")?.status, Some(0));
    let counters = source.counters()?;
    assert!(counters.dropped("moved_away") > 0);
    arrived.reaches("10.100.0.12")?;
    guest.reaches(&address)?;
    target.assert_alive()
}
