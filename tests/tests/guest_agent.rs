//! Tests of node agents that share etcd. VMs are started from directories, find each other, and continue without agent
//! and etcd.

use hawser_testkit::cluster::{Cluster, NIC, address, vm};
use hawser_testkit::{Result, until};

#[test]
fn vms_of_two_nodes_find_each_other_and_go_on_without_agent_and_etcd() -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    let first = cluster.run(0, "one")?;
    let second = cluster.run(1, "two")?;
    let addresses = [address(&first)?, address(&second)?];
    assert_ne!(addresses[0], addresses[1]);
    assert!(
        addresses.iter().all(|address| address.starts_with("192.168.254.")),
        "{addresses:?}"
    );
    first.reaches(&addresses[1])?;
    second.reaches(&addresses[0])?;
    let table = cluster.agents[0].status()?;
    assert!(
        table.contains("blue") && table.contains("Running") && table.contains(&addresses[0]),
        "{table}"
    );

    // Without an agent and without etcd, frames cross as before.
    let before = cluster.agents[0].vm("one")?["pid"].clone();
    cluster.agents[0].kill();
    cluster.etcd.kill();
    first.sh(&format!("ping -c 3 -W 2 {}", addresses[1]))?;
    second.sh(&format!("ping -c 3 -W 2 {}", addresses[0]))?;

    // A new agent takes over the process of the previous agent, and both find a third VM.
    cluster.etcd.restart(&cluster.nodes.world)?;
    cluster.start(0)?;
    assert_eq!(cluster.agents[0].wait_running("one")?["pid"], before);
    let third = cluster.run(0, "three")?;
    let third_address = address(&third)?;
    second.reaches(&third_address)?;
    first.reaches(&third_address)?;
    third.reaches(&addresses[1])
}

#[test]
fn a_vm_whose_file_moves_to_another_node_keeps_its_address_and_is_found_there() -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    let stays = cluster.run(1, "stays")?;
    let moves = cluster.run(0, "moves")?;
    let before = address(&moves)?;
    stays.reaches(&before)?;
    // The other node refuses the VM as long as it runs here.
    cluster.agents[1].describe("moves", &vm("moves"))?;
    let refused = |vm: &serde_json::Value| {
        vm["message"]
            .as_str()
            .is_some_and(|text| text.contains("it runs on node n0"))
    };
    cluster.agents[1].wait_for("moves", "refused", refused)?;
    drop(moves);
    // The file is removed while no agent runs.
    cluster.agents[0].kill();
    cluster.agents[0].remove("moves")?;
    cluster.start(0)?;
    let moved = cluster.agents[1].boot("moves", NIC)?;
    moved.sh("net-up 4")?;
    assert_eq!(address(&moved)?, before);
    stays.reaches(&before)?;
    cluster.agents[0].wait_for("moves", "gone", serde_json::Value::is_null)?;
    Ok(())
}

#[test]
fn a_wrong_file_is_shown_by_its_line_and_others_are_served() -> Result<()> {
    let mut cluster = Cluster::new(1)?;
    cluster.agents[0].describe("bad", &vm("bad").replace("l2bridge", "l3bridge"))?;
    cluster.agents[0].describe("good", &vm("good"))?;
    let good = cluster.agents[0].wait_running("good")?;
    let table = cluster.agents[0].status()?;
    assert!(table.contains("bad.yaml:5: ") && table.contains("l3bridge"), "{table}");
    // A VM whose file becomes invalid continues as before.
    cluster.agents[0].describe("good", "kind: [")?;
    until("the file is refused", || {
        Ok(cluster.agents[0].status()?.contains("good.yaml:1: "))
    })?;
    assert_eq!(cluster.agents[0].vm("good")?["pid"], good["pid"]);
    // A killed process is started again, at the same address.
    let pid = good["pid"].as_i64().unwrap_or_default();
    cluster.nodes.world.run(&format!("kill -9 {pid}"))?;
    let again = cluster.agents[0].wait_for("good", "running again", |vm| {
        vm["phase"] == "Running" && vm["pid"] != pid
    })?;
    assert_eq!(again["interfaces"], good["interfaces"]);
    Ok(())
}
