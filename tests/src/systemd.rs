//! Runs the units of hawser and its agent, in their packaged form, under a systemd of the test.
//!
//! That systemd is the first process of its own namespaces, on a copy of this machine's root that discards writes, and
//! has no other units. Manifests and sockets are in directories that the test also sees.

use crate::netns::Namespace;
use crate::process::Background;
use crate::{Result, artifacts, failure, until};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SCRIPT: &str = include_str!("systemd.sh");
const PATIENCE: Duration = Duration::from_secs(30);

/// Units on which system units depend. They do nothing here.
const TARGETS: [&str; 5] = ["sysinit", "basic", "network-online", "shutdown", "multi-user"];

/// A running systemd. Fields are dropped in order: the process ends, then its control groups are removed.
#[derive(Debug)]
pub struct Systemd {
    process: Background,
    /// Process id of systemd itself.
    first: u32,
    folder: TempDir,
    _cgroup: Cgroup,
}

/// A control group, which is removed on drop together with those below it.
#[derive(Debug)]
struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates a control group below that of this process.
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find_map(|mount| (mount.get(2) == Some(&"cgroup2")).then(|| mount[1].to_owned()));
        let root = root.ok_or_else(|| failure("no cgroup2 file system is mounted"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let path = Path::new(&root)
            .join(own)
            .join(format!("hawser-test-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| failure(format!("{}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The processes of the group may take a moment to end.
        let _ = until("the control groups are empty", || Ok(remove(&self.0).is_ok()));
    }
}

/// Removes a control group and those below it.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

impl Systemd {
    /// Starts systemd in `namespace`, with hawser's unit, and waits until it accepts commands.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let cgroup = Cgroup::new()?;
        let folder = tempfile::Builder::new().prefix("hawser-systemd-").tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let settings = ["hawser@", "hawser-agent"].map(|unit| format!("units/{unit}.service.d"));
        for name in ["etc", "run", "agent", "units"]
            .into_iter()
            .chain(settings.iter().map(String::as_str))
        {
            fs::create_dir(path(name))?;
        }
        for target in TARGETS {
            let wants = if target == "multi-user" {
                "Wants=basic.target\n"
            } else {
                ""
            };
            let unit = format!("[Unit]\nDefaultDependencies=no\n{wants}");
            fs::write(path(&format!("units/{target}.target")), unit)?;
        }
        for unit in ["dist/hawser@.service", "agent/dist/hawser-agent.service"] {
            let unit = artifacts::workspace().join("launcher").join(unit);
            fs::copy(&unit, path("units").join(unit.file_name().unwrap_or_default()))?;
        }
        // There is no journal.
        let log = "[Service]\nStandardError=append:/run/hawser/log\n";
        for folder in settings {
            fs::write(path(&folder).join("log.conf"), log)?;
        }
        fs::copy(artifacts::hawser()?, path("hawser"))?;
        fs::write(path("systemd.sh"), SCRIPT)?;

        let mut command = namespace.command("bash");
        command.arg(path("systemd.sh")).arg(&cgroup.0).arg(folder.path());
        let mut process = Background::start(command, "systemd (package systemd)", path("systemd.log"))?;
        let first = first_process(&mut process)?;
        let systemd = Self {
            process,
            first,
            folder,
            _cgroup: cgroup,
        };
        until("systemd takes orders", || {
            Ok(systemd.ctl("is-system-running")?.contains("running"))
        })
        .map_err(|e| systemd.process.failed(&e.to_string()))?;
        Ok(systemd)
    }

    /// Makes the agent's program available to units, and sets the agent's options.
    pub fn add_agent(&self, options: &str) -> Result<()> {
        // The directory of the agent is a mount that the test also sees.
        let program = self.folder.path().join("agent/hawser-agent");
        fs::copy(artifacts::agent()?, program)?;
        self.must_run("ln -s /run/hawser-agent/hawser-agent /usr/bin/hawser-agent")?;
        let conf = self.folder.path().join("etc/agent.conf");
        Ok(fs::write(conf, format!("HAWSER_AGENT_OPTIONS={options}\n"))?)
    }

    /// The directory of the agent, as this process sees it.
    pub fn agent_dir(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Writes the manifest of the VM `name`.
    pub fn describe(&self, name: &str, manifest: &str) -> Result<()> {
        let folder = self.folder.path().join("etc");
        Ok(fs::write(folder.join(format!("{name}.yaml")), manifest)?)
    }

    /// Removes the manifest of the VM `name`.
    pub fn forget(&self, name: &str) -> Result<()> {
        let folder = self.folder.path().join("etc");
        Ok(fs::remove_file(folder.join(format!("{name}.yaml")))?)
    }

    /// Adds an administrator's settings for the VM `name`: options of hawser, and lines of `[Service]`.
    pub fn adjust(&self, name: &str, options: &str, lines: &str) -> Result<()> {
        let (etc, units) = (self.folder.path().join("etc"), self.folder.path().join("units"));
        fs::write(etc.join(format!("{name}.conf")), format!("HAWSER_OPTIONS={options}\n"))?;
        let folder = units.join(format!("hawser@{name}.service.d"));
        fs::create_dir(&folder)?;
        Ok(fs::write(folder.join("local.conf"), format!("[Service]\n{lines}\n"))?)
    }

    /// The directory of the sockets of the VM `name`, as this process sees it.
    pub fn sockets(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    /// Everything that units wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("run/log")).unwrap_or_default()
    }

    /// The output of `systemctl WORDS`, whether or not it succeeds.
    pub fn ctl(&self, words: &str) -> Result<String> {
        self.run(&format!("systemctl {words}")).map(|(_, text)| text)
    }

    /// Runs `systemctl WORDS`, which must succeed.
    pub fn must(&self, words: &str) -> Result<()> {
        self.must_run(&format!("systemctl {words}")).map(|_| ())
    }

    /// The output of a command inside, which must succeed.
    pub fn must_run(&self, line: &str) -> Result<String> {
        match self.run(line)? {
            (true, text) => Ok(text),
            (false, text) => Err(failure(format!("{line}: {text}\n{}", self.log()))),
        }
    }

    /// Properties of the unit of the VM `name`.
    pub fn unit(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let text = self.ctl(&format!("show hawser@{name}"))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Runs the words of `line` as a command inside. Returns whether it succeeded, and its output.
    pub fn run(&self, line: &str) -> Result<(bool, String)> {
        let output = Command::new("nsenter")
            .args(["--all", "--target", &self.first.to_string(), "--"])
            .args(line.split_whitespace())
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Waits for the child of unshare(1), which is in its namespaces from the start.
fn first_process(process: &mut Background) -> Result<u32> {
    let id = process.id();
    let children = move || fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let is_systemd =
        |child: &str| fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "systemd\n");
    process.wait_until("its first process", PATIENCE, |_| is_systemd(children().trim()))?;
    Ok(children().trim().parse()?)
}
