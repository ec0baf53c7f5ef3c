//! Tests of the leases of many processes that share a store, some of which are killed.

use hawser_testkit::{Result, artifacts, failure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;

/// Number of concurrent processes.
const PROCESSES: usize = 100;
/// VMs of each process.
const VMS: usize = 100;
/// One process of this many is killed.
const KILLED: usize = 4;

/// A segment and a range for all processes.
const NETWORK: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan}
spec:
  config: '{"type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.20.0.0/16"}}'
"#;

/// Manifests of the VMs for which one process allocates leases.
fn manifest(process: usize) -> String {
    let mut text = NETWORK.to_owned();
    for vm in 0..VMS {
        let _ = write!(
            text,
            "---\napiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: vm-{process}-{vm}}}\nspec:\n  \
             domain: {{devices: {{interfaces: [{{name: lan, bridge: {{}}}}]}}}}\n  networks: [{{name: lan, multus: \
             {{networkName: lan}}}}]\n"
        );
    }
    text
}

struct Stage {
    folder: TempDir,
    hawser: PathBuf,
}

impl Stage {
    /// Uses a directory in memory if there is one. Data written by a killed process stays with the kernel in any case.
    fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let builder = tempfile::Builder::new();
        let folder = if memory.is_dir() {
            builder.tempdir_in(memory)?
        } else {
            builder.tempdir()?
        };
        for process in 0..PROCESSES {
            fs::write(folder.path().join(format!("{process}.yaml")), manifest(process))?;
        }
        let hawser = artifacts::hawser()?;
        Ok(Self { folder, hawser })
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.hawser);
        command.args(["leases", subcommand]).current_dir(self.folder.path());
        command.arg("--store=store.db");
        command
    }

    /// Runs one process, and kills it once it has reported this many leases. Returns its output and exit status.
    fn allocate(&self, process: usize, kill_after: Option<usize>) -> Result<(Vec<String>, ExitStatus)> {
        let mut command = self.command("allocate");
        command.arg("-f").arg(format!("{process}.yaml"));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| failure("there is no output".to_owned()))?;
        let mut lines = Vec::new();
        let mut output = BufReader::new(output);
        loop {
            if kill_after == Some(lines.len()) {
                child.kill()?;
            }
            let mut line = String::new();
            if output.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        Ok((lines, child.wait()?))
    }

    /// Runs all `processes` at once.
    fn allocate_all(
        &self,
        processes: &BTreeMap<usize, Option<usize>>,
    ) -> Result<BTreeMap<usize, (Vec<String>, ExitStatus)>> {
        thread::scope(|scope| {
            let running: Vec<_> = processes
                .iter()
                .map(|(&process, &kill_after)| {
                    let work = move || self.allocate(process, kill_after).map_err(|e| e.to_string());
                    (process, scope.spawn(work))
                })
                .collect();
            let mut told = BTreeMap::new();
            for (process, thread) in running {
                let ended = thread.join().map_err(|_| failure("a thread panicked".to_owned()))?;
                told.insert(process, ended.map_err(failure)?);
            }
            Ok(told)
        })
    }

    fn list(&self) -> Result<BTreeSet<String>> {
        let output = self.command("list").output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        let set: BTreeSet<String> = lines.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(set.len(), lines.len());
        Ok(set)
    }
}

/// Checks that no field of `VM INTERFACE NETWORK MAC ADDRESS` has duplicates that it must not have.
fn assert_no_doubles(leases: &BTreeSet<String>) {
    for (field, what) in [(0, "VMs"), (3, "MACs"), (4, "addresses")] {
        let values: BTreeSet<&str> = leases.iter().filter_map(|line| line.split(' ').nth(field)).collect();
        assert_eq!(values.len(), leases.len(), "{what}");
    }
}

#[test]
fn a_hundred_processes_give_out_ten_thousand_leases_without_a_double_and_lose_none_when_killed() -> Result<()> {
    let stage = Stage::new()?;
    // Each process is killed at a different moment, which varies between runs.
    let seed = usize::try_from(std::process::id())?;
    let moment = |process: usize| process.is_multiple_of(KILLED).then_some((process * 37 + seed) % VMS);
    let plan = (0..PROCESSES).map(|process| (process, moment(process))).collect();
    let start = Instant::now();
    let told = stage.allocate_all(&plan)?;
    let kept = stage.list()?;
    assert_no_doubles(&kept);
    let mut killed = BTreeMap::new();
    for (process, (lines, status)) in &told {
        if status.signal().is_some() {
            killed.insert(*process, None);
        } else {
            assert!(status.success() && lines.len() == VMS, "{process}: {status}");
        }
        for line in lines {
            assert!(kept.contains(line), "{line} was given out and is lost");
        }
    }
    assert!(
        killed.len() > PROCESSES / KILLED / 2,
        "only {} were killed in their midst",
        killed.len()
    );
    let again = stage.allocate_all(&killed)?;
    let elapsed = start.elapsed();
    let all = stage.list()?;
    assert_eq!(all.len(), PROCESSES * VMS);
    assert_no_doubles(&all);
    // Processes that returned have found their leases, and the others have kept theirs.
    assert!(kept.is_subset(&all));
    for (process, (lines, status)) in &again {
        assert!(status.success() && lines.len() == VMS, "{process}: {status}");
        assert!(told[process].0.iter().all(|line| lines.contains(line)));
    }
    println!(
        "{} leases by {PROCESSES} processes, {} of them killed: {elapsed:.1?}",
        all.len(),
        killed.len()
    );
    Ok(())
}

/// A VM on the primary network of a namespace.
fn on_primary_network(namespace: &str, vm: &str) -> String {
    format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: {vm}, namespace: {namespace}}}
spec:
  domain: {{devices: {{interfaces: [{{name: udn, binding: {{name: l2bridge}}}}]}}}}
  networks: [{{name: udn, pod: {{}}}}]
---
apiVersion: k8s.ovn.org/v1
kind: UserDefinedNetwork
metadata: {{name: primary-udn, namespace: {namespace}}}
spec: {{topology: Layer2, layer2: {{role: Primary, subnets: [192.168.254.0/24]}}}}
"
    )
}

#[test]
fn an_identifier_belongs_to_one_network_and_a_network_has_one_identifier() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let allocate = |namespace: &str, vm: &str, vni: u32| -> Result<(bool, String)> {
        fs::write(folder.path().join("vm.yaml"), on_primary_network(namespace, vm))?;
        let mut command = Command::new(artifacts::hawser()?);
        command.args(["leases", "allocate", "-f", "vm.yaml", "--store=store.db"]);
        let output = command
            .arg(format!("--vni={vni}"))
            .current_dir(folder.path())
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (given, said) = allocate("shop", "vm1", 4711)?;
    assert!(given && said.contains("0a:58:c0:a8:fe:03 192.168.254.3/24"), "{said}");
    let (given, said) = allocate("other", "vm2", 4711)?;
    let place = "network shop_primary-udn, where interface udn of VM shop/vm1 has a lease";
    assert!(!given && said.contains(place), "{said}");
    let (given, said) = allocate("shop", "vm2", 4712)?;
    assert!(
        !given && said.contains("identifier 4711 and 192.168.254.0/24 for interface udn"),
        "{said}"
    );
    let (given, said) = allocate("shop", "vm2", 4711)?;
    assert!(given && said.contains("0a:58:c0:a8:fe:04 192.168.254.4/24"), "{said}");
    // Another network may have the same subnet, and assigns its addresses anew.
    let (given, said) = allocate("other", "vm2", 4712)?;
    assert!(given && said.contains("0a:58:c0:a8:fe:03 192.168.254.3/24"), "{said}");
    Ok(())
}
