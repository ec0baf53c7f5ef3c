//! Nodes with agents that share etcd.

use crate::agent::Agent;
use crate::etcd::Etcd;
use crate::guest::Guest;
use crate::nodes::{Nodes, WORLD4};
use crate::{Result, until};

/// The primary network of namespace `blue`.
pub const NETWORK: &str = "apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {name: primary-udn, namespace: blue}
spec:
  topology: Layer2
  layer2: {role: Primary, subnets: [192.168.254.0/24]}
";

/// Name of the VMs' interface.
pub const NIC: &str = "net";

/// The manifest of a VM on that network.
pub fn vm(name: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: {name}, namespace: blue}}\nspec:\n  \
         domain: {{devices: {{interfaces: [{{name: {NIC}, binding: {{name: l2bridge}}}}]}}}}\n  networks: [{{name: \
         {NIC}, pod: {{}}}}]\n"
    )
}

/// The manifest of such a VM that names its node.
pub fn vm_on(name: &str, node: usize) -> String {
    vm(name) + &format!("  nodeSelector: {{kubernetes.io/hostname: n{node}}}\n")
}

/// Nodes with agents, and etcd in the world beyond them.
#[derive(Debug)]
pub struct Cluster {
    /// Agents by the number of their node.
    pub agents: Vec<Agent>,
    /// The only member of etcd.
    pub etcd: Etcd,
    /// The nodes.
    pub nodes: Nodes,
}

impl Cluster {
    /// Starts this many nodes, whose agents share the network of namespace `blue` as a file.
    pub fn new(count: usize) -> Result<Self> {
        Self::with_files(count, &[("network.yaml", NETWORK)])
    }

    /// Starts this many nodes, whose agents have no files.
    pub fn without_files(count: usize) -> Result<Self> {
        Self::with_files(count, &[])
    }

    fn with_files(count: usize, files: &[(&str, &str)]) -> Result<Self> {
        let nodes = Nodes::new(count, 1500)?;
        let etcd = Etcd::start(&nodes.world, WORLD4, &nodes.path("etcd"))?;
        let mut cluster = Self {
            agents: Vec::new(),
            etcd,
            nodes,
        };
        for node in 0..count {
            let agent = Agent::new(cluster.nodes.path(&format!("agent{node}")))?;
            for (name, text) in files {
                agent.share(name, text)?;
            }
            cluster.agents.push(agent);
            cluster.start(node)?;
        }
        Ok(cluster)
    }

    /// Starts the agent of a node.
    pub fn start(&mut self, node: usize) -> Result<()> {
        let store = format!("--store={}", self.etcd.store());
        self.agents[node].start(&self.nodes.nodes[node], &format!("n{node}"), &[&store])
    }

    /// Makes a node serve a VM by a file, and boots its guest.
    pub fn run(&mut self, node: usize, name: &str) -> Result<Guest> {
        self.agents[node].describe(name, &vm(name))?;
        self.boot(node, name)
    }

    /// Boots the guest of a VM that a node serves, and has it request its address.
    pub fn boot(&mut self, node: usize, name: &str) -> Result<Guest> {
        let guest = self.agents[node].boot(name, NIC)?;
        guest.sh("net-up 4")?;
        Ok(guest)
    }

    /// Waits until this many nodes are ready.
    pub fn wait_ready(&self, count: usize) -> Result<()> {
        until(&format!("{count} nodes are ready"), || {
            // The agent may not serve its API yet.
            let table = self.agents[0].sh("get nodes").unwrap_or_default();
            Ok(table.lines().filter(|line| line.contains(" Ready ")).count() == count)
        })
    }
}

/// The IPv4 address of a guest.
pub fn address(guest: &Guest) -> Result<String> {
    let addresses = guest.sh("ip -o -4 addr show dev eth0")?;
    let address = addresses.split_whitespace().find_map(|word| word.strip_suffix("/24"));
    Ok(address.unwrap_or_default().to_owned())
}
