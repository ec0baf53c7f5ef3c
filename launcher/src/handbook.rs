//! What is made from the options besides their help: completions for shells and manual pages.

use crate::cli::Cli;
use crate::failure::Failure;
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::path::Path;

/// Prints the completions of a shell.
///
/// # Errors
/// If nobody reads them.
pub fn completion(shell: Shell) -> Result<(), Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    crate::print(&String::from_utf8_lossy(&text))
}

/// Writes a manual page of the program, and one for each of its commands, into `folder`.
///
/// # Errors
/// If they cannot be written.
pub fn manual_pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| Failure::runtime(format_args!("{}: {error}", folder.display())))
}
