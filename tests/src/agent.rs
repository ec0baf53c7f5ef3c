//! The node agent, with a directory of VMs.

use crate::guest::{Guest, Kind, Plan};
use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Longest time for a VM to reach a state.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent and the processes that it has started. All end when this is dropped.
#[derive(Debug)]
pub struct Agent {
    folder: PathBuf,
    process: Option<Background>,
    environment: Vec<(String, String)>,
}

impl Agent {
    /// Prepares an agent whose files are in `folder`.
    pub fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(folder.join("vms"))?;
        fs::create_dir_all(folder.join("shared"))?;
        Ok(Self {
            folder,
            process: None,
            environment: Vec::new(),
        })
    }

    /// Sets a variable of the agent's environment for its next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the agent on the node `name`.
    pub fn start(&mut self, namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<()> {
        let mut command = namespace.command(artifacts::agent()?);
        command.envs(self.environment.iter().cloned());
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

    /// Kills the agent while others use it. [`start`](Self::start) starts it again.
    pub fn kill_now(&self) {
        if let Some(process) = &self.process {
            // It may have ended.
            let _ = process.signal(libc::SIGKILL);
        }
    }

    /// Kills the process of one of the VMs that the agent serves, if there is one.
    pub fn kill_one_vm(&self, number: u64) {
        let pids = self.vm_pids();
        let at = usize::try_from(number).unwrap_or(0).checked_rem(pids.len());
        if let Some(pid) = at.map(|at| pids[at]) {
            // SAFETY: takes plain numbers. The number is that of a process that this test's agent has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Number of the running processes of VMs.
    pub fn running_vms(&self) -> usize {
        self.vm_pids().len()
    }

    /// Numbers of the running processes of VMs.
    fn vm_pids(&self) -> Vec<i32> {
        let vms = fs::read_dir(self.run_dir().join("vms")).into_iter().flatten();
        let pid = |vm: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(vm.ok()?.path().join("pid")).ok()?;
            let (pid, start) = text.trim_end().split_once(' ')?;
            // Another process may have got the number in the meantime.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, fields) = stat.rsplit_once(')')?;
            let is_same = fields.split_whitespace().nth(19) == Some(start);
            is_same.then(|| pid.parse().ok())?
        };
        vms.filter_map(pid).collect()
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

    /// Runs `hawser-agent` with a subcommand and its options.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(artifacts::agent()?);
        command.args(arguments).arg("--run-dir").arg(self.run_dir());
        Ok(command.output()?)
    }

    /// Output of `hawser-agent` with a subcommand that succeeds.
    pub fn sh(&self, arguments: &str) -> Result<String> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let output = self.run(&arguments)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(failure(format!("hawser-agent {arguments:?}: {error}")));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Exit status and error of `hawser-agent` with a subcommand that fails.
    pub fn refused(&self, arguments: &str) -> Result<(Option<i32>, String)> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let output = self.run(&arguments)?;
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(failure(format!("hawser-agent {arguments:?} succeeded: {text}")));
        }
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    }

    /// Writes a file for commands, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Writes a program for the agent, and returns its path.
    pub fn program(&self, name: &str, text: &str) -> Result<String> {
        let path = self.file(name, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Path of the directory of a VM's sockets.
    pub fn vm_folder(&self, namespace: &str, name: &str) -> PathBuf {
        self.run_dir().join("vms").join(format!("{namespace}.{name}"))
    }

    /// The body that the agent's API returns for a path.
    pub fn http(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.run_dir().join("api.sock"))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(body.to_owned()),
            false => Err(failure(format!("{path}: {answer}"))),
        }
    }

    /// Output of `hawser-agent status`.
    pub fn status(&self) -> Result<String> {
        self.sh("status")
    }

    /// The VM's report; `Null` if there is none.
    pub fn vm(&self, name: &str) -> Result<Value> {
        let report: Value = serde_json::from_str(&self.sh("status --json")?)?;
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
        for pid in self.vm_pids() {
            // SAFETY: takes plain numbers. The number is that of a process that this test's agent has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}
