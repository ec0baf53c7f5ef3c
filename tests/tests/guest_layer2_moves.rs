//! Tests of a VM on a network that spans nodes. The VM moves to another node, and the nodes share a store.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, WORLD4};
use hawser_testkit::{Result, until};
use std::fs;
use std::path::{Path, PathBuf};

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
