//! Agents that are killed at each of the steps by which they start, stop and move a VM. strace(1) ends the agent before a
//! chosen system call of its loop, so the cluster is left in every state that it can be left in.

use hawser_testkit::cluster::{Cluster, NETWORK, vm};
use hawser_testkit::{Result, failure};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The calls by which the loop of an agent changes something: requests to etcd (it wakes the client's thread by a write),
/// files, processes and signals.
const CALLS: &str =
    "write,rename,mkdir,rmdir,unlink,unlinkat,clone,clone3,vfork,pidfd_open,pidfd_send_signal,socket,bind,symlink";
/// Longest time until a VM is where it should be, after its agent was started again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The node whose agent is killed.
const VICTIM: usize = 1;
/// The node whose agent carries out the commands.
const OTHER: usize = 0;

/// A command, and the state to which it leads.
struct Order {
    command: &'static str,
    phase: &'static str,
    node: usize,
}

/// The agent of one node starts a VM, gives it up, receives it, and stops it.
const ORDERS: [Order; 4] = [
    Order {
        command: "start web -n blue",
        phase: "Running",
        node: VICTIM,
    },
    Order {
        command: "move web -n blue --to n0",
        phase: "Running",
        node: OTHER,
    },
    Order {
        command: "move web -n blue --to n1",
        phase: "Running",
        node: VICTIM,
    },
    Order {
        command: "stop web -n blue",
        phase: "Stopped",
        node: VICTIM,
    },
];

/// Has strace end the agent of the victim before its call `number` of the kinds above.
fn trap(cluster: &mut Cluster, number: usize) -> Result<Child> {
    let process = cluster.agents[VICTIM].process()?;
    let (pid, log) = (process.id(), cluster.nodes.path("strace"));
    let mut command = Command::new("strace");
    command.arg("-qq").arg("-o").arg(log);
    command.args(["-e", &format!("trace={CALLS}")]);
    command.args(["-e", &format!("inject={CALLS}:signal=KILL:when={number}")]);
    command.args(["-p", &pid.to_string()]);
    let mut strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // An agent that has just done many steps may be ended at once.
        if !status.contains("TracerPid:\t0") || strace.try_wait()?.is_some() {
            return Ok(strace);
        }
        if Instant::now() > deadline {
            return Err(failure("strace does not attach"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// What the cluster reports about the VM.
fn report(cluster: &Cluster) -> Value {
    let text = cluster.agents[OTHER]
        .sh("get vm web -n blue -o json")
        .unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Number of processes that serve the VM on all nodes.
fn processes(cluster: &Cluster) -> usize {
    let vms = [VICTIM, OTHER].map(|node| cluster.agents[node].running_vms());
    vms.iter().sum()
}

/// Carries out an order, and returns false if the agent was killed before it was done.
fn carry_out(cluster: &mut Cluster, order: &Order, number: usize) -> Result<bool> {
    let mut strace = trap(cluster, number)?;
    cluster.agents[OTHER].sh(order.command)?;
    let is_done = |cluster: &Cluster| {
        let vm = report(cluster);
        vm["status"]["phase"] == order.phase && vm["status"]["nodeName"] == format!("n{}", order.node)
    };
    let mut deadline = Instant::now() + PATIENCE;
    let mut killed = false;
    while !is_done(cluster) {
        if !killed && strace.try_wait()?.is_some() {
            killed = true;
            cluster.agents[VICTIM].kill();
            cluster.start(VICTIM)?;
            deadline = Instant::now() + PATIENCE;
        }
        if Instant::now() > deadline {
            let (command, vm) = (order.command, report(cluster));
            return Err(failure(format!("killed before call {number} of {command}: {vm:#}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    if !killed {
        // It may be ended after what it was watched for.
        strace.kill()?;
        strace.wait()?;
        if cluster.agents[VICTIM].process()?.assert_alive().is_err() {
            cluster.agents[VICTIM].kill();
            cluster.start(VICTIM)?;
        }
    }
    Ok(!killed)
}

#[test]
fn an_agent_may_be_killed_at_every_step_of_start_stop_and_move() -> Result<()> {
    let mut cluster = Cluster::without_files(2)?;
    cluster.wait_ready(2)?;
    let agent = &cluster.agents[OTHER];
    let network = agent.file("network.yaml", NETWORK)?;
    let file = agent.file("web.yaml", &vm("web"))?;
    agent.sh(&format!("apply -f {network} -f {file} --wait"))?;
    let interfaces = |vm: &Value| -> Value {
        let interface = &vm["status"]["interfaces"][0];
        serde_json::json!([interface["mac"], interface["addresses"]])
    };
    let before = interfaces(&report(&cluster));
    if report(&cluster)["status"]["nodeName"] != "n1" {
        agent.sh("move web -n blue --to n1 --wait")?;
    }
    agent.sh("stop web -n blue --wait")?;
    let mut counts = [0; ORDERS.len()];
    let mut number = 1;
    while counts.contains(&0) {
        for (order, count) in ORDERS.iter().zip(&mut counts) {
            let at = if *count == 0 { number } else { usize::MAX >> 33 };
            if carry_out(&mut cluster, order, at)? {
                *count = number;
            }
            let vm = report(&cluster);
            if order.phase == "Running" {
                assert_eq!(interfaces(&vm), before, "killed before call {at} of {}", order.command);
            }
            let expected = usize::from(order.phase == "Running");
            let deadline = Instant::now() + PATIENCE;
            while processes(&cluster) != expected {
                if Instant::now() > deadline {
                    let (found, command) = (processes(&cluster), order.command);
                    return Err(failure(format!(
                        "{found} processes serve the VM after the agent was killed before call {at} of {command}"
                    )));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        number += 1;
    }
    println!("calls until each order was carried out: {counts:?}");
    assert!(
        counts.iter().all(|count| *count > 1),
        "the agent was never killed: {counts:?}"
    );
    cluster.agents[OTHER].sh("delete vm web -n blue --wait --timeout=90")?;
    let left = cluster.etcd.keys(&cluster.nodes.world)?;
    let kinds = [
        "/vm/",
        "/ip/",
        "/mac/",
        "/rec/vm",
        "/rec/placed",
        "/rec/status",
        "/rec/pending",
    ];
    let left = left.iter().find(|key| kinds.iter().any(|kind| key.contains(kind)));
    assert_eq!(left, None);
    Ok(())
}
