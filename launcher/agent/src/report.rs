//! `hawser-agent get`: shows the VMs of this node from the agent's report.

use crate::cli::{Failure, GetArgs};
use crate::process::Process;
use crate::vm::{Phase, Vm};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// State of a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeReport {
    /// Name of the node.
    pub node: String,
    /// The reason why the directory or the store cannot be read.
    pub problem: Option<String>,
    /// The VMs, in the order of their names.
    pub vms: Vec<VmReport>,
    /// Problems of files that describe no VM.
    pub wrong: Vec<String>,
}

/// State of a VM.
#[derive(Debug, Serialize, Deserialize)]
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
    pub interfaces: Vec<InterfaceReport>,
}

/// State of an interface with a lease.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InterfaceReport {
    pub name: String,
    pub network: String,
    pub mac: Option<String>,
    pub addresses: Vec<String>,
    /// Tunnel endpoint of the interface, on a network that spans nodes.
    pub vtep: Option<String>,
}

impl VmReport {
    pub(crate) fn of(vm: &Vm) -> Self {
        let interfaces = vm.leases.iter().map(|lease| InterfaceReport {
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
        Self {
            namespace: vm.name.namespace.clone(),
            name: vm.name.name.clone(),
            phase: vm.phase,
            message: vm.message.clone(),
            pid: vm.process.as_ref().map(Process::id),
            folder: vm.folder.path().to_owned(),
            interfaces: interfaces.collect(),
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
pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
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
            table(&report)
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::runtime)
}

fn table(report: &NodeReport) -> String {
    let mut rows = vec![["NAMESPACE", "NAME", "PHASE", "ADDRESSES", "MESSAGE"].map(str::to_owned)];
    for vm in &report.vms {
        let addresses: Vec<&str> = vm
            .interfaces
            .iter()
            .flat_map(|nic| nic.addresses.iter().map(String::as_str))
            .collect();
        let message = vm.message.lines().next().unwrap_or_default().to_owned();
        let phase = format!("{:?}", vm.phase);
        rows.push([
            vm.namespace.clone(),
            vm.name.clone(),
            phase,
            addresses.join(","),
            message,
        ]);
    }
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for problem in report.problem.iter().chain(&report.wrong) {
        let _ = writeln!(text, "{problem}");
    }
    text
}
