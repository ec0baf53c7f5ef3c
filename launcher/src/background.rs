//! A process that is left in the background, and whose starter waits until it serves.
//!
//! The starter runs this program again. The new process has one end of a socket pair as its standard input, on which it
//! says that it serves. The socket closes if it fails, after it has said why on standard error.

use crate::failure::Failure;
use rustix::fd::AsFd as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};

const SERVES: u8 = b'+';
const NOTHING: &str = "/dev/null";

/// This program, to be started again.
///
/// # Errors
/// Its file is not known.
pub(crate) fn this_program() -> io::Result<Command> {
    std::env::current_exe().map(Command::new)
}

/// Starts a process and waits until it serves. `what` names the request in messages.
///
/// # Errors
/// The process has failed, and has said why.
pub(crate) fn start(mut command: Command, what: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::runtime(format_args!("{what}: cannot start the new process: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    // The command keeps the other end of the pair open.
    drop(command);
    let mut said = [0];
    match ours.read(&mut said) {
        Ok(1) => Ok(()),
        _ => match child
            .wait()
            .map_err(failed)?
            .code()
            .and_then(|code| u8::try_from(code).ok())
        {
            Some(code) if code != 0 => Err(Failure::Vmm(code)),
            _ => Err(Failure::runtime(format_args!(
                "{what}: the new process has ended without serving the guest"
            ))),
        },
    }
}

/// Says that this process serves.
pub(crate) fn report() {
    // If the starter has gone, the report is not needed.
    let _ = rustix::io::write(io::stdin(), &[SERVES]);
}

/// What a process does when it serves, as daemons do that write a PID file.
#[derive(Debug)]
pub(crate) struct Background {
    pid_file: Option<(PathBuf, File)>,
    /// What replaces the standard streams. `None`: the process stays in the foreground.
    nothing: Option<File>,
}

impl Background {
    /// Opens the files. A process that was started by [`start`] is `detached`: it leaves its session now, and its
    /// standard streams when it serves.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(crate) fn prepare(pid_file: Option<&Path>, detached: bool) -> Result<Self, Failure> {
        let open = |path: &Path| -> Result<(PathBuf, File), Failure> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
            let file = file.map_err(|e| Failure::runtime(format_args!("--pid {}: {e}", path.display())))?;
            Ok((path.to_owned(), file))
        };
        let failed = |e: io::Error| Failure::runtime(format_args!("{NOTHING}: {e}"));
        let nothing = || OpenOptions::new().read(true).write(true).open(NOTHING).map_err(failed);
        if detached {
            // This fails only for the leader of a group, which has a session of its own already.
            let _ = rustix::process::setsid();
        }
        Ok(Self {
            pid_file: pid_file.map(open).transpose()?,
            nothing: detached.then(nothing).transpose()?,
        })
    }

    /// Call this when the process serves: writes its number, and tells the starter.
    ///
    /// # Errors
    /// The number cannot be written.
    pub(crate) fn ready(self) -> Result<(), Failure> {
        if let Some((path, mut file)) = self.pid_file {
            writeln!(file, "{}", id()).map_err(|e| Failure::runtime(format_args!("--pid {}: {e}", path.display())))?;
        }
        let Some(nothing) = self.nothing else { return Ok(()) };
        let failed = |e: rustix::io::Errno| Failure::runtime(format_args!("cannot leave the standard streams: {e}"));
        // Whoever started the command may read standard error to its end before it looks at the exit status.
        rustix::stdio::dup2_stderr(nothing.as_fd()).map_err(failed)?;
        report();
        rustix::stdio::dup2_stdin(nothing.as_fd()).map_err(failed)?;
        rustix::stdio::dup2_stdout(nothing.as_fd()).map_err(failed)
    }
}
