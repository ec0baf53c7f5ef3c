//! Which files the process may still open, make and remove: Landlock.
//!
//! A worker opens nothing at all. The others get what they are seen to need: the folders of
//! their sockets and notes, the TUN device where one is opened anew, and little that is read.
//! What was open before stays open. A kernel that knows less of Landlock, or nothing, enforces
//! what it knows.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The newest kernel these rules were written for (Linux 6.15).
const KNOWN: ABI = ABI::V7;

/// What the process may do with files below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make and remove sockets.
    Sockets,
    /// Read, write, make and remove files.
    Notes,
    /// Make a file, and add to it.
    Log,
    /// Read.
    Read,
    /// Read and write devices.
    Device,
    /// Make devices and open them.
    NewDevices,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::Notes => {
                AccessFs::ReadFile
                    | AccessFs::ReadDir
                    | AccessFs::WriteFile
                    | AccessFs::MakeReg
                    | AccessFs::RemoveFile
                    | AccessFs::Truncate
            }
            Self::Log => AccessFs::WriteFile | AccessFs::MakeReg,
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            Self::NewDevices => Self::Device.rights() | AccessFs::MakeChar | AccessFs::RemoveFile,
        }
    }
}

/// What may be reached beyond what is open already.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Below which paths; one that is not there needs no right.
    pub paths: Vec<(PathBuf, Access)>,
    /// File systems that are mounted nowhere.
    pub detached: Vec<(&'static rustix::fd::OwnedFd, Access)>,
    /// Signals to other processes: a VMM that was started before.
    pub signals: bool,
    /// Abstract Unix sockets of other processes.
    pub abstract_sockets: bool,
}

impl Reach {
    /// Adds the folder `path` lies in.
    pub fn folder_of(&mut self, path: &Path, access: Access) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.paths
            .push((folder.unwrap_or_else(|| Path::new(".")).to_owned(), access));
    }
}

/// Keeps the calling thread, and those it starts, to `reach`. True if the kernel enforces
/// at least a part of it.
///
/// # Errors
/// What the kernel says, other than that it knows nothing of this.
pub fn restrict(reach: &Reach) -> Result<bool, RulesetError> {
    let mut scopes = BitFlags::<Scope>::EMPTY;
    if !reach.signals {
        scopes |= Scope::Signal;
    }
    if !reach.abstract_sockets {
        scopes |= Scope::AbstractUnixSocket;
    }
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    let mut ruleset = ruleset.create()?;
    for (path, access) in &reach.paths {
        ruleset = ruleset.add_rules(path_beneath_rules([path], access.rights()))?;
    }
    for (root, access) in &reach.detached {
        ruleset = ruleset.add_rule(PathBeneath::new(root.as_fd(), access.rights()))?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
