//! Errors of a store.

use std::io;
use std::path::PathBuf;

/// The reason why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--store={}: {problem}", path.display())]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: StoreProblem,
}

/// Problem of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// The file does not exist.
    #[error("the file does not exist: name the store of hawser run")]
    Missing,
    /// The directory cannot be created.
    #[error("cannot create its directory: {0}; name a file that this process can write, or give --store=off")]
    Folder(io::Error),
    /// It cannot be opened, read or written.
    #[error("{0}; name a file in a directory that this process can write, or give --store=off")]
    Access(String),
    /// The disk is full.
    #[error("its disk is full: free some space and try again; no lease was changed")]
    Full,
    /// The layout is newer than this version supports.
    #[error(
        "a newer hawser created it (layout {found}, this one supports {known}): use that version, or name another \
         file; the file was not changed"
    )]
    Newer {
        /// Layout of the file.
        found: i64,
        /// Newest supported layout.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("it is the database of another program: name another file; the file was not changed")]
    Foreign,
    /// The file is not a database, or is damaged.
    #[error(
        "it is damaged, or not a store of hawser ({0}): restore a copy, or move it away so that hawser starts an \
         empty store; the file was not changed"
    )]
    Damaged(String),
    /// Another process keeps the file locked.
    #[error(
        "another process has locked it for {0} seconds: find that process (fuser -v FILE), end it, and try again; \
         no lease was changed"
    )]
    Locked(u64),
    /// An unexpected error of SQLite.
    #[error("{0}")]
    Other(String),
}
