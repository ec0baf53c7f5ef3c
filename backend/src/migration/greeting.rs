//! What the source says first: which NIC its guest has, and in which formats its flows will arrive.

use crate::config::payload::{Payload, PayloadError, Sealed, from_bytes, kind, to_bytes};
use crate::nat::following::formats;
use crate::port::{Identity, Port};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The source writes what the target does not read. It is refused while nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the source sends \"{kind}\" in version {found}, and the target reads {}: install the source's hawser, or a newer one, \
     on the target's node first", .known.map_or_else(|| "none".to_owned(), |known| format!("up to {known}"))
)]
pub struct Unread {
    kind: String,
    found: u32,
    known: Option<u32>,
}

/// What the source says first.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Greeting {
    /// The NIC of its guest.
    nic: Sealed<Identity>,
    /// The kinds of payloads that may follow, with their versions.
    formats: BTreeMap<String, u32>,
}

impl Payload for Greeting {
    const KIND: &'static str = "migration-greeting";
    const VERSION: u32 = 1;
}

impl Greeting {
    /// The greeting of `port`.
    pub(super) fn of(port: &Port) -> Vec<u8> {
        let formats = formats().map(|(kind, version)| (kind.to_owned(), version));
        to_bytes(&Self {
            nic: Sealed(port.identity()),
            formats: formats.into(),
        })
    }

    /// Reads a greeting. Earlier versions of hawser describe only the NIC.
    ///
    /// # Errors
    /// [`PayloadError`]
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PayloadError> {
        if kind(bytes)? == Self::KIND {
            return from_bytes(bytes);
        }
        Ok(Self {
            nic: Sealed(from_bytes(bytes)?),
            formats: BTreeMap::new(),
        })
    }

    /// The NIC, if this process can read what will follow.
    ///
    /// # Errors
    /// [`Unread`], for the first payload that it cannot read.
    pub(super) fn accept(self) -> Result<Identity, Unread> {
        let known = BTreeMap::from(formats());
        for (kind, found) in self.formats {
            let known = known.get(kind.as_str()).copied();
            if known.is_none_or(|known| known < found) {
                return Err(Unread { kind, found, known });
            }
        }
        let Sealed(nic) = self.nic;
        Ok(nic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::testing::config;

    fn greeting(formats: &[(&str, u32)]) -> Greeting {
        let formats = formats.iter().map(|(kind, version)| ((*kind).to_owned(), *version));
        Greeting {
            nic: Sealed(Identity::of(&config(1))),
            formats: formats.collect(),
        }
    }

    #[test]
    fn a_source_of_this_version_or_an_earlier_one_is_accepted() {
        let written = to_bytes(&greeting(&formats()));
        assert_eq!(Greeting::read(&written).unwrap().accept(), Ok(Identity::of(&config(1))));
        let before = to_bytes(&Identity::of(&config(1)));
        assert_eq!(Greeting::read(&before).unwrap().accept(), Ok(Identity::of(&config(1))));
    }

    #[test]
    fn a_source_that_writes_what_is_not_read_is_refused_by_name() {
        let why = greeting(&[("tcp-flow", 1000)]).accept().unwrap_err().to_string();
        assert!(
            why.starts_with("the source sends \"tcp-flow\" in version 1000, and the target reads up to "),
            "{why}"
        );
        let why = greeting(&[("quic-flow", 1)]).accept().unwrap_err().to_string();
        assert!(
            why.contains("\"quic-flow\" in version 1, and the target reads none"),
            "{why}"
        );
    }
}
