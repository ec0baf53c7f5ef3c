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
mod last_moment;
mod steps;
mod taker;
mod token;
mod words;

pub(crate) use detach::detach;
pub(crate) use giver::{Giver, GiverSetup, Obstacle};
pub(crate) use taker::{Taken, Taker};

use crate::attachment::AttachedRecord;
use crate::machine;
use crate::vmm_process::VmmRecord;
use hawser_backend::port;
use hawser_backend::sys::listening_socket::SocketRecord;
use hawser_backend::vhost_user::ServerRecord;
use hawser_config::payload::Payload;
use hawser_host::claim::ClaimRecord;
use hawser_host::journal::JournalRecord;

/// The kinds of payloads that every process reads and writes, with the newest version of each.
fn formats() -> Vec<(&'static str, u32)> {
    let own = [
        format_of::<ServerRecord>(),
        format_of::<SocketRecord>(),
        format_of::<AttachedRecord>(),
        format_of::<JournalRecord>(),
        format_of::<ClaimRecord>(),
    ];
    port::formats().into_iter().chain(own).collect()
}

/// The kinds of payloads that this process reads, and writes only if it has what they describe.
fn optional_formats() -> Vec<(&'static str, u32)> {
    let own = vec![format_of::<VmmRecord>()];
    [own, machine::optional_formats(), port::optional_formats()].concat()
}

const fn format_of<T: Payload>() -> (&'static str, u32) {
    (T::KIND, T::VERSION)
}
