//! Networks that span nodes, from the manifests of their users.

use hawser_testkit::Result;
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, PORT, WORLD4};
use std::fs;
use std::path::PathBuf;

/// A VM from a tutorial for OpenShift, with disks and cloud-init.
const VM: &str = r"apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  labels:
    kubevirt.io/vm: fedora-udn
  name: fedora-udn
  namespace: vmexamples-user1-udn
spec:
  dataVolumeTemplates:
    - apiVersion: cdi.kubevirt.io/v1beta1
      kind: DataVolume
      metadata:
        creationTimestamp: null
        name: fedora-udn
      spec:
        sourceRef:
          kind: DataSource
          name: fedora
          namespace: openshift-virtualization-os-images
        storage:
          resources:
            requests:
              storage: 30Gi
  runStrategy: Always
  template:
    metadata:
      name: fedora-udn
      namespace: vmexamples-user1-udn
    spec:
      domain:
        devices:
          disks:
          - disk:
              bus: virtio
            name: rootdisk
          - disk:
              bus: virtio
            name: cloudinitdisk
          interfaces:
          - name: primary-udn
            binding:
              name: l2bridge
          rng: {}
        resources:
          requests:
            memory: 2048M
      networks:
      - pod: {}
        name: primary-udn
      terminationGracePeriodSeconds: 0
      volumes:
      - dataVolume:
          name: fedora-udn
        name: rootdisk
      - cloudInitNoCloud:
          userData: |-
            #cloud-config
            user: fedora
            password: fedora
            chpasswd: { expire: False }
        name: cloudinitdisk
";

/// The network that the tutorial's web console creates.
const NETWORK: &str = "---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata:
  name: primary-udn
  namespace: vmexamples-user1-udn
spec:
  topology: Layer2
  layer2:
    role: Primary
    subnets:
    - 192.168.254.0/24
";

/// Name of the VMs' interface.
const NIC: &str = "primary-udn";
/// Address of the first VM: the first one after those of the gateway and the node.
const FIRST: &str = "192.168.254.3";
/// Address that the second VM requests.
const SECOND: &str = "192.168.254.11";

/// A VM on a node: its manifests, its hawser and its guest.
struct Placed {
    folder: PathBuf,
    hawser: Hawser,
    guest: Guest,
}

/// Serves a VM's manifests on a node, and boots its guest.
fn place(nodes: &Nodes, node: usize, vm: &str, peers: &str) -> Result<Placed> {
    let folder = nodes.path(&format!("node{node}"));
    fs::create_dir_all(&folder)?;
    let (manifest, peers_file) = (folder.join("vm.yaml"), folder.join("peers.txt"));
    fs::write(&manifest, format!("{vm}{NETWORK}"))?;
    fs::write(&peers_file, peers)?;
    let (hawser, guest) = serve(nodes, node, &folder)?;
    Ok(Placed { folder, hawser, guest })
}

fn serve(nodes: &Nodes, node: usize, folder: &std::path::Path) -> Result<(Hawser, Guest)> {
    let options = [
        "--vni=4711".to_owned(),
        format!("--vtep={}", Nodes::vtep4(node)),
        format!("--peers={NIC}={}", folder.join("peers.txt").display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let hawser = Hawser::run_with(&nodes.nodes[node], &folder.join("vm.yaml"), folder, &[NIC], &options)?;
    let guest = Plan::new(Kind::Uml, &folder.join(format!("{NIC}.sock"))).boot()?;
    guest.sh("net-up 4")?;
    Ok((hawser, guest))
}

#[test]
fn a_vm_on_a_user_defined_network_reaches_a_vm_of_another_node_and_the_world() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    nodes.serve_world(WORLD4)?;
    // The MACs are derived from the addresses, so the file can be written before anything runs.
    let peers = format!(
        "0a:58:c0:a8:fe:03,{FIRST}@{}\n0a:58:c0:a8:fe:0b,{SECOND}@{}\n",
        Nodes::vtep4(0),
        Nodes::vtep4(1)
    );
    let second = VM.replace(
        "  template:\n    metadata:\n",
        &format!(
            "  template:\n    metadata:\n      annotations:\n        network.kubevirt.io/addresses: '{{\"{NIC}\": \
             [\"{SECOND}/24\"]}}'\n"
        ),
    );
    let first = place(&nodes, 0, VM, &peers)?;
    let second = place(&nodes, 1, &second.replace("fedora-udn", "fedora-udn-2"), &peers)?;
    for (vm, address, name) in [(&first, FIRST, "fedora-udn"), (&second, SECOND, "fedora-udn-2")] {
        let addresses = vm.guest.sh("ip -o -4 addr show dev eth0")?;
        assert!(addresses.contains(&format!("{address}/24")), "{addresses}");
        let route = vm.guest.sh("ip route show default")?;
        assert!(route.contains("via 192.168.254.1 "), "{route}");
        vm.guest
            .sh("udhcpc -i eth0 -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc -O hostname")?;
        let told = vm.guest.sh("cat /run/dhcp4")?;
        assert!(told.lines().any(|line| line == format!("hostname={name}")), "{told}");
    }
    let _server = second.guest.serve(&format!("0.0.0.0:{PORT}"))?;
    first.guest.sh(&format!("ping -c 2 -W 2 {SECOND}"))?;
    for command in ["send", "receive"] {
        first
            .guest
            .traffic(&format!("{command} to={SECOND}:{PORT} bytes=5000000 connections=2"))?;
    }
    for vm in [&first, &second] {
        vm.guest.sh(&format!("ping -c 1 -W 2 {WORLD4}"))?;
        vm.guest.traffic(&format!("receive to={WORLD4}:{PORT} bytes=2000000"))?;
    }
    // The lease outlives the process.
    let Placed { folder, hawser, guest } = first;
    drop(guest);
    hawser.stop()?;
    let (mut hawser, guest) = serve(&nodes, 0, &folder)?;
    let addresses = guest.sh("ip -o -4 addr show dev eth0")?;
    assert!(addresses.contains(&format!("{FIRST}/24")), "{addresses}");
    guest.sh(&format!("ping -c 2 -W 2 {SECOND}"))?;
    hawser.assert_alive()
}
