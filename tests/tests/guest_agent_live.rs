//! Tests of moves of running VMs between agents: QEMU migrates a real guest while others send to it, and the binding of
//! its port follows.

use hawser_testkit::cluster::{Cluster, NETWORK, NIC, address, vm, vm_on};
use hawser_testkit::guest::{Guest, Kind, Plan};
use hawser_testkit::migrating::plan;
use hawser_testkit::nodes::{PORT, WORLD4};
use hawser_testkit::pings::Pings;
use hawser_testkit::{Result, failure, until};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Longest gap beyond the time for which QEMU stops the guest: the new QEMU translates the guest's code, and the agent
/// notices that the guest runs and binds its port.
const GAP: Duration = Duration::from_millis(1500);

/// Three nodes. The VM `stays` is on the last one, and `moves` on the first one, with a server.
struct Setting {
    cluster: Cluster,
    stays: Guest,
    moves: Guest,
    at: String,
}

/// The VM `moves`, as the agent of a node reports it.
fn view(cluster: &Cluster, node: usize) -> Result<Value> {
    let text = cluster.agents[node].http("/v1/objects?kind=vm&namespace=blue&name=moves")?;
    let answer: Value = serde_json::from_str(&text)?;
    Ok(answer["items"][0]["vm"].clone())
}

/// The options of the QEMU process of the VM on a node.
fn qemu(cluster: &Cluster, node: usize) -> Result<Plan> {
    let known = view(cluster, 2)?;
    let mac = known["status"]["interfaces"][0]["mac"].as_str().map(str::to_owned);
    let folder = cluster.agents[node].vm_folder("blue", "moves");
    Ok(Plan {
        mac: Some(mac.ok_or_else(|| failure(format!("the VM has no MAC: {known:#}")))?),
        ..plan(&folder.join(format!("{NIC}.sock")))
    })
}

impl Setting {
    fn new() -> Result<Self> {
        let mut cluster = Cluster::without_files(3)?;
        cluster.wait_ready(3)?;
        let agent = &cluster.agents[0];
        let network = agent.file("network.yaml", NETWORK)?;
        let stays = agent.file("stays.yaml", &vm_on("stays", 2))?;
        let moves = agent.file("moves.yaml", &vm_on("moves", 0))?;
        agent.sh(&format!("apply -f {network} -f {stays} -f {moves} --wait"))?;
        // The node is no longer required.
        let moves = agent.file("moves.yaml", &vm("moves"))?;
        agent.sh(&format!("apply -f {moves}"))?;
        let stays = cluster.boot(2, "stays")?;
        let moves = qemu(&cluster, 0)?.boot_to_migrate()?;
        moves.sh("net-up 4")?;
        moves.serve(&format!("0.0.0.0:{PORT}"))?;
        let at = address(&moves)?;
        stays.reaches(&at)?;
        Ok(Self {
            cluster,
            stays,
            moves,
            at,
        })
    }
}

#[test]
fn a_vm_moves_while_it_runs_and_its_connections_go_on() -> Result<()> {
    let Setting {
        cluster,
        stays,
        mut moves,
        at,
    } = Setting::new()?;
    let command = format!("hawser-traffic rounds to={at}:{PORT} count=100000 each=reuse");
    let running = stays.start(&command, Duration::from_secs(300))?;
    let pings = Pings::start(&stays, &at)?;
    let said = cluster.agents[1].sh("move moves -n blue --to n1 --live")?;
    let folder = cluster.agents[1].vm_folder("blue", "moves").display().to_string();
    assert!(
        said.contains("ready to move to node n1") && said.contains(&folder),
        "{said}"
    );
    let text = cluster.agents[2].sh("describe vm moves -n blue")?;
    assert!(
        text.contains("Node:         n0") && text.contains("Moving to:    n1 (Running there)"),
        "{text}"
    );
    for refused in [
        "stop moves -n blue",
        "move moves -n blue --to n2",
        "delete vm moves -n blue",
    ] {
        let (_, error) = cluster.agents[2].refused(refused)?;
        assert!(
            error.contains("is moving to node n1") && error.contains("--cancel"),
            "{error}"
        );
    }

    let incoming = qemu(&cluster, 1)?.incoming(&moves)?;
    assert_eq!(view(&cluster, 2)?["node"], "n0", "the guest has not moved yet");
    let stopped = moves.migrate(incoming)?;
    cluster.agents[2].sh("get vm moves -n blue")?;
    until("the VM is on its new node", || {
        let vm = view(&cluster, 2)?;
        Ok(vm["node"] == "n1" && vm["phase"] == "Running" && vm["moving"].is_null())
    })?;
    let gap = pings.longest_gap(&stays)?;
    println!(
        "longest gap {gap:?}, of which QEMU stopped the guest for {:?}",
        stopped.time
    );
    assert!(
        gap < stopped.time + GAP,
        "a gap of {gap:?}, of which QEMU stopped {stopped:?}"
    );
    assert!(running.poll().is_none(), "the connection has ended");
    moves.reaches(&address(&stays)?)?;
    assert_eq!(address(&moves)?, at);
    // The process that the guest has left ends once no late frames are to be expected.
    let folder = cluster.agents[0].vm_folder("blue", "moves");
    assert!(folder.exists(), "it passes on late frames");
    until("the first node has forgotten the VM", || Ok(!folder.exists()))?;
    stays.reaches(&at)?;
    // It may come back.
    cluster.agents[0].sh("move moves -n blue --to n0 --live")?;
    let incoming = qemu(&cluster, 0)?.incoming(&moves)?;
    moves.migrate(incoming)?;
    until("the VM is back", || Ok(view(&cluster, 2)?["node"] == "n0"))?;
    stays.reaches(&at)?;
    assert!(running.poll().is_none(), "the connection has ended");
    let left = cluster.etcd.keys(&cluster.nodes.world)?;
    assert!(!left.iter().any(|key| key.contains("/rec/arrival")), "{left:?}");
    Ok(())
}

#[test]
fn a_move_is_cancelled_before_the_guest_runs_and_completed_by_a_later_agent_after_that() -> Result<()> {
    let Setting {
        mut cluster,
        stays,
        mut moves,
        at,
    } = Setting::new()?;
    let before = cluster.agents[0].vm("moves")?["pid"].clone();
    cluster.agents[2].sh("move moves -n blue --to n1 --live")?;
    let said = cluster.agents[2].sh("move moves -n blue --cancel")?;
    assert!(said.contains("stays on node n0"), "{said}");
    let folder = cluster.agents[1].vm_folder("blue", "moves");
    until("the other node has forgotten the VM", || Ok(!folder.exists()))?;
    stays.reaches(&at)?;
    assert_eq!(cluster.agents[0].vm("moves")?["pid"], before);
    let left = cluster.etcd.keys(&cluster.nodes.world)?;
    assert!(!left.iter().any(|key| key.contains("/rec/arrival")), "{left:?}");

    // The guest migrates while no agent runs on its new node. The next one finds the process, and that it has the guest.
    cluster.agents[2].sh("move moves -n blue --to n1 --live")?;
    let pid = cluster.agents[1].vm("moves")?["pid"].clone();
    cluster.agents[1].kill();
    let incoming = qemu(&cluster, 1)?.incoming(&moves)?;
    moves.migrate(incoming)?;
    assert_ne!(stays.run(&format!("ping -c 1 -W 1 {at}"))?.status, Some(0));
    cluster.start(1)?;
    until("the VM is on its new node", || Ok(view(&cluster, 2)?["node"] == "n1"))?;
    until("it is reached there", || {
        Ok(stays.run(&format!("ping -c 1 -W 1 {at}"))?.status == Some(0))
    })?;
    assert_eq!(cluster.agents[1].vm("moves")?["pid"], pid);
    Ok(())
}

/// MAC of the NIC of the VM `many` that is in masquerade mode.
const MASQUERADED: &str = "02:00:00:00:00:10";
/// Its other NICs, which are on networks that span nodes: their names and those of the networks, the first bytes of their
/// addresses, and their MACs.
const LANS: [(&str, &str, &str); 2] = [
    ("red", "10.1.0", "02:00:00:00:00:11"),
    ("green", "10.2.0", "02:00:00:00:00:12"),
];

/// The networks of [`LANS`], the VM `many` with a NIC in masquerade mode beside them, and `other` on the same networks.
/// `node` is the only one for the first VM.
fn many(node: Option<usize>) -> String {
    let mut text = String::new();
    for (name, subnet, _) in LANS {
        text += &format!(
            "apiVersion: k8s.ovn.org/v1\nkind: UserDefinedNetwork\nmetadata: {{name: {name}, namespace: many}}\nspec: \
             {{topology: Layer2, layer2: {{role: Secondary, subnets: [{subnet}.0/24]}}}}\n---\n"
        );
    }
    for vm in ["many", "other"] {
        let on = node.filter(|_| vm == "many").or((vm == "other").then_some(1));
        let on = on.map(|node| format!("  nodeSelector: {{kubernetes.io/hostname: n{node}}}\n"));
        let on = on.unwrap_or_default();
        // QEMU is told the MACs of the first VM.
        let mac = |mac: &str| match vm {
            "many" => format!(", macAddress: '{mac}'"),
            _ => String::new(),
        };
        let (mut interfaces, mut networks) = (String::new(), String::new());
        if vm == "many" {
            interfaces = format!("{{name: net, masquerade: {{}}{}}}, ", mac(MASQUERADED));
            networks = "{name: net, pod: {}}, ".to_owned();
        }
        for (name, _, its) in LANS {
            interfaces += &format!("{{name: {name}, bridge: {{}}{}}}, ", mac(its));
            networks += &format!("{{name: {name}, multus: {{networkName: {name}}}}}, ");
        }
        text += &format!(
            "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: {vm}, namespace: many}}\nspec:\n  \
             domain: {{devices: {{interfaces: [{interfaces}]}}}}\n  networks: [{networks}]\n{on}---\n"
        );
    }
    text
}

/// The options of a QEMU process with the NICs of the VM `many`, in the same slots everywhere.
fn qemu_with_lans(folder: &Path) -> Plan {
    let socket = |name: &str| folder.join(format!("{name}.sock"));
    let more = LANS.iter().enumerate().flat_map(|(at, (name, _, mac))| {
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
        mac: Some(MASQUERADED.to_owned()),
        properties: vec!["addr=0x8".to_owned()],
        arguments: more.collect(),
        ..plan(&socket("net"))
    }
}

/// A VM of namespace `many`, as the first agent reports it.
fn vm_in_store(cluster: &Cluster, name: &str) -> Result<Value> {
    let text = cluster.agents[0].http(&format!("/v1/objects?kind=vm&namespace=many&name={name}"))?;
    let mut answer: Value = serde_json::from_str(&text)?;
    Ok(answer["items"][0]["vm"].take())
}

/// Gives the guest of a VM its addresses on [`LANS`], whose NICs begin with this number.
fn configure(cluster: &Cluster, (guest, first): (&Guest, u8), vm: &str) -> Result<Vec<String>> {
    let known = vm_in_store(cluster, vm)?;
    let interfaces = &known["status"]["interfaces"];
    let mut addresses = Vec::new();
    for (number, (name, subnet, _)) in (first..).zip(LANS) {
        let own = interfaces.as_array().into_iter().flatten();
        let mut own = own.filter(|interface| interface["name"] == name);
        let address = own.next().and_then(|interface| interface["addresses"][0].as_str());
        let address = address.and_then(|address| address.split('/').next());
        let address = address.filter(|address| address.starts_with(subnet));
        let address = address.ok_or_else(|| failure(format!("{vm} has no address on {name}: {interfaces:#}")))?;
        guest.sh(&format!(
            "ip link set eth{number} up && ip addr add {address}/24 dev eth{number}"
        ))?;
        addresses.push(address.to_owned());
    }
    Ok(addresses)
}

#[test]
fn all_nics_of_a_vm_move_with_it_and_those_in_masquerade_mode_use_the_new_node() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    let world = cluster.nodes.serve_world(WORLD4)?;
    for node in [Some(0), None] {
        let file = cluster.agents[0].file("many.yaml", &many(node))?;
        cluster.agents[0].sh(&format!("apply -f {file} --wait"))?;
    }
    let folder = |cluster: &Cluster, node: usize, vm: &str| cluster.agents[node].vm_folder("many", vm);
    let other = LANS.map(|(name, ..)| folder(&cluster, 1, "other").join(format!("{name}.sock")));
    let other = Plan {
        more_sockets: other[1..].to_vec(),
        ..Plan::new(Kind::Uml, &other[0])
    };
    let other = other.boot()?;
    let others = configure(&cluster, (&other, 0), "other")?;
    let mut many = qemu_with_lans(&folder(&cluster, 0, "many")).boot_to_migrate()?;
    many.sh("net-up 4")?;
    configure(&cluster, (&many, 1), "many")?;
    let transfer = format!("hawser-traffic send to={world} bytes=100000");
    many.sh(&transfer)?;
    for address in &others {
        many.reaches(address)?;
    }
    // Its connection does not cross to the other node.
    let left = format!("hawser-traffic rounds to={world} count=1000000 each=reuse");
    let left = many.start(&left, Duration::from_secs(120))?;

    cluster.agents[1].sh("move many -n many --to n1 --live")?;
    let incoming = qemu_with_lans(&folder(&cluster, 1, "many")).incoming(&many)?;
    many.migrate(incoming)?;
    until("the VM is on its new node", || {
        let vm = vm_in_store(&cluster, "many")?;
        Ok(vm["node"] == "n1" && vm["phase"] == "Running" && vm["moving"].is_null())
    })?;
    for address in &others {
        many.reaches(address)?;
    }
    many.sh(&transfer)?;
    until("the connection that stayed has ended", || Ok(left.poll().is_some()))
}
