//! Tests of networks that span nodes, served from the manifests of their users.

use hawser_testkit::Result;
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::nodes::{Nodes, PORT, WORLD4};
use std::fs;
use std::path::{Path, PathBuf};

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
/// Address of the first VM. It follows those of the gateway and the node.
const FIRST: &str = "192.168.254.3";
/// Address that the second VM requests.
const SECOND: &str = "192.168.254.11";

/// A VM on a node: its manifests, its hawser process and its guest.
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

fn serve(nodes: &Nodes, node: usize, folder: &Path) -> Result<(Hawser, Guest)> {
    serve_with(nodes, node, folder, &[])
}

fn serve_with(nodes: &Nodes, node: usize, folder: &Path, more: &[&str]) -> Result<(Hawser, Guest)> {
    let options = [
        "--vni=4711".to_owned(),
        format!("--vtep={}", Nodes::vtep4(node)),
        format!("--peers={NIC}={}", folder.join("peers.txt").display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let hawser = Hawser::run_with(&nodes.nodes[node], &folder.join("vm.yaml"), folder, &[NIC], &options)?;
    let guest = Plan::new(Kind::Uml, &folder.join(format!("{NIC}.sock"))).boot()?;
    guest.sh("net-up 4")?;
    Ok((hawser, guest))
}

#[test]
fn a_vm_on_a_user_defined_network_reaches_a_vm_of_another_node_and_the_world() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    nodes.serve_world(WORLD4)?;
    // The MACs are derived from the addresses, so the file can be written before any process runs.
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
        vm.guest.reaches(WORLD4)?;
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

/// A VM on two secondary networks.
const TWO_NETWORKS: &str = r"apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm-NUMBER
spec:
  runStrategy: Always
  template:
    metadata:
      annotations:
        network.kubevirt.io/addresses: '{RED, BLUE}'
    spec:
      domain:
        devices:
          interfaces:
          - {name: red, bridge: {}}
          - {name: blue, binding: {name: l2bridge}}
        resources: {requests: {memory: 512M}}
      networks:
      - {name: red, multus: {networkName: red}}
      - {name: blue, multus: {networkName: blue}}
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {name: red}
spec:
  topology: Layer2
  layer2: {role: Secondary, subnets: [10.1.0.0/24]}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: blue}
spec:
  config: |
    {
      'cniVersion': '1.0.0', 'type': 'ovn-k8s-cni-overlay', 'name': 'blue', 'topology': 'layer2',
      'netAttachDefName': 'default/blue', 'subnets': '10.2.0.0/24'
    }
";

/// Name, identifier and port of each network.
const BOTH: [(&str, u32, u16); 2] = [("red", 1, 6081), ("blue", 0xff_ffff, 6082)];

/// Address of the VM on node number `node`, counted from 0, on one of [`BOTH`].
fn address(network: usize, node: usize) -> String {
    format!("10.{}.0.{}", network + 1, node + 11)
}

/// Serves the VM of a node on both networks, and boots its guest with addresses from DHCP.
fn place_on_two(nodes: &Nodes, node: usize) -> Result<(Hawser, Guest)> {
    let folder = nodes.path(&format!("node{node}"));
    fs::create_dir_all(&folder)?;
    let mut manifest = TWO_NETWORKS.replace('\'', "\"").replace("NUMBER", &node.to_string());
    manifest = manifest.replace("\"{RED, BLUE}\"", "'{RED, BLUE}'");
    let mut options = vec![format!("--vtep={}", Nodes::vtep4(node))];
    for (number, (network, vni, port)) in BOTH.into_iter().enumerate() {
        let asked = format!("\"{network}\": [\"{}/24\"]", address(number, node));
        manifest = manifest.replace(&network.to_uppercase(), &asked);
        let line = |node| {
            let host = node + 11;
            let (subnet, own) = (number + 1, address(number, node));
            format!(
                "0a:58:0a:{subnet:02x}:00:{host:02x},{own}@{}:{port}\n",
                Nodes::vtep4(node)
            )
        };
        let peers = folder.join(format!("{network}.peers"));
        fs::write(&peers, line(0) + &line(1))?;
        options.push(format!("--vni={network}={vni}"));
        options.push(format!("--vtep-port={network}={port}"));
        options.push(format!("--peers={network}={}", peers.display()));
    }
    fs::write(folder.join("vm.yaml"), manifest)?;
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let nics = BOTH.map(|(network, ..)| network);
    let hawser = Hawser::run_with(&nodes.nodes[node], &folder.join("vm.yaml"), &folder, &nics, &options)?;
    let [first, second] = nics.map(|nic| folder.join(format!("{nic}.sock")));
    let mut plan = Plan::new(Kind::Uml, &first);
    plan.more_sockets = vec![second];
    let guest = plan.boot()?;
    for nic in ["eth0", "eth1"] {
        guest.sh(&format!(
            "ip link set {nic} up && udhcpc -i {nic} -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc"
        ))?;
    }
    Ok((hawser, guest))
}

#[test]
fn a_vm_on_two_secondary_networks_reaches_the_vm_of_another_node_on_each_and_neither_leads_to_the_other() -> Result<()>
{
    let nodes = Nodes::new(2, 1500)?;
    let (mut first, guest) = place_on_two(&nodes, 0)?;
    let (mut second, other) = place_on_two(&nodes, 1)?;
    let _server = other.serve(&format!("0.0.0.0:{PORT}"))?;
    let known = guest.sh("ip -o -4 addr show")?;
    assert_eq!(guest.sh("ip route show default")?.trim(), "");
    for network in [0, 1] {
        let (own, far) = (address(network, 0), address(network, 1));
        assert!(known.contains(&format!("eth{network}    inet {own}/24")), "{known}");
        guest.sh(&format!("ping -c 2 -W 2 {far}"))?;
        guest.traffic(&format!("send to={far}:{PORT} bytes=2000000"))?;
        guest.traffic(&format!("udp to={far}:{PORT} sizes=1,1300 count=10"))?;
    }
    // Packets for one network are sent into the other. Each guest's address is known only in its own network.
    guest.sh("for nic in eth0 eth1; do sysctl -w net.ipv4.conf.$nic.rp_filter=0; done")?;
    for (network, link) in [(1, "eth0"), (0, "eth1")] {
        let far = address(network, 1);
        guest.sh(&format!(
            "ip route add {far}/32 dev {link} src {}",
            address(1 - network, 0)
        ))?;
        let ping = guest.run(&format!("ping -c 1 -W 1 {far}"))?;
        assert_ne!(ping.status, Some(0), "{ping:?}");
        guest.sh(&format!("ip route del {far}/32 dev {link}"))?;
        guest.reaches(&far)?;
    }
    first.assert_alive()?;
    second.assert_alive()
}

/// Tests the port security of a network from manifests: the guest can neither send from another guest's address nor
/// claim one.
#[test]
fn a_guest_of_a_manifest_sends_from_its_own_addresses_only_unless_an_option_allows_more() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    let peers = format!(
        "0a:58:c0:a8:fe:03,{FIRST}@{}\n0a:58:c0:a8:fe:0b,{SECOND}@{}\n",
        Nodes::vtep4(0),
        Nodes::vtep4(1)
    );
    let Placed {
        folder,
        mut hawser,
        guest,
    } = place(&nodes, 0, VM, &peers)?;
    let steal = |guest: &Guest| {
        guest.sh(
            "ip addr add 192.168.254.99/24 dev eth0; ip addr add fd00::99/64 dev eth0 nodad; \
             ping -c 1 -W 1 -I 192.168.254.99 192.168.254.1",
        )
    };
    assert!(steal(&guest).is_err(), "the gateway answered a stranger");
    let counters = hawser.wait_for_counters("frames from another address", |counters| {
        counters.dropped("spoofed_arp") + counters.dropped("spoofed_address") > 0
    })?;
    assert!(
        counters.dropped("closed_family") > 0,
        "the network has no IPv6: {counters:?}"
    );
    guest.reaches("192.168.254.1")?;
    drop(guest);
    hawser.stop()?;
    let (mut hawser, guest) = serve_with(&nodes, 0, &folder, &["--ip-spoof-check=off"])?;
    // The gateway's services answer only the guest's own address, so another address appears only in the counters.
    assert!(steal(&guest).is_err());
    let counters = hawser.counters()?;
    for reason in ["spoofed_arp", "closed_family"] {
        assert_eq!(counters.dropped(reason), 0, "{reason}");
    }
    guest.reaches("192.168.254.1")?;
    hawser.assert_alive()
}
