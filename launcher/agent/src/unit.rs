//! The processes of VMs as units of systemd: VM `NAMESPACE/NAME` is `hawser@NAMESPACE.NAME.service`.
//!
//! The unit's template is the packaged one. It reads its arguments from a file in the VM's directory ([`Unit::start`]),
//! so a start needs no change of units. systemd starts a process that was killed again by itself, also while no agent
//! runs; the agent then finds the new process by the unit. The file is removed once the unit is stopped, so its
//! existence means that the unit may run.

use crate::folder::VmFolder;
use crate::peers::replace;
use hawser_store::VmName;
use rustix::process::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Exists if systemd is the service manager (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Directory of the agent that the template names.
pub(crate) const RUN_DIR: &str = "/run/hawser-agent";
/// A unit of the template that no VM has: the name of a VM begins with that of its namespace.
const PROBE: &str = "hawser@.probe.service";
/// Directory in which the template has a directory for each unit.
const UNIT_DIRS: &str = "/run/hawser";
/// The variables of the template: the manifests and sockets, and what the agent adds.
const VM: &str = "HAWSER_VM";
const NODE: &str = "HAWSER_NODE";

/// The unit of a VM.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    instance: String,
    settings: PathBuf,
}

/// The arguments of `hawser run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The manifests and the directory of sockets, which `hawser plug` has too.
    pub vm: Vec<OsString>,
    /// What the node adds.
    pub node: Vec<OsString>,
}

/// The reason why systemd cannot run the processes of VMs.
pub(crate) fn obstacle(run_dir: &Path, program: &Path) -> Option<String> {
    if !Path::new(BOOTED).exists() {
        return Some("systemd does not run here".to_owned());
    }
    if run_dir != Path::new(RUN_DIR) || program != Path::new("hawser") {
        return Some(format!(
            "hawser@.service starts /usr/bin/hawser with --run-dir={RUN_DIR}, not --run-dir={} and --hawser={}",
            run_dir.display(),
            program.display()
        ));
    }
    let files = systemctl(&["show", "--property=EnvironmentFiles", PROBE]).output();
    let is_known = files.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(RUN_DIR));
    (!is_known).then(|| "systemd has no hawser@.service of this version: install the package".to_owned())
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Unit {
    pub(crate) fn of(vm: &VmName, folder: &VmFolder) -> Self {
        Self {
            instance: format!("{}.{}", vm.namespace, vm.name),
            settings: folder.unit(),
        }
    }

    /// Name for systemctl(1).
    pub(crate) fn name(&self) -> String {
        format!("hawser@{}.service", self.instance)
    }

    /// True if the unit was started and not stopped since.
    pub(crate) fn may_run(&self) -> bool {
        self.settings.exists()
    }

    /// Begins to start the unit. The returned process ends when the unit is ready or has failed; its log is `log`.
    ///
    /// # Errors
    /// An argument cannot be passed on, or a system call failed.
    pub(crate) fn start(&self, arguments: &Arguments, log: File) -> io::Result<Child> {
        let text = format!("{VM}={}\n{NODE}={}\n", quoted(&arguments.vm)?, quoted(&arguments.node)?);
        let is_known = fs::read_to_string(&self.settings).is_ok_and(|known| known == text);
        replace(&self.settings, &text)?;
        // A process that systemd started again by itself has the earlier arguments.
        let verb = if is_known { "start" } else { "restart" };
        let job = systemctl(&[verb, &self.name()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        job.map_err(|error| io::Error::new(error.kind(), format!("systemctl: {error}")))
    }

    /// PID of the unit's process, if it runs.
    pub(crate) fn main_pid(&self) -> Option<Pid> {
        let output = systemctl(&["show", "--property=MainPID", "--value", &self.name()])
            .output()
            .ok()?;
        Pid::from_raw(String::from_utf8(output.stdout).ok()?.trim().parse().ok()?)
    }

    /// Requests the end of the unit.
    pub(crate) fn request_stop(&self) {
        self.order(&["stop", "--no-block"]);
    }

    /// Kills the unit's process.
    pub(crate) fn kill(&self) {
        self.order(&["kill", "--signal=SIGKILL"]);
    }

    /// Ensures that systemd no longer runs the unit, and forgets it.
    pub(crate) fn settle(&self) {
        if !self.may_run() {
            return;
        }
        self.order(&["stop"]);
        // This fails for a unit that has not failed.
        self.order(&["reset-failed"]);
        // The template keeps it, and its lock, for a process that starts again.
        let folder = Path::new(UNIT_DIRS).join(&self.instance);
        let _ = fs::remove_dir_all(folder);
        let _ = fs::remove_file(&self.settings);
    }

    /// Asks systemd for a change. Without an answer, the process is there to be asked again.
    fn order(&self, words: &[&str]) {
        let name = self.name();
        let words: Vec<&str> = words.iter().copied().chain([name.as_str()]).collect();
        let _ = systemctl(&words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Arguments as the value of a variable (EnvironmentFile of systemd.exec(5)), which the template splits at blanks.
fn quoted(arguments: &[OsString]) -> io::Result<String> {
    let mut words = Vec::new();
    for argument in arguments {
        let is_plain = |text: &&str| !text.contains(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\'));
        let text = argument.to_str().filter(is_plain);
        words.push(text.ok_or_else(|| unusable(argument))?);
    }
    Ok(format!(
        "\"{}\"",
        words.join(" ").replace('$', "\\$").replace('`', "\\`")
    ))
}

fn unusable(argument: &OsStr) -> io::Error {
    let argument = argument.display();
    io::Error::other(format!(
        "a unit takes no argument with blanks or quotes: {argument}; give --supervisor=agent"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_one_value_that_systemd_splits() {
        let value = |words: &[&str]| quoted(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(value(&["-f", "/run/a b.yaml"]).ok(), None);
        assert_eq!(value(&["-f", "/run/a.yaml"]).unwrap(), "\"-f /run/a.yaml\"");
        assert_eq!(value(&["--log=$x"]).unwrap(), "\"--log=\\$x\"");
        let error = value(&["--log='x'"]).unwrap_err().to_string();
        assert!(error.contains("--supervisor=agent"), "{error}");
    }
}
