//! Tests of a real guest with several NICs that migrates with its connections, by QEMU.

use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::hawser::Hawser;
use hawser_testkit::migrating::{Client, channels};
use hawser_testkit::nodes::{Nodes, PORT, Port, WORLD4};
use hawser_testkit::{Result, until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// NICs of the guest, with their MACs.
const NICS: [(&str, &str); 3] = [
    ("default", "52:54:00:00:00:20"),
    ("lan", "52:54:00:00:00:21"),
    ("red", "52:54:00:00:00:22"),
];
/// Address of the world on the guest's segment.
const LAN_WORLD: &str = "192.0.2.1";
/// Address of the guest on it.
const LAN_GUEST: &str = "192.0.2.50";

/// A VM on the pod network, on a bridge and on a network that spans nodes.
fn manifest() -> String {
    let [(_, default), (_, lan), (_, red)] = NICS;
    format!(
        r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: vm1
  annotations: {{network.kubevirt.io/addresses: '{{"red": ["10.1.0.11/24"]}}'}}
spec:
  domain:
    devices:
      interfaces:
      - {{name: default, masquerade: {{}}, macAddress: "{default}", ports: [{{port: {PORT}}}]}}
      - {{name: lan, bridge: {{}}, macAddress: "{lan}"}}
      - {{name: red, bridge: {{}}, macAddress: "{red}"}}
  networks:
  - {{name: default, pod: {{}}}}
  - {{name: lan, multus: {{networkName: lan}}}}
  - {{name: red, multus: {{networkName: red}}}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: lan}}
spec:
  config: '{{"cniVersion": "1.0.0", "type": "bridge", "bridge": "br1"}}'
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {{name: red}}
spec:
  topology: Layer2
  layer2: {{role: Secondary, subnets: [10.1.0.0/24]}}
"#
    )
}

/// Connects a bridge of each node to a segment of the world.
fn lan(nodes: &Nodes) -> Result<()> {
    let world = &nodes.world;
    world.run("ip link add seg0 type bridge")?;
    world.run(&format!("ip addr add {LAN_WORLD}/24 dev seg0"))?;
    world.run("ip link set seg0 up")?;
    for (number, node) in nodes.nodes.iter().enumerate() {
        node.run("ip link add br1 type bridge")?;
        node.run(&format!(
            "ip link add lan0 type veth peer name lan{number} netns {}",
            world.path()
        ))?;
        node.run("ip link set lan0 master br1 up")?;
        node.run("ip link set br1 up")?;
        world.run(&format!("ip link set lan{number} master seg0 up"))?;
    }
    Ok(())
}

/// Serves the VM on a node, as the target of a migration, too.
fn serve(nodes: &Nodes, node: usize, manifest: &str) -> Result<(Hawser, PathBuf)> {
    let folder = nodes.path(&format!("node{node}"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("vm.yaml"), manifest)?;
    let peers = folder.join("red.peers");
    fs::write(&peers, format!("{},10.1.0.11@{}\n", NICS[2].1, Nodes::vtep4(node)))?;
    let options = [
        "--vni=red=1".to_owned(),
        format!("--vtep={}", Nodes::vtep4(node)),
        format!("--peers=red={}", peers.display()),
        format!("--migration-socket={}", folder.join("arrivals.sock").display()),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let nics = NICS.map(|(name, _)| name);
    let hawser = Hawser::run_with(&nodes.nodes[node], &folder.join("vm.yaml"), &folder, &nics, &options)?;
    Ok((hawser, folder))
}

/// Options for the guest on the NICs of a process, in the same slots everywhere.
fn plan(folder: &Path) -> Plan {
    let socket = |name: &str| folder.join(format!("{name}.sock"));
    let more = NICS[1..].iter().enumerate().flat_map(|(at, (name, mac))| {
        let slot = at + 0x10;
        [
            "-chardev".to_owned(),
            format!("socket,id={name},path={}", socket(name).display()),
            "-netdev".to_owned(),
            format!("vhost-user,id={name},chardev={name}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev={name},addr={slot:#x},mac={mac},romfile="),
        ]
    });
    Plan {
        memory_mib: 256,
        mac: Some(NICS[0].1.to_owned()),
        properties: vec!["addr=0x8".to_owned()],
        arguments: more.collect(),
        ..Plan::new(Kind::Qemu, &socket(NICS[0].0))
    }
}

/// The phases of the channels of a process, by NIC.
fn phases(folder: &Path) -> Result<Vec<(String, String)>> {
    let all = channels(&folder.join("api.sock"), &["status"])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut phases: Vec<_> = all
        .iter()
        .map(|one| (text(&one["port"]), text(&one["phase"])))
        .collect();
    phases.sort();
    Ok(phases)
}

fn all_are(phase: &str) -> Vec<(String, String)> {
    NICS.map(|(name, _)| (name.to_owned(), phase.to_owned())).to_vec()
}

#[test]
fn a_guest_with_nics_of_three_modes_migrates_with_all_of_them_by_one_command() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    lan(&nodes)?;
    nodes.serve_world(WORLD4)?;
    let on_lan = nodes.serve_world(LAN_WORLD)?;
    let (source, from) = serve(&nodes, 0, &manifest())?;
    let (target, to) = serve(&nodes, 1, &manifest())?;
    let mut guest = plan(&from).boot_to_migrate()?;
    guest.sh("net-up 4")?;
    guest.sh(&format!("ip link set eth1 up && ip addr add {LAN_GUEST}/24 dev eth1"))?;
    guest.sh("ip link set eth2 up && udhcpc -i eth2 -n -q -f -t 10 -T 1 -s /etc/hawser/udhcpc")?;
    let _server = guest.serve(&format!("0.0.0.0:{PORT}"))?;
    let mut client = Client::to(&nodes, &format!("{}:{PORT}", Nodes::vtep4(0)))?;
    client.exchange("before")?;
    let streams = [
        guest.traffic_lasting(&format!("rounds to={WORLD4}:{PORT} bytes=700"))?,
        guest.traffic_lasting(&format!("rounds to={on_lan} bytes=700"))?,
    ];

    let prepare = format!("--to={}", to.join("arrivals.sock").display());
    channels(&from.join("api.sock"), &["prepare", &prepare])?;
    assert_eq!(phases(&from)?, all_are("ready"));
    // All of them end by one command, and are opened again.
    channels(&from.join("api.sock"), &["abort"])?;
    until("the channels have ended", || {
        Ok(phases(&from)? == all_are("ended") && phases(&to)? == all_are("ended"))
    })?;
    channels(&from.join("api.sock"), &["prepare", &prepare])?;
    let incoming = plan(&to).incoming(&guest)?;
    guest.migrate(incoming)?;
    client.exchange("after")?;
    until("the channels carry what there is", || {
        Ok(phases(&to)? == all_are("anchored"))
    })?;
    for stream in &streams {
        stream.assert_lasts()?;
        stream.end(&guest)?;
    }
    let addresses = guest.sh("ip -o -4 addr show")?;
    assert!(addresses.contains("10.1.0.11/24"), "{addresses}");
    guest.traffic(&format!("receive to={on_lan} bytes=1000000"))?;
    let moved = channels(&to.join("api.sock"), &["status"])?;
    let of_default = moved.iter().find(|one| one["port"] == "default");
    assert!(
        of_default.is_some_and(|one| one["moved"].as_u64() >= Some(2)),
        "{moved:?}"
    );
    drop(guest);
    source.stop()?;
    target.stop()
}

#[test]
fn if_one_nic_differs_no_channel_is_opened_and_the_difference_is_said() -> Result<()> {
    let nodes = Nodes::new(2, 1500)?;
    lan(&nodes)?;
    let (source, from) = serve(&nodes, 0, &manifest())?;
    let other = manifest().replace(NICS[1].1, "52:54:00:00:00:99");
    let (target, to) = serve(&nodes, 1, &other)?;
    let prepare = format!("--to={}", to.join("arrivals.sock").display());
    let refused = channels(&from.join("api.sock"), &["prepare", &prepare]).map_err(|error| error.to_string());
    let why = "lan: the other hawser refused: the target serves several NICs, and none with the MAC 52:54:00:00:00:21";
    assert!(refused.as_ref().is_err_and(|said| said.contains(why)), "{refused:?}");
    until("no channel is open", || Ok(phases(&from)? == all_are("ended")))?;
    source.stop()?;
    target.stop()
}

#[test]
fn connections_through_the_gateway_of_a_layer2_network_go_on_in_another_process() -> Result<()> {
    let mut nodes = Nodes::new(2, 1500)?;
    let world = nodes.serve_world(WORLD4)?;
    let process = |node: usize| {
        let [api, arrivals] = ["api", "arrivals"].map(|name| nodes.path(&format!("{name}{node}.sock")));
        let options = [
            format!("--vtep={}", Nodes::vtep4(node)),
            format!("--api-socket={}", api.display()),
            format!("--migration-socket={}", arrivals.display()),
        ];
        // The two processes have sockets of different names.
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let vni = 7 + u32::try_from(node)?;
        let hawser = nodes.hawser(vni, Port::new(node, 11), &options)?;
        Result::Ok((hawser, api, arrivals))
    };
    let (source, api, _) = process(0)?;
    let (target, _, arrivals) = process(1)?;
    let plan = |hawser: &Hawser| Plan {
        memory_mib: 256,
        mac: Some(Port::new(0, 11).mac()),
        ..Plan::new(Kind::Qemu, hawser.socket())
    };
    let mut guest = plan(&source).boot_to_migrate()?;
    guest.sh("net-up 4")?;
    let stream = guest.traffic_lasting(&format!("rounds to={world} bytes=700"))?;
    channels(&api, &["prepare", &format!("--to={}", arrivals.display())])?;
    let incoming = plan(&target).incoming(&guest)?;
    guest.migrate(incoming)?;
    until("the connection is carried", || {
        let all = channels(&api, &["status"])?;
        Ok(all.iter().any(|one| one["phase"] == "anchored" && one["carried"] == 1))
    })?;
    stream.assert_lasts()?;
    stream.end(&guest)?;
    guest.traffic(&format!("receive to={world} bytes=100000"))?;
    drop(guest);
    source.stop()?;
    target.stop()
}

/// Datagrams that the guest has received for a port without a socket.
fn unheard(guest: &Guest) -> Result<u64> {
    let text = guest.sh("grep Udp: /proc/net/snmp | tail -n 1")?;
    let field = text.split_whitespace().nth(2);
    Ok(field.unwrap_or_default().parse()?)
}

#[test]
fn what_peers_of_a_layer2_network_send_while_the_guest_is_stopped_reaches_it_in_the_target() -> Result<()> {
    const VNI: u32 = 7;
    const SENT: u64 = 20;
    let nodes = Nodes::new(3, 1500)?;
    let [moving, other] = [Port::new(0, 11), Port::new(2, 12)];
    let [api, arrivals] = ["api.sock", "arrivals.sock"].map(|name| nodes.path(name));
    let with_api = format!("--api-socket={}", api.display());
    let vtep = |node| format!("--vtep={}", Nodes::vtep4(node));
    let source = nodes.hawser(VNI, moving, &[&vtep(0), &other.peer(false), &with_api])?;
    let peer = nodes.hawser(VNI, other, &[&vtep(2), &moving.peer(false)])?;
    let options = [
        "--mode=layer2".to_owned(),
        format!("--vni={VNI}"),
        format!("--mac={}", moving.mac()),
        format!("--guest-address={},{}", moving.address4(), moving.address6()),
        "--ipv4=10.100.0.0/24".to_owned(),
        "--ipv6=fd00:100::/64".to_owned(),
        vtep(1),
        other.peer(false),
        format!("--migration-socket={}", arrivals.display()),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let target = Hawser::start(&nodes.nodes[1], &nodes.path("target.sock"), &options)?;
    let plan = |hawser: &Hawser| Plan {
        memory_mib: 256,
        mac: Some(moving.mac()),
        ..Plan::new(Kind::Qemu, hawser.socket())
    };
    let mut guest = plan(&source).boot_to_migrate()?;
    guest.sh("net-up 4")?;
    let sender = nodes.guest(Kind::Uml, &peer)?;
    sender.reaches(&moving.address4())?;
    let before = unheard(&guest)?;
    channels(&api, &["prepare", &format!("--to={}", arrivals.display())])?;
    let incoming = plan(&target).incoming(&guest)?;
    guest.pause_before_switchover()?;
    guest.begin_migration(&incoming)?;
    guest.monitor()?.wait_for_migration("pre-switchover")?;
    let sizes = vec!["100"; usize::try_from(SENT)?].join(",");
    sender.traffic(&format!("datagram to={}:9 sizes={sizes}", moving.address4()))?;
    guest.continue_migration()?;
    guest.finish_migration(incoming)?;
    until("they have arrived", || Ok(unheard(&guest)? >= before + SENT))?;
    assert_eq!(unheard(&guest)?, before + SENT);
    drop(guest);
    source.stop()?;
    target.stop()
}
