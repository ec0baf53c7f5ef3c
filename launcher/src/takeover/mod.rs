//! Live upgrade: a new process takes the NICs over from a running one, while the guest runs.
//!
//! ```text
//!  new process: hawser run --takeover ═══ takeover.sock ═══ old process
//!     taker ── words, descriptors (wire) ── giver
//! ```
//!
//! The connection of the front end, guest memory, rings, and the sockets of all flows are passed as descriptors, the rest
//! as payloads (docs/snapshot.md). The front end, the guest and its peers notice nothing. If the new process does not
//! serve the guest in time, the old one goes on as if nothing had been; a [`token`] decides which of them does.

mod detach;
mod giver;
mod steps;
mod taker;
mod token;
mod wire;
mod words;

pub(crate) use detach::detach;
pub(crate) use giver::{Giver, GiverSetup, Obstacle};
pub(crate) use taker::{Taken, Taker};

use crate::attachment::AttachedRecord;
use hawser_backend::port;
use hawser_backend::sys::listening_socket::SocketRecord;
use hawser_backend::vhost_user::ServerRecord;
use hawser_config::payload::Payload;
use hawser_host::claim::ClaimRecord;
use hawser_host::journal::JournalRecord;
use std::collections::BTreeMap;

/// The kinds of payloads that this process reads and writes, with the newest version of each.
fn formats() -> BTreeMap<String, u32> {
    const fn of<T: Payload>() -> (&'static str, u32) {
        (T::KIND, T::VERSION)
    }
    let own = [
        of::<ServerRecord>(),
        of::<SocketRecord>(),
        of::<AttachedRecord>(),
        of::<JournalRecord>(),
        of::<ClaimRecord>(),
    ];
    let all = port::formats().into_iter().chain(own);
    all.map(|(kind, version)| (kind.to_owned(), version)).collect()
}
