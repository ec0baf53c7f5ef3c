//! Client of the QEMU guest agent: reads the guest's interfaces over the agent's Unix socket.
//!
//! The guest is not trusted and may not answer. An answer must arrive within [`PATIENCE`], is
//! limited to [`ANSWER_MAX`] bytes and [`INTERFACES_MAX`] interfaces, and is reused for [`FRESH`],
//! so that many status requests cost the guest one answer. One query runs at a time; concurrent
//! requests get the last answer.

use hawser_backend::packet::MacAddr;
use serde::Deserialize;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an answer is reused.
const FRESH: Duration = Duration::from_secs(2);
/// Maximum length of an answer in bytes.
const ANSWER_MAX: usize = 256 << 10;
/// Maximum number of interfaces that are kept, and of addresses of each.
const INTERFACES_MAX: usize = 64;
/// Byte that the agent sends before the answer to `guest-sync-delimited`.
const DELIMITER: u8 = 0xff;

/// An interface as the guest reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestInterface {
    /// Name in the guest.
    pub name: String,
    /// MAC of the interface.
    pub mac: Option<MacAddr>,
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
}

/// How to reach an agent, and its last answer.
#[derive(Debug)]
pub(crate) struct GuestAgent {
    socket: PathBuf,
    known: Mutex<Vec<GuestInterface>>,
    /// Time of the last query. It is locked during a query.
    asking: tokio::sync::Mutex<Option<Instant>>,
    next_sync: AtomicU64,
}

impl GuestAgent {
    /// Creates a client of the agent behind `socket`. Nothing is sent yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            next_sync: AtomicU64::new(u64::from(std::process::id())),
        }
    }

    /// The guest's interfaces. Empty if the agent does not answer.
    pub(crate) async fn interfaces(&self) -> Vec<GuestInterface> {
        if let Ok(mut asked) = self.asking.try_lock() {
            self.refresh(&mut asked).await;
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn refresh(&self, asked: &mut Option<Instant>) {
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let sync = self.next_sync.fetch_add(1, Ordering::Relaxed);
        let answer = timeout(PATIENCE, ask(&self.socket, sync)).await;
        let interfaces = answer.unwrap_or_else(|late| Err(late.into())).unwrap_or_else(|error| {
            log::debug!("--guest-agent={}: {error}", self.socket.display());
            Vec::new()
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = interfaces;
        *asked = Some(Instant::now());
    }
}

async fn ask(socket: &Path, sync: u64) -> io::Result<Vec<GuestInterface>> {
    let mut agent = UnixStream::connect(socket).await?;
    // The delimiter makes the agent discard half a request of an earlier client (QGA protocol).
    let request = format!(
        "\u{0}{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{sync}}}}}\n\
         {{\"execute\":\"guest-network-get-interfaces\"}}\n"
    );
    let mut request = request.into_bytes();
    request[0] = DELIMITER;
    agent.write_all(&request).await?;
    let mut answer = Vec::new();
    loop {
        if let Some(interfaces) = parse(&answer, sync)? {
            return Ok(interfaces);
        }
        let mut piece = [0; 4096];
        match agent.read(&mut piece).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n if answer.len() + n > ANSWER_MAX => return Err(ErrorKind::InvalidData.into()),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
}

/// An answer of the agent.
#[derive(Deserialize)]
struct Reply<T> {
    #[serde(rename = "return")]
    value: Option<T>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(rename = "hardware-address")]
    mac: Option<String>,
    #[serde(rename = "ip-addresses", default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "ip-address")]
    address: String,
}

/// Reads the lines after the delimiter: first the answer to the sync, then the interfaces.
fn parse(answer: &[u8], sync: u64) -> io::Result<Option<Vec<GuestInterface>>> {
    let Some(start) = answer.iter().rposition(|byte| *byte == DELIMITER) else {
        return Ok(None);
    };
    let complete = answer[start + 1..].split_inclusive(|byte| *byte == b'\n');
    let mut lines = complete.filter(|line| line.ends_with(b"\n"));
    let Some(first) = lines.next() else { return Ok(None) };
    let bad = |_| io::Error::from(ErrorKind::InvalidData);
    let synced: Reply<u64> = serde_json::from_slice(first).map_err(bad)?;
    if synced.value != Some(sync) {
        return Err(ErrorKind::InvalidData.into());
    }
    let Some(second) = lines.next() else { return Ok(None) };
    let reply: Reply<Vec<Entry>> = serde_json::from_slice(second).map_err(bad)?;
    let entries = reply.value.ok_or(ErrorKind::Unsupported)?;
    Ok(Some(entries.into_iter().take(INTERFACES_MAX).map(interface).collect()))
}

fn interface(entry: Entry) -> GuestInterface {
    let addresses = entry
        .addresses
        .iter()
        .filter_map(|address| address.address.parse().ok());
    GuestInterface {
        // Control characters are removed, because the name is printed on terminals.
        name: entry.name.chars().filter(|c| c.is_ascii_graphic()).take(15).collect(),
        mac: entry.mac.and_then(|mac| mac.parse().ok()),
        addresses: addresses.take(INTERFACES_MAX).collect(),
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
