//! `hawser manual-pages`: manual pages, generated from the declaration of the options.

use crate::cli::Cli;
use crate::failure::Failure;
use clap::CommandFactory as _;
use std::path::Path;

/// Writes the manual page of the program, and one page per subcommand, into `folder`.
///
/// # Errors
/// If a page cannot be written.
pub fn run(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| Failure::runtime(format_args!("{}: {error}", folder.display())))
}
