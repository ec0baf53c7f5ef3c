//! A journal of the changes made to the host. They are undone at exit, after a failure midway, and at the next start
//! after a kill.
//!
//! Before each change, a line that states how to undo it is written to a file in the runtime directory. The process
//! keeps its file locked. An unlocked file was left by a process that died. The next process that starts in the same
//! network namespace undoes the lines of that file. Undoing a line is safe even if its change was never made, or was
//! already undone.

use super::addresses::Recorded;
use super::link_state::LinkState;
use super::namespace;
use super::netlink::Netlink;
use super::pci::Pci;
use super::vf_state::VfState;
use hawser_config::handover::{Descriptors, Handover, HandoverError, next_of};
use hawser_config::payload::{Payload, Sealed};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Version of the format of the lines.
const VERSION: u32 = 1;
const SUFFIX: &str = "journal";

/// The way to undo one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Remove a link that was created, provided that it has this kind and MAC.
    DeleteLink {
        /// Name of the link.
        name: String,
        /// The kernel's name for the link's kind.
        kind: String,
        /// MAC with which the link was created.
        mac: Option<String>,
    },
    /// Take a link out of promiscuous mode.
    ClearPromiscuous {
        /// Index of the link.
        index: u32,
        /// Name of the link.
        name: String,
    },
    /// Restore an interface.
    RestoreInterface(Interface),
    /// Put back a link of the host.
    RestoreLink(LinkState),
    /// Put back a virtual function that was passed to a guest.
    RestoreVf(VfState),
}

/// The state of an interface before hawser took it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Interface index, which never changes.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Original MAC.
    pub mac: String,
    /// Addresses of the interface.
    pub addresses: Vec<Recorded>,
    /// Routes through the interface, in an order in which they can be restored.
    pub routes: Vec<Recorded>,
}

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Cookie of the network namespace.
    namespace: u64,
}

/// The reason why the journal cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a journal in {}: {source}; set --runtime-dir to a directory that this process can write", folder.display())]
pub struct JournalError {
    folder: PathBuf,
    source: io::Error,
}

/// The changes of this process in one network namespace. Dropping the journal undoes them.
#[derive(Debug)]
pub struct Journal {
    /// `None` once the journal is handed over, so that dropping it changes nothing.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    record: JournalRecord,
    /// Holds the lock on the file.
    file: File,
}

/// The data of a journal apart from its open file, for a process that takes it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    path: PathBuf,
    undo: Vec<Undo>,
}

impl Journal {
    /// Begins a new journal in `folder`, which is created if necessary.
    ///
    /// # Errors
    /// [`JournalError`]
    pub fn begin(folder: &Path) -> Result<Self, JournalError> {
        Self::try_begin(folder).map_err(|source| JournalError {
            folder: folder.to_owned(),
            source,
        })
    }

    fn try_begin(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let _gate = close_gate(folder)?;
        let cookie = namespace::cookie()?;
        let pid = std::process::id();
        let path = (0..)
            .map(|n: u32| folder.join(format!("{cookie}-{pid}-{n}.{SUFFIX}")))
            .find(|path| !path.exists())
            .unwrap_or_default();
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let header = Header {
            version: VERSION,
            namespace: cookie,
        };
        write_line(&mut file, &header)?;
        let record = JournalRecord { path, undo: Vec::new() };
        Ok(Self {
            kept: Some(Kept { record, file }),
        })
    }

    /// Records how to undo the change that is made next.
    ///
    /// # Errors
    /// The error of write(2). The change must not be made in that case.
    pub fn note(&mut self, undo: Undo) -> io::Result<()> {
        if let Some(kept) = &mut self.kept {
            write_line(&mut kept.file, &undo)?;
            kept.record.undo.push(undo);
        }
        Ok(())
    }
}

impl Journal {
    /// Lets the changes stay.
    ///
    /// # Errors
    /// The error of unlink(2): a later start would undo the changes.
    pub fn keep(mut self) -> io::Result<()> {
        match self.kept.take() {
            Some(Kept { record, file }) => {
                file.set_len(0)?;
                fs::remove_file(record.path)
            }
            None => Ok(()),
        }
    }
}

impl Payload for JournalRecord {
    const KIND: &'static str = "journal";
    const VERSION: u32 = 1;
}

impl Handover for Journal {
    type Record = Sealed<JournalRecord>;

    /// The descriptor holds the lock on the file. Once every copy is closed, the next start treats the journal as that
    /// of a dead process.
    fn into_handover(mut self) -> (Self::Record, Vec<OwnedFd>) {
        let kept = self.kept.take();
        let Kept { record, file } = kept.expect("only this method takes it, and the journal with it");
        (Sealed(record), vec![file.into()])
    }

    fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let file = next_of("a journal", descriptors)?.into();
        Ok(Self {
            kept: Some(Kept { record, file }),
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let Some(Kept { record, file }) = self.kept.take() else {
            return;
        };
        if undo_all(&record.undo) {
            // The file cannot be removed if its directory does not belong to the user to which this process has
            // switched. It then stays as an empty file.
            let _ = file.set_len(0);
            let _ = fs::remove_file(&record.path);
        }
    }
}

fn write_line(file: &mut File, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Locks the directory. Without this lock, two processes that start at the same time could both undo the journal of a
/// third process. One of them could also mistake a file that is about to be locked for that of a dead process.
fn close_gate(folder: &Path) -> io::Result<File> {
    let gate = File::create(folder.join("lock"))?;
    flock(&gate, FlockOperation::LockExclusive)?;
    Ok(gate)
}

/// Undoes the changes that dead processes left in this network namespace. Without a journal, or without permission to
/// read it, this does nothing.
pub fn recover(folder: &Path) {
    let recovered = close_gate(folder).and_then(|_gate| try_recover(folder));
    match recovered {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        Err(error) => log::warn!(
            "cannot look in {} for changes of a hawser that died: {error}",
            folder.display()
        ),
        Ok(()) => {}
    }
}

fn try_recover(folder: &Path) -> io::Result<()> {
    let cookie = namespace::cookie()?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != SUFFIX) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let Some(undo) = read(&file, cookie) else { continue };
        if !undo.is_empty() {
            log::warn!("undoing the changes of a hawser that died ({})", path.display());
        }
        if undo_all(&undo) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The changes in a file; `None` if they belong to another namespace. If the last line is truncated, its change was not
/// made.
fn read(file: &File, cookie: u64) -> Option<Vec<Undo>> {
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let header: Header = serde_json::from_str(&lines.next()?).ok()?;
    if header.version != VERSION || header.namespace != cookie {
        return None;
    }
    Some(lines.map_while(|line| serde_json::from_str(&line).ok()).collect())
}

/// Undoes changes in reverse order. True if all of them are undone.
fn undo_all(undo: &[Undo]) -> bool {
    if undo.is_empty() {
        return true;
    }
    let mut netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(error) => {
            log::error!("cannot undo the changes: {error}");
            return false;
        }
    };
    let mut complete = true;
    for step in undo.iter().rev() {
        if let Err(error) = step.perform(&mut netlink) {
            log::error!("cannot {step}: {error}");
            complete = false;
        }
    }
    complete
}

impl std::fmt::Display for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DeleteLink { name, kind, .. } => write!(f, "remove the {kind} {name}"),
            Self::ClearPromiscuous { name, .. } => write!(f, "take {name} out of promiscuous mode"),
            Self::RestoreInterface(interface) => write!(f, "restore {}", interface.name),
            Self::RestoreLink(state) => write!(f, "put back {}", state.name),
            Self::RestoreVf(state) => write!(f, "put back the VF {}", state.vf),
        }
    }
}

impl Undo {
    fn perform(&self, netlink: &mut Netlink) -> io::Result<()> {
        match self {
            Self::DeleteLink { name, kind, mac } => match netlink.link_named(name)? {
                Some(link) if link.is(kind) && (mac.is_none() || link.mac.map(|m| m.to_string()) == *mac) => {
                    netlink.delete_link(link.index)
                }
                _ => Ok(()),
            },
            Self::ClearPromiscuous { index, name } => match netlink.link(*index)? {
                Some(link) if link.name == *name => netlink.set_promiscuous(*index, false),
                _ => Ok(()),
            },
            Self::RestoreInterface(interface) => interface.restore(netlink),
            Self::RestoreLink(state) => state.restore(netlink),
            Self::RestoreVf(state) => state.restore(&Pci::default(), netlink),
        }
    }
}

impl Interface {
    fn restore(&self, netlink: &mut Netlink) -> io::Result<()> {
        let Some(link) = netlink.link(self.index)? else {
            // The interface is gone permanently, as when the pod itself ends.
            return Ok(());
        };
        let mac = self.mac.parse().map_err(io::Error::other)?;
        if link.master.is_some() {
            netlink.set_master(self.index, None)?;
        }
        if link.name != self.name {
            netlink.set_up(self.index, false)?;
            netlink.rename(self.index, &self.name)?;
        }
        if link.mac != Some(mac) {
            netlink.set_mac(self.index, mac)?;
        }
        netlink.set_up(self.index, true)?;
        for address in &self.addresses {
            netlink.restore_address(address)?;
        }
        for route in &self.routes {
            netlink.restore_route(route)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
