//! The node agent, with a directory of VMs.

use crate::guest::{Guest, Kind, Plan};
use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time for a VM to reach a state.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent and the processes that it has started. All end when this is dropped.
#[derive(Debug)]
pub struct Agent {
    folder: PathBuf,
    process: Option<Background>,
}

impl Agent {
    /// Prepares an agent whose files are in `folder`.
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(folder.join("vms"))?;
        fs::create_dir_all(folder.join("shared"))?;
        let process = None;
        Ok(Self { folder, process })
    }

    /// Starts the agent on the node `name`.
    pub fn start(&mut self, namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = namespace.command(artifacts::agent()?);
        command.arg("serve").arg(format!("--node={name}"));
        command.arg("--hawser").arg(artifacts::hawser()?);
        command.arg("--vm-dir").arg(self.folder.join("vms"));
        command.arg("-f").arg(self.folder.join("shared"));
        command.arg("--run-dir").arg(self.run_dir()).args(arguments);
        self.process = Some(Background::start(
            command,
            "hawser-agent",
            self.folder.join("agent.log"),
        )?);
        Ok(())
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The process of the agent.
    pub fn process(&mut self) -> Result<&mut Background> {
        self.process.as_mut().ok_or_else(|| failure("the agent is not started"))
    }

    /// Kills the agent. The processes of the VMs continue.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Writes a file that VMs share.
    pub fn share(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("shared").join(name), text)?)
    }

    /// Writes the file of a VM.
    pub fn describe(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.vm_file(name), text)?)
    }

    /// Removes the file of a VM.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.vm_file(name))?)
    }

    fn vm_file(&self, name: &str) -> PathBuf {
        self.folder.join("vms").join(format!("{name}.yaml"))
    }

    /// Output of `hawser-agent get` with these options.
    pub fn get(&self, options: &[&str]) -> Result<String> {
        let mut command = Command::new(artifacts::agent()?);
        let output = command
            .arg("get")
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(options)
            .output()?;
        if !output.status.success() {
            return Err(failure(String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The VM's report; `Null` if there is none.
    pub fn vm(&self, name: &str) -> Result<Value> {
        let report: Value = serde_json::from_str(&self.get(&["--json"])?)?;
        let vms = report["vms"].as_array().cloned().unwrap_or_default();
        Ok(vms.into_iter().find(|vm| vm["name"] == name).unwrap_or_default())
    }

    /// Waits until the report of the VM satisfies `holds`.
    pub fn wait_for(&mut self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The agent has not written a report yet.
            let vm = self.vm(name).unwrap_or_default();
            if holds(&vm) {
                return Ok(vm);
            }
            self.process()?.assert_alive()?;
            if Instant::now() > deadline {
                return Err(self.process()?.failed(&format!("VM {name} is not {what}: {vm:#}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the VM is served.
    pub fn wait_running(&mut self, name: &str) -> Result<Value> {
        self.wait_for(name, "running", |vm| vm["phase"] == "Running")
    }

    /// Boots a guest on an interface of a VM that is served.
    pub fn boot(&mut self, name: &str, interface: &str) -> Result<Guest> {
        let vm = self.wait_running(name)?;
        let folder = Path::new(vm["folder"].as_str().unwrap_or_default());
        Plan::new(Kind::Uml, &folder.join(format!("{interface}.sock"))).boot()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process = None;
        let Ok(vms) = fs::read_dir(self.run_dir().join("vms")) else {
            return;
        };
        for vm in vms.flatten() {
            let text = fs::read_to_string(vm.path().join("pid")).unwrap_or_default();
            if let Some(pid) = text.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
                // SAFETY: takes plain numbers. The number is that of a process that this test's agent has started.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}
