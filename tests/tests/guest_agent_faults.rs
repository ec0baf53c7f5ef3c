//! Tests of nodes with agents that lose a part of what they rely on: their way to etcd, most members of etcd, all of etcd
//! for longer than any timer, and the wall clock. No VM stops, nothing is decided without the store, and all follow when
//! the part is back.

use hawser_testkit::agent::Agent;
use hawser_testkit::cluster::{Cluster, NETWORK, address, vm_on};
use hawser_testkit::{Result, failure, until};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time until a silent agent is noticed, or until one is back. The time lease of an agent is 15 seconds.
const NOTICED: Duration = Duration::from_secs(60);

/// Applies the network and a VM on a node, by the agent of node `by`.
fn apply(cluster: &Cluster, by: usize, name: &str, node: usize) -> Result<()> {
    let agent = &cluster.agents[by];
    let network = agent.file("network.yaml", NETWORK)?;
    let file = agent.file(&format!("{name}.yaml"), &vm_on(name, node))?;
    agent
        .sh(&format!("apply -f {network} -f {file} --wait --timeout=90"))
        .map(drop)
}

/// The phase of a VM, by the agent of a node. Empty if the store does not answer.
fn phase(agent: &Agent, name: &str) -> String {
    let text = agent.sh(&format!("get vm {name} -n blue -o json")).unwrap_or_default();
    let vm: Value = serde_json::from_str(&text).unwrap_or_default();
    vm["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the agent of a node reports this phase.
fn wait_phase(agent: &Agent, name: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + NOTICED;
    while phase(agent, name) != wanted {
        if Instant::now() > deadline {
            let table = agent.sh("get vms -A").unwrap_or_else(|error| error.to_string());
            return Err(failure(format!("VM {name} is not {wanted}: {table}")));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The parts of a VM's report that must not change by a fault: process, MAC, addresses and tunnel endpoint.
fn identity(agent: &Agent, name: &str) -> Result<Value> {
    let vm = agent.vm(name)?;
    Ok(serde_json::json!([vm["pid"], vm["interfaces"]]))
}

#[test]
fn a_node_that_is_cut_off_from_etcd_goes_on_and_takes_part_again_later() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    apply(&cluster, 0, "near", 0)?;
    apply(&cluster, 0, "far", 1)?;
    let (near, far) = (cluster.boot(0, "near")?, cluster.boot(1, "far")?);
    let (near_at, far_at) = (address(&near)?, address(&far)?);
    near.reaches(&far_at)?;
    let before = identity(&cluster.agents[1], "far")?;
    let records = cluster.etcd.keys(&cluster.nodes.world)?;

    cluster.cut(1)?;
    let pinging = near.start(&format!("ping -i 0.2 -c 150 -W 2 {far_at}"), Duration::from_secs(90))?;
    wait_phase(&cluster.agents[0], "far", "Unknown")?;
    // The node may still forward frames, so nothing moves without an operator's word.
    let (_, error) = cluster.agents[0].refused("move far -n blue --to n0")?;
    assert!(
        error.contains("does not answer") && error.contains("--force"),
        "{error}"
    );
    // The agent that is cut off says what is wrong, and changes nothing.
    let start = Instant::now();
    let (status, error) = cluster.agents[1].refused("stop far -n blue")?;
    assert!(status == Some(1) && error.contains("etcd://"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(
        cluster.agents[1].status()?.contains("etcd://"),
        "the status names the problem"
    );
    // A VM that ends is started again as it was: no other node can have its port in the meantime.
    assert_eq!(identity(&cluster.agents[1], "far")?, before);
    // Others change the cluster as before. The node that is cut off learns of a new VM when it is back.
    apply(&cluster, 0, "new", 0)?;
    let new = cluster.boot(0, "new")?;
    let new_at = address(&new)?;
    near.reaches(&new_at)?;
    let pinged = pinging.wait(Duration::from_secs(90))?;
    assert_eq!(pinged.status, Some(0));
    assert!(pinged.out.contains(" 0% packet loss"), "{}", pinged.out);

    cluster.heal(1)?;
    wait_phase(&cluster.agents[0], "far", "Running")?;
    until("the node has learnt of the new VM", || {
        Ok(far.run(&format!("ping -c 1 -W 1 {new_at}"))?.status == Some(0))
    })?;
    far.reaches(&near_at)?;
    assert_eq!(identity(&cluster.agents[1], "far")?, before);
    let after = cluster.etcd.keys(&cluster.nodes.world)?;
    let lost: Vec<&String> = records.iter().filter(|key| !after.contains(key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    Ok(())
}

#[test]
fn the_smaller_side_of_a_divided_etcd_decides_nothing_and_the_larger_one_goes_on() -> Result<()> {
    let mut cluster = Cluster::with_member_on_each_node()?;
    cluster.wait_ready(3)?;
    apply(&cluster, 0, "near", 0)?;
    apply(&cluster, 0, "far", 2)?;
    let (near, far) = (cluster.boot(0, "near")?, cluster.boot(2, "far")?);
    let (near_at, far_at) = (address(&near)?, address(&far)?);
    near.reaches(&far_at)?;
    let before = identity(&cluster.agents[2], "far")?;

    // The agent of the smaller side reaches a member, which serves nothing without the others.
    cluster.cut(2)?;
    wait_phase(&cluster.agents[0], "far", "Unknown")?;
    let (status, error) = cluster.agents[2].refused("stop far -n blue")?;
    assert!(status == Some(1) && error.contains("etcd://"), "{error}");
    apply(&cluster, 1, "new", 1)?;
    let new = cluster.boot(1, "new")?;
    let new_at = address(&new)?;
    assert!(new_at != near_at && new_at != far_at, "{new_at}");
    near.reaches(&new_at)?;
    near.reaches(&far_at)?;
    far.reaches(&near_at)?;

    cluster.heal(2)?;
    wait_phase(&cluster.agents[2], "far", "Running")?;
    until("the smaller side has learnt of the new VM", || {
        Ok(far.run(&format!("ping -c 1 -W 1 {new_at}"))?.status == Some(0))
    })?;
    assert_eq!(identity(&cluster.agents[2], "far")?, before);
    cluster.agents[2].sh("stop far -n blue --wait --timeout=90").map(drop)
}

/// Takes etcd away for a time, within which a VM's process ends.
fn etcd_away(time: Duration) -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    apply(&cluster, 0, "near", 0)?;
    apply(&cluster, 0, "far", 1)?;
    let (near, far) = (cluster.boot(0, "near")?, cluster.boot(1, "far")?);
    let (near_at, far_at) = (address(&near)?, address(&far)?);
    near.reaches(&far_at)?;
    apply(&cluster, 0, "ends", 1)?;
    let near_before = cluster.agents[0].vm("near")?;
    let ends_before = cluster.agents[1].vm("ends")?;

    let start = Instant::now();
    cluster.etcd.kill();
    thread::sleep(Duration::from_secs(3));
    // A VM whose process ends while etcd is away is served again, with the same MAC, addresses and tunnel endpoint.
    cluster.nodes.world.run(&format!("kill -9 {}", ends_before["pid"]))?;
    let again = cluster.agents[1].wait_for("ends", "running again without etcd", |vm| {
        vm["phase"] == "Running" && vm["pid"] != ends_before["pid"] && !vm["pid"].is_null()
    })?;
    assert_eq!(again["interfaces"], ends_before["interfaces"]);
    assert!(start.elapsed() < time, "etcd was back before: {:?}", start.elapsed());
    let (status, error) = cluster.agents[0].refused("stop near -n blue")?;
    assert!(status == Some(1) && error.contains("etcd://"), "{error}");
    thread::sleep(time.saturating_sub(start.elapsed()));
    near.reaches(&far_at)?;
    far.reaches(&near_at)?;

    cluster.etcd.restart(&cluster.nodes.world)?;
    for (agent, name) in [(0, "near"), (1, "far"), (1, "ends")] {
        wait_phase(&cluster.agents[agent], name, "Running")?;
    }
    cluster.wait_ready(2)?;
    assert_eq!(cluster.agents[0].vm("near")?["pid"], near_before["pid"]);
    assert_eq!(cluster.agents[1].vm("ends")?["pid"], again["pid"]);
    // The cluster decides again.
    apply(&cluster, 1, "new", 0)?;
    let new = cluster.boot(0, "new")?;
    until("all know the new VM", || {
        Ok(far.run(&format!("ping -c 1 -W 1 {}", address(&new)?))?.status == Some(0))
    })?;
    near.reaches(&far_at)
}

#[test]
fn etcd_may_be_away_for_longer_than_the_time_lease_of_an_agent() -> Result<()> {
    etcd_away(Duration::from_secs(20))
}

/// No timer of an agent, of its client of etcd or of a VM's process that depends on the store is longer than a minute.
#[test]
#[ignore = "takes minutes: hack/test --long"]
fn etcd_may_be_away_for_longer_than_any_timer() -> Result<()> {
    etcd_away(Duration::from_secs(150))
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing_but_ages() -> Result<()> {
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1",
        std::env::consts::ARCH
    );
    if !Path::new(&library).exists() {
        return Err(failure(format!("{library} is missing: hack/setup installs it")));
    }
    let mut cluster = Cluster::without_files(2)?;
    cluster.agents[1].kill();
    let clock = cluster.nodes.path("clock");
    fs::write(&clock, "+0")?;
    for (name, value) in [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        cluster.agents[1].set(name, value);
    }
    cluster.start(1)?;
    cluster.wait_ready(2)?;
    apply(&cluster, 0, "near", 0)?;
    apply(&cluster, 0, "far", 1)?;
    let (near, far) = (cluster.boot(0, "near")?, cluster.boot(1, "far")?);
    let far_at = address(&far)?;
    near.reaches(&far_at)?;
    let before = identity(&cluster.agents[1], "far")?;
    let mut seen = Vec::new();
    for jump in ["+20d", "-400d", "+3600", "+0"] {
        fs::write(&clock, jump)?;
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            let table = cluster.agents[0].sh("get nodes")?;
            assert!(!table.contains("NotReady"), "{jump}: {table}");
            thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(phase(&cluster.agents[0], "far"), "Running", "{jump}");
        assert_eq!(identity(&cluster.agents[1], "far")?, before, "{jump}");
        near.reaches(&far_at)?;
        // The agent did see the jump: the time of an event is that of its clock.
        let name = format!("at{}", seen.len());
        apply(&cluster, 0, &name, 1)?;
        let text = cluster.agents[0].sh(&format!("get vm {name} -n blue -o json"))?;
        assert!(text.contains("Running"), "{text}");
        let events = cluster.agents[0].http(&format!("/v1/objects?kind=vm&namespace=blue&name={name}"))?;
        let events: Value = serde_json::from_str(&events)?;
        let time = events["items"][0]["vm"]["status"]["events"][0]["time"].as_i64();
        seen.push(time.ok_or_else(|| failure("there is no event"))?);
    }
    const DAY: i64 = 86_400;
    assert!(seen[0] - seen[1] > 400 * DAY, "the clock has not jumped: {seen:?}");
    assert!(seen[2] - seen[1] > 300 * DAY, "the clock has not jumped: {seen:?}");
    Ok(())
}
