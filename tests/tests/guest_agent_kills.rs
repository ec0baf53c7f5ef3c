//! A cluster whose parts are killed at random while operators change it.

use hawser_testkit::cluster::{Cluster, NETWORK, vm};
use hawser_testkit::{Result, failure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

const NODES: usize = 2;
const VMS: u64 = 6;
/// Longest pause between a command and the next kill, in milliseconds.
const PAUSE: u64 = 120;

/// Numbers that repeat with the seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.below(NODES as u64)).unwrap_or(0)
    }
}

/// The files of the VMs and of their network, on each node.
struct Files {
    network: String,
    vms: Vec<String>,
}

fn files(cluster: &Cluster) -> Result<Files> {
    let agent = &cluster.agents[0];
    let vms = (0..VMS).map(|number| agent.file(&format!("vm{number}.yaml"), &vm(&format!("vm{number}"))));
    Ok(Files {
        network: agent.file("network.yaml", NETWORK)?,
        vms: vms.collect::<Result<_>>()?,
    })
}

/// Sends a random command, which may fail, and kills something while it is carried out.
fn disturb(cluster: &mut Cluster, files: &Files, random: &mut Random) -> Result<()> {
    let (number, node) = (random.below(VMS), random.node());
    let to = random.node();
    let command = match random.below(5) {
        0 => format!("delete vm vm{number} -n blue"),
        1 => format!("move vm{number} -n blue --to n{to}"),
        2 => format!("stop vm{number} -n blue"),
        3 => format!("start vm{number} -n blue"),
        _ => format!("apply -f {}", files.vms[usize::try_from(number).unwrap_or(0)]),
    };
    let delay = Duration::from_millis(random.below(PAUSE));
    let (victim, what) = (random.node(), random.below(3));
    thread::scope(|scope| {
        let agent = &cluster.agents[node];
        scope.spawn(move || {
            let words: Vec<&str> = command.split_whitespace().collect();
            agent.run(&words)
        });
        thread::sleep(delay);
        // The child of the command ends with its agent.
        match what {
            0 => cluster.agents[victim].kill_now(),
            1 => cluster.etcd.kill_now(),
            _ => cluster.agents[victim].kill_one_vm(number),
        }
    });
    match what {
        0 => {
            cluster.agents[victim].kill();
            cluster.start(victim)
        }
        1 => cluster.etcd.restart(&cluster.nodes.world),
        _ => Ok(()),
    }
}

/// Repeats a command until it succeeds.
fn insist(cluster: &Cluster, command: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        match cluster.agents[0].sh(command) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn kill_at_random(times: u32, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let mut cluster = Cluster::without_files(NODES)?;
    cluster.wait_ready(NODES)?;
    let files = files(&cluster)?;
    insist(&cluster, &format!("apply -f {}", files.network))?;
    for _ in 0..times {
        disturb(&mut cluster, &files, &mut random)?;
    }

    // Every VM gets where it should be, with addresses of its own.
    for (number, file) in files.vms.iter().enumerate() {
        insist(&cluster, &format!("apply -f {file}"))?;
        insist(&cluster, &format!("start vm{number} -n blue --wait"))?;
    }
    let list: Value = serde_json::from_str(&cluster.agents[0].sh("get vms -n blue -o json")?)?;
    let interfaces: Vec<&Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|vm| vm["status"]["interfaces"].as_array().into_iter().flatten())
        .collect();
    for field in ["mac", "addresses"] {
        let different: BTreeSet<String> = interfaces
            .iter()
            .map(|interface| interface[field].to_string())
            .collect();
        if different.len() != files.vms.len() || different.contains("null") {
            return Err(failure(format!("seed {seed}: {field} of {list:#}")));
        }
    }

    // Nothing is left of VMs that are deleted.
    for number in 0..files.vms.len() {
        insist(&cluster, &format!("delete vm vm{number} -n blue --wait"))?;
    }
    let records = cluster.etcd.keys(&cluster.nodes.world)?;
    let is_left = |key: &&String| {
        [
            "/vm/",
            "/ip/",
            "/mac/",
            "/rec/vm",
            "/rec/placed",
            "/rec/status",
            "/rec/pending",
        ]
        .iter()
        .any(|part| key.contains(part))
    };
    match records.iter().find(is_left) {
        None => Ok(()),
        Some(left) => Err(failure(format!("seed {seed}: {left} is left"))),
    }
}

#[test]
fn no_address_is_given_twice_or_leaked_when_parts_are_killed() -> Result<()> {
    kill_at_random(12, 1)
}

#[test]
#[ignore = "takes several minutes: hack/test --long"]
fn no_address_is_given_twice_or_leaked_when_parts_are_killed_200_times() -> Result<()> {
    kill_at_random(200, 2)
}
