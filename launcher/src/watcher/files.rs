//! Follows a file while the process runs, however it is replaced.
//!
//! Programs write a file in place (a container engine that mounts it), rename another over it (NetworkManager, most
//! editors), or replace the file that a link leads to (systemd-resolved, a volume of a ConfigMap). inotify reports the
//! first for the file. It reports the others for the folders that contain the file and the target of the link. A report
//! only triggers another look at the file, so lost reports do no harm.

use super::{End, Wake};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);
/// Number of bytes of reports read at once. Their content does not matter.
const REPORTS: usize = 4096;

/// A file and the kernel's reports about it.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: PathBuf,
    reports: OwnedFd,
}

/// A file cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {problem}{remedy}", path = .path.display(), remedy = remedy(*.problem))]
pub(crate) struct WatchError {
    path: PathBuf,
    problem: Errno,
}

/// What the operator does about it.
const fn remedy(problem: Errno) -> &'static str {
    match problem {
        Errno::MFILE => {
            "; many VMs on a node need more inotify instances: raise fs.inotify.max_user_instances (sysctl), two for \
             each VM"
        }
        _ => "",
    }
}

impl FileWatch {
    /// A watch of the file at `path`, which need not exist yet.
    ///
    /// # Errors
    /// The system has no inotify instance left.
    pub(crate) fn new(path: &Path) -> Result<Self, WatchError> {
        let path = path.to_owned();
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(reports) => Ok(Self { path, reports }),
            Err(problem) => Err(WatchError { path, problem }),
        }
    }

    /// Calls `look` at first and whenever the file may have changed, until `end`.
    ///
    /// # Errors
    /// The error of poll(2).
    pub(crate) fn follow(&self, end: &End, mut look: impl FnMut()) -> Result<(), Errno> {
        loop {
            // The watch must exist before the file is read. Otherwise a change between the two would be missed. It is
            // renewed each time, because the name may lead to another file by now.
            self.add_watches();
            look();
            if end.or_event(&self.reports)? == Wake::End {
                return Ok(());
            }
            let mut buffer = [0; REPORTS];
            while rustix::io::read(&self.reports, &mut buffer).is_ok_and(|n| n > 0) {}
        }
    }

    /// Watches the file and the directories in which it may be replaced. If the path does not exist, its creation is
    /// noticed through the parent directory.
    fn add_watches(&self) {
        for place in folders(&self.path).iter().chain([&self.path]) {
            let _ = inotify::add_watch(&self.reports, place, CHANGES);
        }
    }
}

/// The folders in which a file may be replaced: its own, and that of the file to which it leads.
pub(crate) fn folders(path: &Path) -> Vec<PathBuf> {
    let target = path.canonicalize().ok();
    let folder = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    };
    [Some(path), target.as_deref()]
        .into_iter()
        .flatten()
        .map(folder)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_kernel_is_named_where_it_is_reached() {
        let text = |problem| {
            let path = "/etc/resolv.conf".into();
            WatchError { path, problem }.to_string()
        };
        assert!(text(Errno::MFILE).contains("raise fs.inotify.max_user_instances"));
        assert!(text(Errno::NOMEM).starts_with("cannot watch /etc/resolv.conf: "));
        assert!(!text(Errno::NOMEM).contains("inotify"));
    }
}
