//! Landlock: the files that the process may still open, create and remove.
//!
//! A worker opens no files. Other threads may use what they need: the directories of their sockets
//! and journals, the TUN device if one is opened again, and a few files to read. Files that are
//! already open stay open. A kernel with an older Landlock, or without it, enforces what it can.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The newest kernel interface that these rules know (Linux 6.15).
const KNOWN: ABI = ABI::V7;

/// Permitted use of files below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Create and remove sockets.
    Sockets,
    /// Read, write, create and remove files.
    Notes,
    /// Create a file, and append to it.
    Log,
    /// Read files.
    Read,
    /// Read and write devices.
    Device,
    /// Create device files and open them.
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

/// The files that may be accessed in addition to open descriptors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Paths, with the permitted use below them. A path that does not exist needs no permission.
    pub paths: Vec<(PathBuf, Access)>,
    /// File systems that are not mounted anywhere.
    pub detached: Vec<(&'static rustix::fd::OwnedFd, Access)>,
    /// True if signals to other processes are permitted, such as to a VMM that was started earlier.
    pub signals: bool,
    /// True if abstract Unix sockets of other processes are permitted.
    pub abstract_sockets: bool,
}

impl Reach {
    /// Adds the directory of `path`.
    pub(crate) fn folder_of(&mut self, path: &Path, access: Access) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        self.paths
            .push((folder.unwrap_or_else(|| Path::new(".")).to_owned(), access));
    }
}

/// Restricts the calling thread, and threads that it starts, to `reach`. True if the kernel enforces at least part of
/// it.
///
/// # Errors
/// The error of the kernel, unless it has no Landlock.
pub(super) fn restrict(reach: &Reach) -> Result<bool, RulesetError> {
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
