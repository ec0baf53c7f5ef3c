//! Tests of moves of running VMs between agents: QEMU migrates a real guest while others send to it, and the binding of
//! its port follows.

use hawser_testkit::cluster::{Cluster, NETWORK, NIC, address, vm, vm_on};
use hawser_testkit::guest::{Guest, Plan};
use hawser_testkit::migrating::plan;
use hawser_testkit::nodes::PORT;
use hawser_testkit::pings::Pings;
use hawser_testkit::{Result, failure, until};
use serde_json::Value;
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
