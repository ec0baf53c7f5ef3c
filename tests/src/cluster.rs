//! Nodes with agents that share etcd.

use crate::agent::Agent;
use crate::etcd::{Etcd, PORT};
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
    /// The only member of etcd, or the first one.
    pub etcd: Etcd,
    /// The other members.
    pub members: Vec<Etcd>,
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
        Self::on(nodes, vec![etcd], files)
    }

    /// Starts three nodes without files, each with an agent and a member of etcd.
    pub fn with_member_on_each_node() -> Result<Self> {
        let nodes = Nodes::new(3, 1500)?;
        let addresses: Vec<String> = (0..nodes.nodes.len()).map(Nodes::vtep4).collect();
        let members = Etcd::start_all(&nodes.nodes, &addresses, &nodes.path("etcd"))?;
        Self::on(nodes, members, &[])
    }

    fn on(nodes: Nodes, mut members: Vec<Etcd>, files: &[(&str, &str)]) -> Result<Self> {
        let mut cluster = Self {
            agents: Vec::new(),
            etcd: members.remove(0),
            members,
            nodes,
        };
        for node in 0..cluster.nodes.nodes.len() {
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
        self.start_with(node, &[])
    }

    /// Starts the agent of a node with further options.
    pub fn start_with(&mut self, node: usize, options: &[&str]) -> Result<()> {
        let store = format!("--store={}", self.etcd.store());
        let options = [&[store.as_str()], options].concat();
        self.agents[node].start(&self.nodes.nodes[node], &format!("n{node}"), &options)
    }

    /// Cuts a node off from members of etcd on other nodes, in both directions. Packets are dropped without an answer.
    pub fn cut(&self, node: usize) -> Result<()> {
        let node = &self.nodes.nodes[node];
        node.run("nft add table inet cut")?;
        let ports = format!("{{{PORT},{}}}", PORT + 1);
        for (hook, link) in [("input", "iifname"), ("output", "oifname")] {
            node.run(&format!(
                "nft add chain inet cut {hook} {{ type filter hook {hook} priority 0 ; }}"
            ))?;
            for end in ["sport", "dport"] {
                node.run(&format!(
                    "nft add rule inet cut {hook} {link} eth0 tcp {end} {ports} drop"
                ))?;
            }
        }
        Ok(())
    }

    /// Ends the effect of [`cut`](Self::cut).
    pub fn heal(&self, node: usize) -> Result<()> {
        self.nodes.nodes[node].run("nft delete table inet cut").map(drop)
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
