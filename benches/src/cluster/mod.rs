//! A large cluster as its store sees it: a real etcd, the store clients of some agents, and simulated VMs.
//!
//! Each agent has a connection of its own and works for several simulated nodes, whose VMs claim addresses, bind ports
//! and write states exactly as `hawser-agent` does. No VM's process runs and no packet is sent. Four phases are measured:
//! all VMs start at once; single VMs are bound again while the agents of their network watch; a tenth of the nodes is
//! evacuated; etcd is killed and started again.

mod agent;
mod etcd;
mod machine;

pub use agent::run_one;
use etcd::Member;
use hawser_testkit::process::cpu_seconds_of;
use hawser_testkit::{Result, failure};
use machine::{Agent, Simulated};
use std::process;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// VMs of a network.
const PER_NETWORK: usize = 100;
/// Agents that have VMs of one network.
const AGENTS_OF_NETWORK: usize = 10;
/// The part of all VMs that is on the evacuated nodes.
const EVACUATED: usize = 10;
/// Longest time for a change to reach all watchers.
const PATIENCE: Duration = Duration::from_secs(30);

/// The size of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of VMs.
    pub vms: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of connections to etcd.
    pub agents: usize,
    /// Number of changes whose way to all watchers is measured.
    pub samples: usize,
}

/// A result, for people.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figures.
    pub figure: String,
}

/// Runs all phases.
///
/// # Errors
/// etcd does not run, or an agent fails.
pub fn run(size: Size) -> Result<Vec<Row>> {
    let mut member = Member::start()?;
    let mut rows = Vec::new();
    let mut row = |what: &str, figure: String| {
        eprintln!("{what}: {figure}");
        rows.push(Row {
            what: what.to_owned(),
            figure,
        });
    };
    let mut agents = Vec::new();
    for number in 0..size.agents {
        agents.push(Agent::join(&member.options(number))?);
    }
    let machines = simulated(size);
    row("etcd, resident, empty", format!("{} MB", member.resident_mib()?));

    let used = |member: &Member| -> Result<[f64; 2]> { Ok([cpu_seconds_of(process::id())?, member.cpu_seconds()?]) };
    let before = used(&member)?;
    let (took, times) = start_all(&mut agents, &machines, size)?;
    let after = used(&member)?;
    let rate = f64::from(u32::try_from(size.vms)?) / took.as_secs_f64();
    row(
        &format!("cold start of {} VMs ({} agents)", size.vms, size.agents),
        format!("{:.1} s, {rate:.0} VMs/s; a VM: {}", took.as_secs_f64(), spread(times)),
    );
    row(
        "processor time of the cold start",
        format!(
            "{:.1} s of the agents, {:.1} s of etcd",
            after[0] - before[0],
            after[1] - before[1]
        ),
    );
    row("etcd, resident, all bound", format!("{} MB", member.resident_mib()?));

    let times = reach_all(&mut agents, &machines, size)?;
    row(
        &format!("a binding until the last of {AGENTS_OF_NETWORK} agents with its {PER_NETWORK} VMs has it"),
        spread(times),
    );

    let (took, count) = evacuate(&mut agents, &machines, size)?;
    row(
        &format!(
            "evacuation: {count} VMs of {} nodes bound elsewhere",
            size.nodes / EVACUATED
        ),
        format!("{:.1} s", took.as_secs_f64()),
    );

    let took = restart(&mut member, &mut agents, &machines, size)?;
    row(
        "etcd killed and started: until every agent has changed a binding again",
        format!("{:.1} s", took.as_secs_f64()),
    );
    row("etcd, resident, at the end", format!("{} MB", member.resident_mib()?));
    Ok(rows)
}

/// The agent that serves a VM. The VMs of a network are on [`AGENTS_OF_NETWORK`] agents.
const fn agent_of(vm: usize, size: Size) -> usize {
    (vm / (PER_NETWORK / AGENTS_OF_NETWORK)) % size.agents
}

fn simulated(size: Size) -> Vec<Simulated> {
    let nodes_of_agent = (size.nodes / size.agents).max(1);
    let machine = |vm: usize| {
        let agent = agent_of(vm, size);
        Simulated::new(vm, vm / PER_NETWORK, agent * nodes_of_agent + vm % nodes_of_agent)
    };
    (0..size.vms).map(machine).collect()
}

/// Runs `work` for each VM on the thread of its agent. Returns the whole time and that of each VM.
fn on_all(
    agents: &mut [Agent],
    machines: &[Simulated],
    size: Size,
    work: impl Fn(&mut Agent, &Simulated) -> Result<()> + Sync,
) -> Result<(Duration, Vec<Duration>)> {
    let start = Instant::now();
    let results: Vec<Result<Vec<Duration>>> = thread::scope(|scope| {
        let work = &work;
        let mut threads = Vec::new();
        for (number, agent) in agents.iter_mut().enumerate() {
            threads.push(scope.spawn(move || {
                let own = machines
                    .iter()
                    .filter(|machine| agent_of(machine.number, size) == number);
                let mut times = Vec::new();
                for machine in own {
                    let start = Instant::now();
                    work(agent, machine)?;
                    times.push(start.elapsed());
                }
                Ok(times)
            }));
        }
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Vec<Duration>>>| {
            thread.join().unwrap_or_else(|_| Err(failure("an agent panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let took = start.elapsed();
    let times: Vec<Vec<Duration>> = results.into_iter().collect::<Result<_>>()?;
    Ok((took, times.concat()))
}

fn start_all(agents: &mut [Agent], machines: &[Simulated], size: Size) -> Result<(Duration, Vec<Duration>)> {
    on_all(agents, machines, size, Agent::start)
}

/// Binds ports again, and measures the time until all agents of the port's network have the change.
fn reach_all(agents: &mut [Agent], machines: &[Simulated], size: Size) -> Result<Vec<Duration>> {
    let networks = (size.vms / PER_NETWORK).max(1);
    let step = (networks / size.samples.min(networks)).max(1);
    let mut times = Vec::new();
    let per_network = size.samples.div_ceil(networks.min(size.samples));
    for network in (0..networks).step_by(step) {
        let first = network * PER_NETWORK;
        let Some(machine) = machines.get(first) else { break };
        let mut followers: Vec<usize> = (first..(first + PER_NETWORK).min(size.vms))
            .map(|vm| agent_of(vm, size))
            .collect();
        followers.sort_unstable();
        followers.dedup();
        times.extend(follow(agents, &followers, machine, per_network)?);
    }
    Ok(times)
}

/// Has some agents follow the network of a VM while that VM is bound again several times.
fn follow(agents: &mut [Agent], followers: &[usize], machine: &Simulated, samples: usize) -> Result<Vec<Duration>> {
    let (seen, sees) = channel();
    let (ends, waits): (Vec<Sender<()>>, Vec<_>) = followers.iter().map(|_| channel()).unzip();
    thread::scope(|scope| {
        for (agent, end) in followers.iter().zip(waits) {
            let watcher = agents[*agent].share();
            let seen = seen.clone();
            scope.spawn(move || watcher.follow(machine, &seen, &end));
        }
        // Every follower reports that it has listed the network.
        for _ in followers {
            sees.recv_timeout(PATIENCE)??;
        }
        let mut writer = agents[followers[0]].share();
        let mut times = Vec::new();
        for _ in 0..samples {
            let start = Instant::now();
            let epoch = writer.rebind(machine)?;
            let mut left = followers.len();
            let mut last = start;
            while left > 0 {
                let (found, at) = sees.recv_timeout(PATIENCE)??;
                if found == epoch {
                    left -= 1;
                    last = last.max(at);
                }
            }
            times.push(last - start);
        }
        drop(ends);
        Ok(times)
    })
}

fn evacuate(agents: &mut [Agent], machines: &[Simulated], size: Size) -> Result<(Duration, usize)> {
    let gone = size.nodes / EVACUATED;
    let moving: Vec<Simulated> = machines
        .iter()
        .filter(|machine| machine.node < gone)
        .map(|machine| Simulated::new(machine.number, machine.network, size.nodes - 1 - machine.node))
        .collect();
    let work = |agent: &mut Agent, machine: &Simulated| agent.rebind(machine).map(drop);
    let (took, _) = on_all(agents, &moving, size, work)?;
    Ok((took, moving.len()))
}

/// Kills etcd and starts it again. Every agent tries until one of its bindings is changed.
fn restart(member: &mut Member, agents: &mut [Agent], machines: &[Simulated], size: Size) -> Result<Duration> {
    member.kill();
    let start = Instant::now();
    member.restart()?;
    let first: Vec<Simulated> = (0..size.agents)
        .filter_map(|agent| machines.iter().find(|machine| agent_of(machine.number, size) == agent))
        .cloned()
        .collect();
    let insist = |agent: &mut Agent, machine: &Simulated| loop {
        match agent.rebind(machine) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    on_all(agents, &first, size, insist)?;
    Ok(start.elapsed())
}

/// Median, 99th percentile and maximum in milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else {
        return "nothing measured".to_owned();
    };
    let at = |percent: usize| times[last * percent / 100].as_secs_f64() * 1000.0;
    format!("median {:.1} ms, p99 {:.1}, maximum {:.1}", at(50), at(99), at(100))
}
