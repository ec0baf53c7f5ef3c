//! The hawser process of a VM. It outlives the agent, and a later agent finds it by its PID file.

use crate::folder::VmFolder;
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

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    handle: OwnedFd,
    /// `None` if an earlier agent started it.
    child: Option<Child>,
    /// Receives the notifications of the process for its service manager (sd_notify(3)).
    reports: Option<UnixDatagram>,
    is_ready: bool,
}

impl Process {
    /// Starts `program` with `arguments`, in a network namespace or in that of the agent. Its log is a file in `folder`.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn start(
        program: &Path,
        arguments: &[OsString],
        folder: &VmFolder,
        namespace: Option<&File>,
    ) -> io::Result<Self> {
        let socket = folder.reports();
        // This is the socket of an earlier process.
        let _ = fs::remove_file(&socket);
        let reports = UnixDatagram::bind(&socket)?;
        reports.set_nonblocking(true)?;
        let log = OpenOptions::new().create(true).append(true).open(folder.log())?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // Signals from the agent's terminal must not reach the VM.
            .process_group(0);
        let child = spawn_in(namespace, &mut command)?;
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        fs::write(
            folder.pid(),
            format!("{} {}\n", pid.as_raw_nonzero(), started_at(pid).unwrap_or_default()),
        )?;
        Ok(Self {
            pid,
            handle,
            child: Some(child),
            reports: Some(reports),
            is_ready: false,
        })
    }

    /// The process that an earlier agent started, if it still runs.
    pub(crate) fn find(folder: &VmFolder) -> Option<Self> {
        let text = fs::read_to_string(folder.pid()).ok()?;
        let (pid, start) = text.trim_end().split_once(' ')?;
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The file is read after the handle is open, because another process may have got the number.
        if started_at(pid)? != start {
            return None;
        }
        let process = Self {
            pid,
            handle,
            child: None,
            reports: None,
            // The process already was ready. Otherwise it will end by itself.
            is_ready: true,
        };
        (!process.has_ended()).then_some(process)
    }

    /// PID of the process.
    pub(crate) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The descriptor that is readable once the process has ended.
    pub(crate) const fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    pub(crate) fn has_ended(&self) -> bool {
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut ended, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// True once the process has reported that it serves the VM.
    pub(crate) fn is_ready(&mut self) -> bool {
        let mut message = [0; 512];
        while let Some(length) = self
            .reports
            .as_ref()
            .and_then(|reports| reports.recv(&mut message).ok())
        {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            self.is_ready |= text.lines().any(|line| line == "READY=1");
        }
        self.is_ready
    }

    /// Requests the end of the process.
    pub(crate) fn stop(&self) {
        // The process may already have ended.
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
    }

    /// Kills the process.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Reaps a process that has ended, and returns its exit status as text.
    pub(crate) fn reap(&mut self) -> String {
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => format!("unknown status: {error}"),
            None => "status known to the agent that started it".to_owned(),
        }
    }
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
pub(crate) fn last_words(folder: &VmFolder) -> String {
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
