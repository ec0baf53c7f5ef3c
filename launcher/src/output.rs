//! Output of commands.

use crate::failure::Failure;
use std::io::Write as _;

/// Writes to standard output, which `head` and others close when they have enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::standard_output)
}
