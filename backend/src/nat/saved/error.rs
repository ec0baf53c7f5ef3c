//! Reasons for which a saved flow is not loaded.

use crate::config::payload::PayloadError;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The reason why a saved flow cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The payload that contains the flow cannot be read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A field has a value that no flow has.
    #[error(
        "a saved flow has {field} {found}; allowed is {allowed}: the flow is left out, and the guest has to open it \
         again; report the versions on both sides"
    )]
    OutOfRange {
        /// Name of the field in the message.
        field: &'static str,
        /// Value that was found.
        found: String,
        /// Range of allowed values.
        allowed: String,
    },
    /// Fields contradict each other.
    #[error(
        "a saved flow contradicts itself: {0}; the flow is left out, and the guest has to open it again; report the \
         versions on both sides"
    )]
    Contradiction(&'static str),
    /// The guest of the flow is not the guest of this port.
    #[error(
        "a saved flow belongs to {address}, which is no address of this guest: give both processes the same configuration"
    )]
    OutsideNetwork {
        /// Address of its guest.
        address: IpAddr,
    },
    /// A flow with these ends already exists.
    #[error("a saved flow has the endpoints of an existing one; load into a process without flows")]
    Duplicate,
    /// The value refers to a flow that has not come.
    #[error("a saved flow is said to have gone ahead and has not; report the versions on both sides")]
    NotAhead,
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

/// Returns `value` if it is in the range.
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
