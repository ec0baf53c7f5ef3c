//! A new process in the background, for `systemctl reload`: the command returns when the process serves the guest.
//!
//! The process is started with the same arguments and `--detached` in place of `--detach`.

use crate::background;
use crate::failure::Failure;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

/// Starts this program again in the background, and waits until it serves.
///
/// # Errors
/// The process has failed, and has said why.
pub(crate) fn detach() -> Result<(), Failure> {
    const OPTION: &str = "--detach";
    let mut command = background::this_program().map_err(|e| Failure::runtime(format_args!("{OPTION}: {e}")))?;
    let arguments = std::env::args_os().skip(1).map(|word| match word == OPTION {
        true => OsString::from("--detached"),
        false => word,
    });
    command.args(arguments).process_group(0);
    background::start(command, OPTION)
}
