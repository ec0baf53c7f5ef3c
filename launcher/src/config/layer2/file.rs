//! Reads a file that is followed while a NIC is served.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::Path;

/// Maximum size of a file in bytes, enough for about 50,000 peers or 1,000 Services.
pub(super) const MAX_FILE: u64 = 4 << 20;

/// The reason why a file is not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The error of the system.
    Unreadable(String),
    /// The file has more than [`MAX_FILE`] bytes.
    TooLarge,
}

/// The text of a file.
///
/// # Errors
/// [`ReadError`]
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    let unreadable = |error: io::Error| ReadError::Unreadable(error.to_string());
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > MAX_FILE {
        return Err(ReadError::TooLarge);
    }
    Ok(text)
}

/// A number that distinguishes versions of a file.
pub(super) fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
