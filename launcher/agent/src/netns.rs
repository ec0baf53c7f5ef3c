//! The network namespace of a VM's process: one that was made by others for the VM, or one that the agent makes and
//! removes.
//!
//! A namespace that the agent makes has only a loopback interface. The operator's program (`--netns-program`) connects
//! it: the agent runs `PROGRAM add NAMESPACE.NAME PATH` after it has made the namespace, and `PROGRAM del …` before it
//! removes it, as a container runtime runs the plug-ins of CNI. A record in the VM's directory, which is written first,
//! tells a later agent that the namespace is to be removed.

use crate::cli::ServeArgs;
use crate::folder::VmFolder;
use crate::peers::replace;
use hawser_host::named_namespace;
use hawser_store::VmName;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Directory of the namespaces that `ip netns` shows.
const NAMED: &str = "/run/netns";
/// Pause before a program that has failed runs again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the agent has made for a VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    path: PathBuf,
    /// True once the operator's program has connected it.
    is_connected: bool,
}

/// The namespace of a VM, and the operator's program while it runs.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    record: PathBuf,
    log: PathBuf,
    program: Program,
}

/// The operator's program.
#[derive(Debug)]
enum Program {
    Idle,
    Running(Child),
    /// It has failed, and runs again after a pause.
    Failed {
        until: Instant,
    },
}

/// Whether a step is complete.
#[derive(Debug)]
pub(crate) enum Progress<T> {
    Done(T),
    /// The operator's program runs.
    Pending,
}

impl Netns {
    pub(crate) fn of(vm: &VmName, folder: &VmFolder) -> Self {
        Self {
            name: format!("{}.{}", vm.namespace, vm.name),
            record: folder.netns(),
            log: folder.netns_log(),
            program: Program::Idle,
        }
    }

    /// The path of the namespace in which the VM's process is to run; `None` if it is that of the agent.
    ///
    /// # Errors
    /// The namespace cannot be made, or the operator's program failed.
    pub(crate) fn prepare(&mut self, args: &ServeArgs, now: Instant) -> Result<Progress<Option<PathBuf>>, String> {
        let Some(path) = self.path(args) else {
            return Ok(Progress::Done(None));
        };
        let known = self.made();
        if known.is_none() {
            match fs::exists(&path) {
                // Others have made it.
                Ok(true) => return Ok(Progress::Done(Some(path))),
                Ok(false) if !args.make_netns => return Ok(Progress::Done(None)),
                Ok(false) => {}
                Err(error) => return Err(format!("--netns-dir: {}: {error}", path.display())),
            }
        }
        let mut made = known.unwrap_or(Made {
            path,
            is_connected: false,
        });
        // After a restart of the machine, the record of a directory that was kept is all that is left.
        made.is_connected &= named_namespace::is_kept_in(&made.path);
        if !made.is_connected {
            if matches!(self.program, Program::Idle) {
                self.note(&made)?;
                named_namespace::make(&made.path)
                    .map_err(|error| format!("--make-netns: {}: {error}", made.path.display()))?;
            }
            if let Progress::Pending = self.run(args, "add", &made.path, now)? {
                return Ok(Progress::Pending);
            }
            made.is_connected = true;
            self.note(&made)?;
        }
        Ok(Progress::Done(Some(made.path)))
    }

    /// Removes the namespace if the agent has made it. No process may run in it.
    ///
    /// # Errors
    /// The operator's program failed, or the namespace cannot be removed. It is kept.
    pub(crate) fn remove(&mut self, args: &ServeArgs, now: Instant) -> Result<Progress<()>, String> {
        let Some(made) = self.made() else {
            return Ok(Progress::Done(()));
        };
        if let Progress::Pending = self.run(args, "del", &made.path, now)? {
            return Ok(Progress::Pending);
        }
        named_namespace::remove(&made.path).map_err(|error| unusable(&made.path, &error))?;
        fs::remove_file(&self.record).map_err(|error| unusable(&self.record, &error))?;
        Ok(Progress::Done(()))
    }

    fn path(&self, args: &ServeArgs) -> Option<PathBuf> {
        let named = args.make_netns.then_some(Path::new(NAMED));
        args.netns_dir
            .as_deref()
            .or(named)
            .map(|folder| folder.join(&self.name))
    }

    fn made(&self) -> Option<Made> {
        serde_json::from_str(&fs::read_to_string(&self.record).ok()?).ok()
    }

    fn note(&self, made: &Made) -> Result<(), String> {
        let text = serde_json::to_string(made).map_err(|error| error.to_string())?;
        replace(&self.record, &text).map_err(|error| unusable(&self.record, &error))
    }

    /// Starts the operator's program, or looks whether it has ended.
    fn run(&mut self, args: &ServeArgs, verb: &str, path: &Path, now: Instant) -> Result<Progress<()>, String> {
        let Some(program) = &args.netns_program else {
            return Ok(Progress::Done(()));
        };
        let failed = |error: io::Error| format!("--netns-program={}: {error}", program.display());
        let running = match &mut self.program {
            Program::Running(running) => running,
            Program::Failed { until } if now < *until => return Ok(Progress::Pending),
            Program::Idle | Program::Failed { .. } => {
                let log = File::create(&self.log).map_err(|error| unusable(&self.log, &error))?;
                let mut command = Command::new(program);
                command.arg(verb).arg(&self.name).arg(path);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
                self.program = Program::Running(command.spawn().map_err(failed)?);
                return Ok(Progress::Pending);
            }
        };
        let Some(status) = running.try_wait().map_err(failed)? else {
            return Ok(Progress::Pending);
        };
        if status.success() {
            self.program = Program::Idle;
            return Ok(Progress::Done(()));
        }
        self.program = Program::Failed { until: now + PAUSE };
        let words = fs::read_to_string(&self.log).unwrap_or_default();
        let program = program.display();
        Err(format!(
            "--netns-program={program} {verb}: {status}: {}",
            words.trim_end()
        ))
    }
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
