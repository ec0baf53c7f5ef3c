//! Tests of NodeNetworkConfigurationPolicy objects in the store of a cluster, which the agents apply to the links of their
//! nodes.

use hawser_testkit::cluster::Cluster;
use hawser_testkit::nodes::WORLD4;
use hawser_testkit::{Result, failure, until};
use serde_json::Value;

/// A policy for the nodes with these labels, in flow style.
fn policy(name: &str, selector: &str, interface: &str) -> String {
    format!(
        "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         nodeSelector: {selector}\n  desiredState:\n    interfaces:\n    - {interface}\n"
    )
}

const BR1: &str = "{name: br1, type: linux-bridge, state: up, ipv4: {enabled: false}, bridge: {options: {stp: {enabled: \
                   false}}, port: [{name: eth1}]}}";
/// A bridge on the only way out, without the addresses.
const BAD: &str = "{name: br0, type: linux-bridge, bridge: {port: [{name: eth0}]}}";

/// Links, addresses and routes of a node as a person would look at them.
fn state(cluster: &Cluster, node: usize) -> Result<String> {
    let node = &cluster.nodes.nodes[node];
    let lines = ["ip -o link", "ip -o -4 addr show scope global", "ip route"];
    lines.iter().map(|line| node.run(line)).collect()
}

/// The row of an object in the table of its kind.
fn row(cluster: &Cluster, kind: &str, name: &str) -> String {
    let table = cluster.agents[0].sh(&format!("get {kind}")).unwrap_or_default();
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    row.unwrap_or_default().to_owned()
}

fn apply(cluster: &Cluster, text: &str) -> Result<()> {
    let file = cluster.agents[0].file("policy.yaml", text)?;
    cluster.agents[0].sh(&format!("apply -f {file}")).map(drop)
}

#[test]
fn policies_in_the_store_are_applied_on_the_nodes_that_they_select() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    for node in 0..2 {
        cluster.agents[node].kill();
        cluster.nodes.nodes[node].run("ip link add eth1 type veth peer name eth1-peer")?;
        let role = ["--node-label=role=core", "--node-label=role=edge"][node];
        cluster.start_with(node, &["--reach-within=6", role])?;
    }
    cluster.wait_ready(2)?;

    // What is not served is refused by file and line, before anything is stored.
    let bond = cluster.agents[0].file("bond.yaml", &policy("bond", "{}", "{name: bond0, type: bond}"))?;
    let (status, error) = cluster.agents[0].refused(&format!("apply -f {bond}"))?;
    assert!(
        status == Some(1) && error.contains("bond.yaml:8: ") && error.contains("bond"),
        "{error}"
    );
    assert_eq!(cluster.agents[0].sh("get nncp -o name")?, "");

    apply(&cluster, &policy("br1-eth1", "{role: edge}", BR1))?;
    until("the policy is available", || {
        let row = row(&cluster, "nncp", "br1-eth1");
        if row.contains(" Degraded ") {
            return Err(failure(cluster.agents[0].sh("get nnce")?));
        }
        Ok(row.contains(" Available ") && row.contains("1/1 nodes"))
    })?;
    let port = cluster.nodes.nodes[1].run("ip -o link show eth1")?;
    assert!(port.contains("master br1"), "{port}");
    assert!(
        !state(&cluster, 0)?.contains("br1"),
        "the policy does not select this node"
    );
    assert!(row(&cluster, "nnce", "n1.br1-eth1").contains(" Available "));
    until("the state of the links shows the bridge", || {
        let text = cluster.agents[0].sh("get nns n1 -o json")?;
        let links: Value = serde_json::from_str(&text)?;
        let links = links["status"]["currentState"]["interfaces"].as_array().cloned();
        let bridge = links.unwrap_or_default().into_iter().find(|link| link["name"] == "br1");
        Ok(bridge.is_some_and(|bridge| {
            bridge["type"] == "linux-bridge" && bridge["bridge"]["port"][0]["name"] == "eth1" && bridge["state"] == "up"
        }))
    })?;

    // A policy that cuts nodes off is put back on each of them, and the message says what was lost.
    let before = [state(&cluster, 0)?, state(&cluster, 1)?];
    apply(&cluster, &policy("bad", "{}", BAD))?;
    until("the policy has failed on both nodes", || {
        let rows = [row(&cluster, "nnce", "n0.bad"), row(&cluster, "nnce", "n1.bad")];
        let lost = format!("the default gateway {WORLD4} does not answer");
        Ok(rows.iter().all(|row| row.contains(" Failing ") && row.contains(&lost)))
    })?;
    assert_eq!([state(&cluster, 0)?, state(&cluster, 1)?], before);
    cluster.wait_ready(2)?;
    assert!(row(&cluster, "nncp", "bad").contains(" Degraded "));
    let text = cluster.agents[1].sh("describe nnce n1.bad")?;
    assert!(text.contains("FailedToConfigure"), "{text}");

    // A policy that is corrected is applied again, and what it has changed stays without it.
    apply(&cluster, &policy("bad", "{role: core}", BR1))?;
    until("the corrected policy is available", || {
        Ok(row(&cluster, "nncp", "bad").contains(" Available "))
    })?;
    assert!(state(&cluster, 0)?.contains("br1"));
    assert_eq!(row(&cluster, "nnce", "n1.bad"), "", "it no longer selects this node");
    cluster.agents[1].sh("delete nncp bad")?;
    until("no node reports the policy", || {
        Ok(row(&cluster, "nnce", "n0.bad").is_empty())
    })?;
    assert!(state(&cluster, 0)?.contains("br1"));
    let (_, error) = cluster.agents[0].refused("delete nnce n1.br1-eth1")?;
    assert!(error.contains("is written by agents"), "{error}");
    Ok(())
}
