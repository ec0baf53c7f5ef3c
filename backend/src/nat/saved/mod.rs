//! Flows as plain, versioned values, for live upgrade and live migration.
//!
//! hawser terminates the guest's TCP, UDP and echo itself, so the guest's half of a flow is data in this process. A
//! saved value holds that half and nothing else:
//!
//! | part of a flow | where it travels |
//! |---|---|
//! | ends, sequence numbers, windows, scales, MSS, timestamps, state of both directions, bytes acknowledged to the guest and not taken by the host socket, urgent bytes, round-trip estimate, retries, timers | in the value |
//! | marks and limits that the process has set on the host socket (DSCP, TTL, fragmentation, reports) where it must know them to change them | in the value, and set on the socket again at load |
//! | secrets: key and clocks of initial sequence numbers and timestamps | in a value of its own, [`tcp::SavedSecret`](crate::nat::tcp::SavedSecret) |
//! | descriptors | beside the values, in the same order |
//! | bytes and numbers inside a host socket | in the socket (upgrade, anchor) or in a TCP_REPAIR dump beside (migration) |
//! | clocks | nowhere: each time is a duration, before or after the moment of saving |
//! | slots, generations, queues, claims, what was learned from the traffic of a socket (batch sizes, segmentation) | nowhere: the table that loads a value creates them |
//!
//! SACK state has no field, because hawser neither offers nor uses SACK. A connection that has
//! ended is not saved.
//!
//! A payload is JSON: an envelope of kind and version around a list of values of that kind. [`to_bytes`] writes it and
//! [`from_bytes`] reads it. Rules of the format:
//!
//! - Any change raises [`Payload::VERSION`]; the test of the golden files fails until that is done.
//!   Files of earlier versions stay, because such values must continue to load.
//! - A field that a later version adds has a default, so that an older value loads.
//! - A newer version than the reader's is refused ([`LoadError::Newer`]). Values that are out of range or inconsistent
//!   are refused too. A value may come from another host, so it is trusted no more than a packet, and loading never
//!   panics.
//!
//! Live upgrade saves the flows once the workers have stopped and passes the sockets with SCM_RIGHTS. Live migration
//! saves at GET_VRING_BASE and loads on the target before its rings run. There the socket leads to the old process (an
//! anchor) or is made with TCP_REPAIR; a flow without a socket is reset. Clocks do not advance between save and load,
//! because the guest is stopped then. No caller exists yet.

mod error;
mod fields;

pub use self::error::LoadError;
pub(super) use self::error::{ensure, within};
pub(super) use self::fields::{Nanos, base64};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// A kind of value, and its format.
pub trait Payload: Serialize + DeserializeOwned {
    /// Its name in the envelope.
    const KIND: &'static str;
    /// Version of the format that this process writes. It reads this version and all earlier ones.
    const VERSION: u32;
}

/// The fields at the start of each payload.
#[derive(Deserialize)]
struct Envelope {
    kind: String,
    version: u32,
    #[serde(rename = "values")]
    _values: IgnoredAny,
}

/// An envelope and its values.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Filled<K, V> {
    kind: K,
    version: u32,
    values: V,
}

/// Writes values in an envelope.
pub fn to_bytes<T: Payload>(values: &[T]) -> Vec<u8> {
    let filled = Filled {
        kind: T::KIND,
        version: T::VERSION,
        values,
    };
    serde_json::to_vec(&filled).expect("plain values have no map with keys other than text")
}

/// Reads the values of an envelope.
///
/// # Errors
/// [`LoadError`]: the bytes are damaged, of another kind, or of a newer version. Each value is checked later, by its
/// own `load`.
pub fn from_bytes<T: Payload>(bytes: &[u8]) -> Result<Vec<T>, LoadError> {
    // The envelope is read first, so that a newer format is reported as such and not as an unknown field.
    let envelope: Envelope = serde_json::from_slice(bytes)?;
    if envelope.kind != T::KIND {
        return Err(LoadError::Kind {
            expected: T::KIND,
            found: envelope.kind,
        });
    }
    if envelope.version > T::VERSION {
        return Err(LoadError::Newer {
            kind: T::KIND,
            found: envelope.version,
            known: T::VERSION,
        });
    }
    within("version", envelope.version, 1..=T::VERSION)?;
    let filled: Filled<String, Vec<T>> = serde_json::from_slice(bytes)?;
    Ok(filled.values)
}

#[cfg(test)]
pub(super) mod golden;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
