//! Child processes that end with the test, however the test ends.

use crate::{Result, failure};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A process that runs beside the test. It is killed together with its process group on drop, and by the kernel when
/// the thread that started it ends.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Background {
    /// Starts `command`. Its output is written to the file `log`.
    pub fn start(mut command: Command, name: &str, log: PathBuf) -> Result<Self> {
        let out = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command
            .spawn()
            .map_err(|e| failure(format!("cannot start {name} ({command:?}): {e}")))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    /// Id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The output of the process so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Asserts that the process has not ended. The error contains the end of the log.
    pub fn assert_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failed(&format!("ended, {status}"))),
        }
    }

    /// An error that describes the state of the process, with the end of its log.
    pub fn failed(&self, what: &str) -> crate::Failure {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        failure(format!("{} {what}; it wrote:\n{tail}", self.name))
    }

    /// Waits until `done` is true, while the process lives.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !done(&self.log()) {
            self.assert_alive()?;
            if Instant::now() > deadline {
                return Err(self.failed(&format!("did not get as far as: {what}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until the process, or another one in its network namespace, listens on the Unix socket `path`.
    pub fn wait_for_socket(&mut self, path: &Path, limit: Duration) -> Result<()> {
        // A bound socket does not listen yet. A flag of the kernel shows the difference.
        let (table, path) = (format!("/proc/{}/net/unix", self.id()), path.display().to_string());
        let listens = |line: &str| line.ends_with(&path) && line.split_whitespace().nth(3) == Some("00010000");
        self.wait_until(&format!("listening on {path}"), limit, |_| {
            fs::read_to_string(&table).is_ok_and(|sockets| sockets.lines().any(listens))
        })
    }

    /// Waits until the process ends.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(self.failed("did not end"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `signal` to the process, but not to its group.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.id())?;
        // SAFETY: kill takes plain numbers. The child is not reaped yet, so its id is still its own.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().into()),
        }
    }

    /// Kills the process and its group, and reaps it.
    pub fn kill(&mut self) {
        if let Ok(group) = i32::try_from(self.id()) {
            // SAFETY: kill takes plain numbers. The group was made for this child.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        // The process may already have ended.
        let _ = self.child.wait();
    }

    /// Resident memory of the process in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// Peak resident memory of the process in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        self.status_kib("VmHWM:")
    }

    /// Resident memory in KiB that is shared with others through memory files. For a back end, this is the part of its
    /// guest's memory that it has touched.
    pub fn shared_kib(&self) -> Result<u64> {
        self.status_kib("RssShmem:")
    }

    fn status_kib(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or_else(|| self.failed("is gone"))?;
        Ok(number.parse()?)
    }

    /// Processor time that the process has used, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds_of(self.id())
    }
}

/// Processor time that a process has used, in seconds.
pub fn cpu_seconds_of(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may contain spaces. User and system time are fields 14 and 15.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    // SAFETY: takes a plain number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(f64::from(ticks(11) + ticks(12)) / f64::from(u32::try_from(per_second)?))
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}
