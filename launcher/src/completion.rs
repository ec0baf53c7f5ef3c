//! `hawser completion`: shell completions, generated from the declaration of the options.

use crate::cli::Cli;
use crate::failure::Failure;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Prints the completion script of `shell`.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    crate::output::print(&String::from_utf8_lossy(&text))
}
