//! The hawser process of a VM: a child of the agent, or a unit of systemd. It outlives the agent, and a later agent finds
//! it by its PID file or its unit.

use crate::folder::VmFolder;
use crate::unit::{Arguments, Unit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// The command of hawser that serves a VM.
const RUN: &str = "run";

/// A process, from its start until it is reaped.
#[derive(Debug)]
pub(crate) struct Process {
    /// `None` while systemd has not reported it.
    main: Option<Main>,
    keeper: Keeper,
}

/// The process itself.
#[derive(Debug)]
struct Main {
    pid: Pid,
    handle: OwnedFd,
}

/// What started the process and learns of its end.
#[derive(Debug)]
enum Keeper {
    /// This agent.
    Own {
        child: Child,
        /// Receives the notifications of the process for its service manager (sd_notify(3)).
        reports: UnixDatagram,
        is_ready: bool,
    },
    /// An earlier agent. The process already was ready. Otherwise it will end by itself.
    Earlier,
    /// systemd.
    Unit { unit: Unit, job: Job },
}

/// The start of a unit.
#[derive(Debug)]
enum Job {
    Running(Child),
    Done,
    Failed(String),
}

impl Main {
    fn of(pid: Pid) -> io::Result<Self> {
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, handle })
    }

    /// The process of a unit.
    fn of_unit(unit: &Unit, folder: &VmFolder) -> Option<Self> {
        let main = Self::of(unit.main_pid()?).ok()?;
        // Without the note, a later agent asks systemd as well.
        let _ = main.note(folder);
        Some(main)
    }

    fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut ended, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Lets a later agent find the process.
    fn note(&self, folder: &VmFolder) -> io::Result<()> {
        let start = started_at(self.pid).unwrap_or_default();
        fs::write(folder.pid(), format!("{} {start}\n", self.pid.as_raw_nonzero()))
    }

    /// The process that an earlier agent has noted, if it still runs.
    fn noted(folder: &VmFolder) -> Option<Self> {
        let text = fs::read_to_string(folder.pid()).ok()?;
        let (pid, start) = text.trim_end().split_once(' ')?;
        let main = Self::of(Pid::from_raw(pid.parse().ok()?)?).ok()?;
        // The start is read after the handle is open, because another process may have got the number.
        (started_at(main.pid)? == start && !main.has_ended()).then_some(main)
    }

    /// The process that an earlier agent has started and not noted, because the agent was killed in between. Its arguments
    /// name the directory.
    fn unnoted(folder: &VmFolder) -> Option<Self> {
        if !folder.path().exists() {
            return None;
        }
        let socket_dir = socket_dir(folder);
        let is_ours = |pid: &str| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
            arguments.next() == Some(RUN.as_bytes())
                && arguments.any(|argument| argument == socket_dir.as_encoded_bytes())
        };
        let pids = fs::read_dir("/proc").ok()?.flatten();
        pids.filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|pid| is_ours(pid))
            .find_map(|pid| {
                let main = Self::of(Pid::from_raw(pid.parse().ok()?)?).ok()?;
                // Another process may have got the number before the handle was open.
                let is_it = is_ours(&pid) && !main.has_ended();
                is_it.then(|| main.note(folder)).map(|_| main)
            })
    }
}

/// The argument that names the directory of a VM's sockets.
pub(crate) fn socket_dir(folder: &VmFolder) -> OsString {
    let mut argument = OsString::from("--socket-dir=");
    argument.push(folder.path());
    argument
}

impl Process {
    /// Starts `program` with `arguments`, in a network namespace or in that of the agent. Its log is a file in `folder`.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn start(
        program: &Path,
        arguments: &Arguments,
        folder: &VmFolder,
        namespace: Option<&Path>,
    ) -> io::Result<Self> {
        let namespace = namespace.map(File::open).transpose()?;
        let socket = folder.reports();
        // This is the socket of an earlier process.
        let _ = fs::remove_file(&socket);
        let reports = UnixDatagram::bind(&socket)?;
        reports.set_nonblocking(true)?;
        let log = log(folder)?;
        let mut command = Command::new(program);
        command
            .arg(RUN)
            .args(&arguments.vm)
            .args(&arguments.node)
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // Signals from the agent's terminal must not reach the VM.
            .process_group(0);
        let child = spawn_in(namespace.as_ref(), &mut command)?;
        let main = Main::of(Pid::from_child(&child))?;
        main.note(folder)?;
        let is_ready = false;
        Ok(Self {
            main: Some(main),
            keeper: Keeper::Own {
                child,
                reports,
                is_ready,
            },
        })
    }

    /// Makes systemd start a unit with `arguments`.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn start_unit(unit: Unit, arguments: &Arguments, folder: &VmFolder) -> io::Result<Self> {
        let job = Job::Running(unit.start(arguments, log(folder)?)?);
        Ok(Self {
            main: None,
            keeper: Keeper::Unit { unit, job },
        })
    }

    /// The process that an earlier agent started, if it still runs.
    pub(crate) fn find(folder: &VmFolder, unit: Unit) -> Option<Self> {
        let noted = Main::noted(folder);
        if !unit.may_run() {
            let keeper = Keeper::Earlier;
            return noted.or_else(|| Main::unnoted(folder)).map(|main| Self {
                main: Some(main),
                keeper,
            });
        }
        // systemd may have started it again in the meantime.
        let main = noted.or_else(|| Main::of_unit(&unit, folder))?;
        let job = Job::Done;
        Some(Self {
            main: Some(main),
            keeper: Keeper::Unit { unit, job },
        })
    }

    /// PID of the process, if it is known.
    pub(crate) fn id(&self) -> Option<i32> {
        self.main.as_ref().map(|main| main.pid.as_raw_nonzero().get())
    }

    /// The descriptor that is readable once the process has ended.
    pub(crate) fn handle(&self) -> Option<&OwnedFd> {
        self.main.as_ref().map(|main| &main.handle)
    }

    /// True once the process, or the attempt to start it, has ended.
    pub(crate) fn has_ended(&mut self, folder: &VmFolder) -> bool {
        if let Keeper::Unit { unit, job } = &mut self.keeper {
            job.look();
            match (&self.main, job) {
                (None, Job::Running(_)) => return false,
                (None, Job::Failed(_)) => return true,
                (None, Job::Done) => self.main = Main::of_unit(unit, folder),
                (Some(_), _) => {}
            }
        }
        self.main.as_ref().is_none_or(Main::has_ended)
    }

    /// True once the process has reported that it serves the VM.
    pub(crate) fn is_ready(&mut self) -> bool {
        match &mut self.keeper {
            Keeper::Earlier => true,
            Keeper::Own { reports, is_ready, .. } => {
                let mut message = [0; 512];
                while let Ok(length) = reports.recv(&mut message) {
                    let text = String::from_utf8_lossy(&message[..length]).into_owned();
                    *is_ready |= text.lines().any(|line| line == "READY=1");
                }
                *is_ready
            }
            Keeper::Unit { .. } => self.main.is_some(),
        }
    }

    /// Requests the end of the process.
    pub(crate) fn stop(&self) {
        if let Keeper::Unit { unit, .. } = &self.keeper {
            unit.request_stop();
        } else if let Some(main) = &self.main {
            // The process may already have ended.
            let _ = pidfd_send_signal(&main.handle, Signal::TERM);
        }
    }

    /// Kills the process.
    pub(crate) fn kill(&self) {
        if let Keeper::Unit { unit, .. } = &self.keeper {
            unit.kill();
        } else if let Some(main) = &self.main {
            let _ = pidfd_send_signal(&main.handle, Signal::KILL);
        }
    }

    /// Reaps a process that has ended, and returns the reason of its end.
    pub(crate) fn reap(&mut self, folder: &VmFolder) -> String {
        match &mut self.keeper {
            Keeper::Own { child, .. } => match child.wait() {
                Ok(status) => format!("its process ended ({status}): {}", last_words(folder)),
                Err(error) => format!("its process ended (unknown status: {error}): {}", last_words(folder)),
            },
            Keeper::Earlier => format!(
                "its process ended (status known to the agent that started it): {}",
                last_words(folder)
            ),
            Keeper::Unit { unit, job } => match job {
                Job::Failed(status) => format!("{}: start {status}: {}", unit.name(), last_words(folder)),
                _ => format!("{} ended: journalctl -u {0} tells why", unit.name()),
            },
        }
    }
}

impl Job {
    /// Notices the end of the job.
    fn look(&mut self) {
        if let Self::Running(child) = self {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) if status.success() => *self = Self::Done,
                Ok(Some(status)) => *self = Self::Failed(status.to_string()),
                Err(error) => *self = Self::Failed(error.to_string()),
            }
        }
    }
}

/// The log of a VM's process.
fn log(folder: &VmFolder) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(folder.log())
}

/// Starts a command in a network namespace. Only a thread can enter a namespace, so a thread of its own starts it.
fn spawn_in(namespace: Option<&File>, command: &mut Command) -> io::Result<Child> {
    let Some(namespace) = namespace else {
        return command.spawn();
    };
    let start = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        command.spawn()
    };
    let started = thread::scope(|scope| scope.spawn(start).join());
    started.unwrap_or_else(|_| Err(io::Error::other("the thread that starts the process panicked")))
}

/// Start time of the process, in ticks since the boot (field 22 of proc_pid_stat(5)).
fn started_at(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name of the program, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

/// The last error lines in the log of the process, or its last lines if there are none.
fn last_words(folder: &VmFolder) -> String {
    const TAIL: u64 = 4096;
    let read = || -> io::Result<String> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = File::open(folder.log())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let last = text
        .lines()
        .rev()
        .find(|line| line.starts_with("hawser: "))
        .or_else(|| text.lines().last());
    last.unwrap_or_default().to_owned()
}
