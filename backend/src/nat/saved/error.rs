//! Reasons why saved state is not loaded.

use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;

/// Saved state that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not what a hawser writes.
    #[error(
        "saved flows cannot be read ({0}): the payload was damaged; start the upgrade or migration again, and report \
         the versions on both sides if that repeats"
    )]
    Malformed(#[from] serde_json::Error),
    /// The payload is something else.
    #[error(
        "a payload of kind \"{found}\" was found in place of \"{expected}\": check that both sides are hawser and that \
         the payloads are in order"
    )]
    Kind {
        /// The expected kind.
        expected: &'static str,
        /// The kind of the payload.
        found: String,
    },
    /// The payload was written by a newer hawser.
    #[error(
        "payload \"{kind}\" has version {found}, this hawser reads up to {known}: install the hawser that saved the \
         state, or a newer one, here first, then start again"
    )]
    Newer {
        /// Kind of the payload.
        kind: &'static str,
        /// Its version.
        found: u32,
        /// The newest version that can be read.
        known: u32,
    },
    /// A field has a value that no flow has.
    #[error(
        "a saved flow has {field} {found}; allowed is {allowed}: the flow is left out, and the guest has to open it \
         again; report the versions on both sides"
    )]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: String,
        /// Allowed values.
        allowed: String,
    },
    /// Fields contradict each other.
    #[error(
        "a saved flow contradicts itself: {0}; the flow is left out, and the guest has to open it again; report the \
         versions on both sides"
    )]
    Contradiction(&'static str),
    /// A flow with these ends already exists.
    #[error("a saved flow has the endpoints of an existing one; load into a process without flows")]
    Duplicate,
    /// The table has no room.
    #[error(
        "no room for a saved flow: the worker holds {limit} at most; raise the limit on open files (RLIMIT_NOFILE) to \
         that of the other process"
    )]
    Full {
        /// Maximum number of flows.
        limit: usize,
    },
    /// The descriptor passed with the value cannot be used.
    #[error(
        "the socket of a saved flow cannot be used ({0}); the flow is left out, and the guest has to open it again"
    )]
    Socket(#[from] io::Error),
}

/// `value`, if it is in the range.
pub(crate) fn within<T: Display + PartialOrd>(
    field: &'static str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<T, LoadError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    Err(LoadError::OutOfRange {
        field,
        found: value.to_string(),
        allowed: format!("{} to {}", allowed.start(), allowed.end()),
    })
}

/// Returns an error with the message `contradiction` unless `holds`.
pub(crate) const fn ensure(holds: bool, contradiction: &'static str) -> Result<(), LoadError> {
    if holds {
        Ok(())
    } else {
        Err(LoadError::Contradiction(contradiction))
    }
}
