//! What two processes say when one replaces the other.
//!
//! | new process | old process | meanwhile |
//! |---|---|---|
//! | `Hello` | `Hello` or `Refused` | all is served; each checks that the new one reads what the old one writes |
//! | `Prepare` | `Share` for each NIC, `Done` | the new process creates its ports |
//! | `Ahead` | `Flows` and `Mode`s for each NIC, `Done` | the new process keeps flows that may not change any more |
//! | `Take` | `Port` and `Mode`s for each NIC, `Sockets`, `Done`, or `Refused` | the guest's rings rest |
//! | `Ready` | `Yours` with a token | the new process takes the token |
//! | `Running` | exits | the guest is served again |
//!
//! Two seconds after `Take`, or when the new process has ended, the old one takes the token itself and goes on. The new
//! process uses no ring and no socket before it has the token. Once it has, the old one goes on only if it ends, which the
//! kernel sees to if it does not serve the guest within two seconds more.

use super::steps::Steps;
use crate::machine::{GivenHead, Identities};
use crate::vmm_process::VmmRecord;
use hawser_backend::sys::listening_socket::SocketRecord;
use hawser_config::payload::Sealed;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Version of this protocol.
const PROTOCOL: u32 = 2;

/// A word of one of the two processes.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// Who speaks.
    Hello(Hello),
    /// The old process goes on, for this reason.
    Refused(String),
    /// Asks what the ports begin with.
    Prepare,
    /// Descriptors of a NIC's modes, this many for each worker.
    Share { name: String, workers: Vec<usize> },
    /// Asks for what can be passed on in advance.
    Ahead,
    /// What a NIC passes on in advance. For each worker: whether a `Mode` follows.
    Flows { name: String, modes: Vec<bool> },
    /// Asks for the NICs.
    Take,
    /// A NIC with its server, whose descriptors come along. This many modes follow.
    Port { head: Box<GivenHead>, modes: usize },
    /// A mode, whose payload is the blob.
    Mode,
    /// The sockets of the API, if there is one, and of the next takeover.
    Sockets {
        api: Option<Sealed<SocketRecord>>,
        takeover: Sealed<SocketRecord>,
        /// The VMM that the processes have started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vmm: Option<Sealed<VmmRecord>>,
    },
    /// There is no more.
    Done,
    /// The new process could serve the guest now.
    Ready,
    /// The new process may take the guest with the token that comes along. The rings have rested for these steps.
    Yours { steps: Steps },
    /// The new process serves the guest.
    Running,
}

/// What each process says of itself.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Hello {
    protocol: u32,
    /// Version of the program.
    pub program: String,
    /// The kinds of payloads that it reads and writes, with the newest version of each.
    formats: BTreeMap<String, u32>,
    /// Its NICs ([`Identities`]), which other versions of the protocol describe in another way.
    nics: Value,
}

/// The reason why one process cannot replace the other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    /// They speak different versions of this protocol.
    #[error(
        "{theirs} speaks version {found} of the takeover protocol and this hawser {PROTOCOL}: restart hawser instead"
    )]
    Protocol { theirs: String, found: u32 },
    /// The new process would not understand the old one.
    #[error(
        "the new process ({program}) does not read payload \"{kind}\" of version {version}, which the old one writes: \
         install a newer hawser, or restart it instead"
    )]
    Format {
        program: String,
        kind: String,
        version: u32,
    },
}

impl Hello {
    /// This process, with these NICs. In addition to what every process reads and writes, it has the formats `more`.
    pub(super) fn new(nics: &Identities, more: Vec<(&'static str, u32)>) -> Self {
        let formats = super::formats().into_iter().chain(more);
        Self {
            protocol: PROTOCOL,
            program: format!("hawser {}", env!("CARGO_PKG_VERSION")),
            formats: formats.map(|(kind, version)| (kind.to_owned(), version)).collect(),
            nics: json!(nics),
        }
    }

    /// Its NICs.
    ///
    /// # Errors
    /// They are not described as in this version of the protocol.
    pub(super) fn nics(&self) -> Result<Identities, serde_json::Error> {
        Identities::deserialize(&self.nics)
    }

    /// Checks that the process which says this can replace `old`.
    pub(super) fn can_replace(&self, old: &Self) -> Result<(), Mismatch> {
        let unread = |(kind, version): &(&String, &u32)| self.formats.get(*kind).is_none_or(|known| known < *version);
        match old.formats.iter().find(unread) {
            Some((kind, version)) => Err(Mismatch::Format {
                program: self.program.clone(),
                kind: kind.clone(),
                version: *version,
            }),
            None => Ok(()),
        }
    }

    /// Checks that the process which says this speaks the same protocol.
    pub(super) fn check_protocol(&self) -> Result<(), Mismatch> {
        match self.protocol {
            PROTOCOL => Ok(()),
            found => Err(Mismatch::Protocol {
                theirs: self.program.clone(),
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_replaced_by_one_that_reads_all_that_it_writes() {
        let old = Hello::new(&Identities::new(), Vec::new());
        let with = |change: fn(&mut Hello)| {
            let mut new = Hello::new(&Identities::new(), Vec::new());
            change(&mut new);
            new.can_replace(&old).map_err(|why| why.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|new| *new.formats.get_mut("tcp-flow").unwrap() += 1), Ok(()));
        let later = |new: &mut Hello| new.formats.extend([("later".to_owned(), 1)]);
        assert_eq!(with(later), Ok(()));
        let why = with(|new| *new.formats.get_mut("tcp-flow").unwrap() -= 1).unwrap_err();
        assert!(why.contains("payload \"tcp-flow\" of version"), "{why}");
        let why = with(|new| new.formats.retain(|kind, _| kind != "nic")).unwrap_err();
        assert!(why.contains("\"nic\""), "{why}");
    }

    #[test]
    fn another_protocol_is_refused_by_its_version() {
        let mut hello = Hello::new(&Identities::new(), Vec::new());
        assert_eq!(hello.check_protocol(), Ok(()));
        hello.protocol = 9;
        assert!(
            hello
                .check_protocol()
                .unwrap_err()
                .to_string()
                .contains("version 9 of the takeover protocol")
        );
    }
}
