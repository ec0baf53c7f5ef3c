//! `hawser-agent status`: shows the VMs of this node from the agent's report.

use crate::cli::{Failure, StatusArgs};
use crate::history::EventKind;
use crate::objects::InterfaceStatus;
use crate::output::table;
use crate::process::Process;
use crate::vm::{Phase, Vm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// State of a node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeReport {
    /// Name of the node.
    pub node: String,
    /// The reason why the directory or the store cannot be read.
    pub problem: Option<String>,
    /// The VMs, in the order of their names.
    pub vms: Vec<VmReport>,
    /// Problems of descriptions that cannot be served.
    pub wrong: Vec<String>,
    /// Networks that span nodes and have VMs on this node, with the number of ports on all nodes.
    #[serde(default)]
    pub networks: BTreeMap<String, usize>,
    /// What has happened since the agent was started.
    #[serde(default)]
    pub counts: Counts,
}

/// What has happened since the agent was started.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counts {
    /// Events of VMs, by kind.
    pub events: BTreeMap<EventKind, u64>,
    /// Turns in which the store did not answer.
    pub store_failures: u64,
}

/// State of a VM.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmReport {
    pub namespace: String,
    pub name: String,
    pub phase: Phase,
    /// The reason why it waits, or the problem of its newest manifest.
    pub message: String,
    pub pid: Option<i32>,
    /// Directory of its sockets.
    pub folder: PathBuf,
    /// Socket of its process's API.
    #[serde(default)]
    pub api: PathBuf,
    pub interfaces: Vec<InterfaceStatus>,
}

/// The interfaces of a VM that have leases.
pub(crate) fn interfaces(vm: &Vm) -> Vec<InterfaceStatus> {
    let interfaces = vm.leases.iter().map(|lease| InterfaceStatus {
        name: lease.holder.interface.clone(),
        network: lease.network.clone(),
        mac: lease.mac.map(|mac| mac.to_string()),
        addresses: lease.addresses.iter().map(ToString::to_string).collect(),
        vtep: vm
            .ports
            .iter()
            .find(|port| port.port.holder == lease.holder)
            .map(|port| port.binding.vtep.to_string()),
    });
    interfaces.collect()
}

impl VmReport {
    pub(crate) fn of(vm: &Vm) -> Self {
        Self {
            namespace: vm.name.namespace.clone(),
            name: vm.name.name.clone(),
            phase: vm.phase,
            message: vm.message.clone(),
            pid: vm.process.as_ref().and_then(Process::id),
            folder: vm.folder.path().to_owned(),
            api: vm.folder.api(),
            interfaces: interfaces(vm),
        }
    }
}

/// Path of the file with the report.
pub(crate) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("node.json")
}

/// Runs the command.
///
/// # Errors
/// There is no report.
pub(crate) fn show(args: &StatusArgs) -> Result<(), Failure> {
    let path = path(&args.run_dir);
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::runtime(format_args!(
            "{}: {error}; check that hawser-agent runs there with --run-dir",
            path.display()
        ))
    })?;
    let text = match args.json {
        true => text + "\n",
        false => {
            let report: NodeReport = serde_json::from_str(&text)
                .map_err(|error| Failure::runtime(format_args!("{}: {error}", path.display())))?;
            node_table(&report)
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::runtime)
}

fn node_table(report: &NodeReport) -> String {
    let mut rows = vec![
        ["NAMESPACE", "NAME", "PHASE", "ADDRESSES", "MESSAGE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for vm in &report.vms {
        let addresses: Vec<&str> = vm
            .interfaces
            .iter()
            .flat_map(|nic| nic.addresses.iter().map(String::as_str))
            .collect();
        let message = vm.message.lines().next().unwrap_or_default().to_owned();
        let phase = format!("{:?}", vm.phase);
        rows.push(vec![
            vm.namespace.clone(),
            vm.name.clone(),
            phase,
            addresses.join(","),
            message,
        ]);
    }
    let mut text = table(&rows);
    for problem in report.problem.iter().chain(&report.wrong) {
        let _ = writeln!(text, "{problem}");
    }
    text
}
