//! A new process in the background, for `systemctl reload`: the command returns when the process serves the guest.
//!
//! The process is started with the same arguments and `--detached` in place of `--detach`. Its standard input is one end
//! of a socket pair, on which it says that it serves; the socket closes if it fails.

use crate::failure::Failure;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

const SERVES: u8 = b'+';

/// Starts this program again in the background, and waits until it serves.
///
/// # Errors
/// The process has failed, and has said why.
pub(crate) fn detach() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::runtime(format_args!("--detach: cannot start the new process: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    let arguments = std::env::args_os().skip(1).map(|word| match word == "--detach" {
        true => OsString::from("--detached"),
        false => word,
    });
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null());
    command.process_group(0);
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
            _ => Err(Failure::runtime(
                "--detach: the new process has ended without serving the guest",
            )),
        },
    }
}

/// Says that this process serves.
pub(crate) fn report() {
    // If the command has gone, the report is not needed.
    let _ = rustix::io::write(io::stdin(), &[SERVES]);
}
