//! Errors of a store.

use std::io;

/// The reason why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--store={store}: {problem}")]
pub struct StoreError {
    /// Name of the store: the path of its file, or the URL of an etcd cluster.
    pub store: String,
    /// What is wrong with it.
    pub problem: StoreProblem,
}

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// The file does not exist.
    #[error("the file does not exist: name the store of hawser run")]
    Missing,
    /// The directory cannot be created.
    #[error("cannot create its directory: {0}; name a file that this process can write, or give --store=off")]
    Folder(io::Error),
    /// The file cannot be opened, read or written.
    #[error("{0}; name a file in a directory that this process can write, or give --store=off")]
    Access(String),
    /// The disk is full.
    #[error("its disk is full: free some space and try again; no lease was changed")]
    Full,
    /// The layout is newer than those that this version supports.
    #[error(
        "a newer hawser created it (layout {found}, this one supports {known}): use that version, or name another \
         store; it was not changed"
    )]
    Newer {
        /// Layout that was found.
        found: i64,
        /// Newest layout that this version supports.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("it is the database of another program: name another file; the file was not changed")]
    Foreign,
    /// The file is damaged, or is not a database.
    #[error(
        "it is damaged, or not a store of hawser ({0}): restore a copy, or move it away so that hawser starts an \
         empty store; the file was not changed"
    )]
    Damaged(String),
    /// Another process has kept the file locked.
    #[error(
        "another process has locked it for {0} seconds: find that process (fuser -v FILE), end it, and try again; \
         no lease was changed"
    )]
    Locked(u64),
    /// No member of the cluster answers.
    #[error(
        "etcd does not answer ({0}): check the endpoints and the network between them and this node; VMs that run \
         are not affected, and the change may be repeated"
    )]
    Away(String),
    /// The cluster refused the user or the certificate.
    #[error("etcd refuses this client ({0}): check its certificate or user, and the roles that the user has")]
    Denied(String),
    /// The quota of the cluster is used up.
    #[error(
        "etcd has no space left: compact and defragment it, then disarm its alarm (etcdctl alarm disarm); nothing was \
         changed"
    )]
    NoSpace,
    /// Before each attempt, other nodes had changed the same records.
    #[error("other nodes changed the same records {0} times: try again; nothing was changed")]
    Contended(u32),
    /// A record cannot be read.
    #[error(
        "the record {key} cannot be read ({problem}): another program wrote it, or it is damaged; remove it with \
         etcdctl if it is not needed"
    )]
    Record {
        /// Key of the record.
        key: String,
        /// What is wrong with the record.
        problem: String,
    },
    /// SQLite or etcd returned an unexpected error.
    #[error("{0}")]
    Other(String),
}

#[cfg(feature = "etcd")]
impl StoreProblem {
    /// True if the store may answer when asked again.
    pub(crate) const fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }
}
