//! Tests of `hawser run` on the manifests in docs/examples, with real guests.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::lab::Lab;
use hawser_testkit::netns::Namespace;
use hawser_testkit::netns::address::POD4;
use hawser_testkit::segment::{HOST4, PORT, Segment};
use hawser_testkit::sniffer::Sniffer;
use hawser_testkit::{Result, peers, until};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/examples")
        .join(name)
}

/// A UML guest with an unconfigured NIC for each of `nics`.
fn boot(folder: &Path, nics: &[&str]) -> Result<Guest> {
    let mut sockets = nics.iter().map(|nic| folder.join(format!("{nic}.sock")));
    let mut plan = Plan::new(Kind::Uml, &sockets.next().unwrap_or_default());
    plan.more_sockets = sockets.collect();
    plan.boot()
}

/// Serves the manifest in `namespace`, with a guest.
fn up(namespace: &Namespace, manifest: &Path, folder: &Path, nics: &[&str]) -> Result<(Hawser, Guest)> {
    let hawser = Hawser::run(namespace, manifest, folder, nics)?;
    let guest = boot(folder, nics)?;
    Ok((hawser, guest))
}

/// Creates a bridge of the segment's host. Returns a capture on one of its ports.
fn bridge(segment: &Segment, name: &str, mtu: u32) -> Result<Sniffer> {
    let ear = format!("{name}e");
    for line in [
        format!("ip link add {name} type bridge mcast_snooping 0"),
        format!("ip link add {ear} type veth peer name {ear}p"),
        format!("ip link set {ear}p mtu {mtu} master {name} up"),
        format!("ip link set {ear} mtu {mtu} up"),
        format!("ip link set {name} mtu {mtu} up"),
    ] {
        segment.host.run(&line)?;
    }
    Sniffer::start(&segment.host, segment.folder(), &ear)
}

fn ping(guest: &Guest, target: &str) -> Result<()> {
    guest.sh(&format!("ping -c 2 -W 2 {target}")).map(drop)
}

/// The names of a process's threads.
fn threads(id: u32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        names.push(fs::read_to_string(task?.path().join("comm"))?.trim().to_owned());
    }
    Ok(names)
}

#[test]
fn a_masqueraded_vm_is_configured_and_reached_as_its_manifest_says() -> Result<()> {
    let lab = Lab::new()?;
    let manifest = example("masquerade-ports.yaml");
    let (hawser, guest) = up(&lab.networks.pod, &manifest, lab.folder(), &["default"])?;
    guest.sh("ip link set eth0 up")?;
    guest.sh("udhcpc -i eth0 -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc -O ntpsrv -O hostname")?;
    let told = guest.sh("cat /run/dhcp4")?;
    for line in ["ip=10.0.2.2", "hostname=web", "ntpsrv=192.0.2.123"] {
        assert!(told.lines().any(|l| l == line), "{line} is not among:\n{told}");
    }
    let _servers = [80, 22].map(|port| guest.serve(&format!("0.0.0.0:{port}")));
    // The test tries two of the guest's ports, and the node port of its Service.
    for port in [80, 22, 30022] {
        peers::traffic(&lab.networks.world, &format!("send to={POD4}:{port} bytes=100000"))?;
    }
    drop(guest);
    hawser.stop()?;

    // A service mesh's proxy connects from the pod itself.
    let (hawser, guest) = up(&lab.networks.pod, &example("istio.yaml"), lab.folder(), &["default"])?;
    guest.sh("net-up 4")?;
    let _server = guest.serve("0.0.0.0:8080")?;
    let report = peers::traffic(&lab.networks.pod, "peer to=127.0.0.1:8080")?;
    assert_eq!(report["seen_ip"], "10.0.2.1", "{report}");
    drop(guest);
    hawser.stop()?;

    let manifest = example("dual-stack.yaml");
    let (hawser, guest) = up(&lab.networks.pod, &manifest, lab.folder(), &["default"])?;
    guest.net_up()?;
    assert_eq!(guest.sh("cat /sys/class/net/eth0/address")?.trim(), "02:00:00:00:00:10");
    let addresses = guest.sh("ip -o addr show dev eth0")?;
    for address in ["10.11.12.2/24", "fd10:11:12::2/128"] {
        assert!(addresses.contains(address), "{addresses}");
    }
    let _server = guest.serve("0.0.0.0:8009")?;
    peers::traffic(&lab.networks.world, &format!("send to={POD4}:8009 bytes=100000"))?;
    drop(guest);
    hawser.stop()
}

#[test]
fn three_nics_of_two_modes_are_one_process_and_what_ends_one_leaves_the_others() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve()?;
    let trunk = bridge(&segment, "br1", 1500)?;
    let _storage = bridge(&segment, "br2", 9000)?;
    segment.host.run("ip addr add 10.2.0.1/24 dev br2")?;
    let nics = ["default", "trunk", "storage"];
    let (mut hawser, guest) = up(&segment.host, &example("three-nics.yaml"), segment.folder(), &nics)?;

    guest.sh("net-up 4")?;
    guest.traffic(&format!("send to={HOST4}:{PORT} bytes=1000000"))?;
    guest.sh("ip link set eth1 up && ip addr add 10.1.0.2/24 dev eth1")?;
    guest.sh("ip link set eth2 up && ip addr add 10.2.0.2/24 dev eth2")?;
    // Untagged frames are in the native VLAN on the segment.
    guest.run("ping -c 1 -W 1 10.1.0.1")?;
    trunk.wait_for(1, "vlan 10 and arp")?;
    assert_eq!(guest.sh("cat /sys/class/net/eth2/mtu")?.trim(), "9000");
    guest.sh("ping -c 2 -W 2 -s 8972 10.2.0.1")?;

    let threads = threads(hawser.process().id())?;
    for name in nics {
        assert!(
            threads.iter().any(|t| t == name),
            "no thread is named {name}: {threads:?}"
        );
        assert!(threads.iter().any(|t| *t == format!("{name}-0")), "{threads:?}");
    }
    // One segment is removed. The others are not affected.
    segment.host.run("ip link del br2")?;
    guest.traffic(&format!("send to={HOST4}:{PORT} bytes=1000000"))?;
    guest.run("ping -c 1 -W 1 10.1.0.9")?;
    trunk.wait_for(1, "vlan 10 and arp and dst host 10.1.0.9")?;
    let resident = hawser.process().resident_kib()?;
    println!("resident memory with three NICs: {resident} KiB");
    // All three segments end with the VM, and the next VM finds all three again.
    drop(guest);
    let guest = boot(segment.folder(), &nics)?;
    guest.sh("net-up 4")?;
    ping(&guest, HOST4)?;
    drop(guest);
    hawser.process().signal(libc::SIGUSR1)?;
    hawser.process().wait_until("a report of each port", PATIENCE, |log| {
        nics.iter().all(|name| log.contains(&format!("port {name}:\n")))
    })?;
    hawser.stop()
}

#[test]
fn a_nic_on_a_bridge_is_in_its_vlan_and_sends_from_its_own_mac() -> Result<()> {
    let segment = Segment::new(1500)?;
    let ear = bridge(&segment, "br1", 1500)?;
    let manifest = example("cnv-bridge-vlan.yaml");
    let nics = ["default", "bridge-net"];
    let (mut hawser, guest) = up(&segment.host, &manifest, segment.folder(), &nics)?;
    guest.sh("net-up 4")?;
    ping(&guest, HOST4)?;
    guest.sh("ip link set eth1 up && ip addr add 10.1.0.2/24 dev eth1")?;
    guest.run("ping -c 1 -W 1 10.1.0.1")?;
    ear.wait_for(1, "ether src 02:00:00:00:01:00 and vlan 100 and arp")?;
    // A change of the MAC is refused, and the NIC keeps its own.
    let other = guest.run("ip link set eth1 down && ip link set eth1 address 02:00:00:00:01:99")?;
    assert_ne!(other.status, Some(0), "the card took another MAC");
    guest.sh("ip link set eth1 up && ip addr replace 10.1.0.2/24 dev eth1")?;
    guest.run("ping -c 1 -W 1 10.1.0.77")?;
    ear.wait_for(
        1,
        "ether src 02:00:00:00:01:00 and vlan 100 and arp and dst host 10.1.0.77",
    )?;
    assert_eq!(ear.seen("ether src 02:00:00:00:01:99")?, [""; 0]);
    hawser.assert_alive()
}

#[test]
fn addresses_come_from_the_segments_server_or_from_the_manifest() -> Result<()> {
    let mut segment = Segment::new(1500)?;
    segment.serve_dhcp()?;
    segment.host.run("ip link add eth1 type veth peer name eth1p")?;
    segment.enslave("eth1p")?;
    segment.host.run("ip link set eth1 up")?;
    let manifest = example("macvlan-dhcp.yaml");
    let (hawser, guest) = up(&segment.host, &manifest, segment.folder(), &["wire"])?;
    guest.sh("net-up 4")?;
    assert!(guest.sh("cat /run/dhcp4")?.contains(&format!("serverid={HOST4}")));
    drop(guest);
    hawser.stop()?;

    // The guest gets an address from a range, and the same address again after a kill.
    segment.host.run("ip link add test-bridge type bridge")?;
    segment.host.run("ip addr add 10.10.0.254/16 dev test-bridge")?;
    segment.host.run("ip link set test-bridge up")?;
    let manifest = example("bridge-host-local.yaml");
    let mut macs = BTreeSet::new();
    for _ in 0..2 {
        let (mut hawser, guest) = up(&segment.host, &manifest, segment.folder(), &["lan"])?;
        guest.sh("net-up 4")?;
        let told = guest.sh("cat /run/dhcp4")?;
        for line in ["ip=10.10.1.20", "mask=16", "router=10.10.0.254", "hostname=in-a-range"] {
            assert!(told.lines().any(|l| l == line), "{line} is not among:\n{told}");
        }
        ping(&guest, "10.10.0.254")?;
        macs.insert(guest.sh("cat /sys/class/net/eth0/address")?);
        hawser.process().kill();
        drop(guest);
    }
    assert_eq!(macs.len(), 1, "{macs:?}");

    let manifest = segment.path("static.yaml");
    fs::write(&manifest, STATIC)?;
    let (hawser, guest) = up(&segment.host, &manifest, segment.folder(), &["lan"])?;
    guest.sh("net-up 4")?;
    let told = guest.sh("cat /run/dhcp4")?;
    for line in [
        "ip=192.0.2.77",
        "router=192.0.2.1",
        "hostname=fixed",
        "dns=192.0.2.53",
        "domain=lan.example",
        "search=lan.example wide.example",
        "staticroutes=198.51.100.0/24 192.0.2.9 0.0.0.0/0 192.0.2.1",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} is not among:\n{told}");
    }
    ping(&guest, HOST4)?;
    // The address comes from DHCPv6, without a router advertisement.
    until("the guest's own address of its link", || {
        let addresses = guest.sh("ip -6 addr show dev eth0 scope link")?;
        Ok(addresses.contains("inet6") && !addresses.contains("tentative"))
    })?;
    guest.sh("dhclient -6 -1 -sf /etc/hawser/dhclient6 -lf /run/leases6 -pf /run/pid6 eth0")?;
    assert!(guest.sh("ip -6 addr show dev eth0")?.contains("2001:db8:77::5/"));
    assert!(guest.sh("ip -6 route show dev eth0")?.contains("2001:db8:77::/64"));
    assert_eq!(guest.sh("ip -6 route show default")?, "");
    drop(guest);
    hawser.stop()
}

#[test]
fn a_vm_bridged_to_the_pod_network_takes_the_place_of_its_pod() -> Result<()> {
    let lab = Lab::with_link_mtu(1400)?;
    let (pod, world) = (&lab.networks.pod, &lab.networks.world);
    let before = pod.run("ip -4 addr show dev eth0")?;
    let manifest = lab.path("bridged-pod.yaml");
    fs::write(&manifest, BRIDGED_POD)?;
    let (hawser, guest) = up(pod, &manifest, lab.folder(), &["default"])?;
    guest.sh("net-up 4")?;
    let told = guest.sh("cat /run/dhcp4")?;
    for line in [
        &format!("ip={POD4}"),
        "serverid=169.254.75.10",
        "mtu=1400",
        "hostname=bridged",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} is not among:\n{told}");
    }
    let _server = guest.serve("0.0.0.0:7000")?;
    peers::traffic(world, &format!("send to={POD4}:7000 bytes=1000000"))?;
    drop(guest);
    hawser.stop()?;
    assert_eq!(
        pod.run("ip -4 addr show dev eth0")?,
        before,
        "the pod has its address again"
    );
    Ok(())
}

/// KubeVirt's bridge binding of the pod network.
const BRIDGED_POD: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: bridged}
spec:
  domain: {devices: {interfaces: [{name: default, bridge: {}}]}}
  networks: [{name: default, pod: {}}]
"#;

/// A fixed address on the bridge of the environment, which has another DHCP server.
const STATIC: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan}
spec:
  config: |
    {"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0",
     "dns": {"nameservers": ["192.0.2.53"], "domain": "lan.example", "search": ["lan.example", "wide.example"]},
     "ipam": {"type": "static",
              "addresses": [{"address": "192.0.2.77/24", "gateway": "192.0.2.1"}, {"address": "2001:db8:77::5/64"}],
              "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.9"}, {"dst": "0.0.0.0/0"}]}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: fixed}
spec:
  domain: {devices: {interfaces: [{name: lan, bridge: {}, macAddress: "02:00:00:00:00:77"}]}}
  networks: [{name: lan, multus: {networkName: lan}}]
"#;
