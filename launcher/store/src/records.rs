//! Records that nodes share: texts under names, changed by compare-and-swap.
//!
//! The store does not interpret the text. A record has a version, which changes with every change of the record. A
//! [`Batch`] states the versions that its author has read, and all of its edits are made at once or not at all.
//!
//! A reader that keeps a copy asks for the [`stamp`](Records::stamp) of a folder and lists the folder again when the
//! stamp has changed. The list is the truth, so a lost connection, a compaction and a restored backup need no other
//! treatment than a new stamp.

use crate::error::StoreError;
use crate::escape::{escaped, plain};
use std::fmt;

/// Maximum number of edits of a [`Batch`]. etcd allows 128 operations and comparisons in one transaction.
pub const MAX_EDITS: usize = 60;

/// The name of a record: the names of its folders, and its own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(Vec<String>);

impl RecordKey {
    /// A key of these parts.
    pub fn new<const N: usize>(parts: [&str; N]) -> Self {
        Self(parts.map(str::to_owned).to_vec())
    }

    /// The parts of the key.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The key as a path, whose parts are escaped.
    pub(crate) fn path(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|part| escaped(part)).collect();
        parts.join("/")
    }

    /// The key of a [`path`](Self::path).
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        path.split('/').map(plain).collect::<Option<_>>().map(Self)
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the record.
    pub key: RecordKey,
    /// Changes with every change of the record. A record that was deleted and created again has a new version.
    pub version: i64,
    /// Text of the record.
    pub text: String,
}

/// An edit of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Creates or replaces the record.
    Put(String),
    /// Deletes the record.
    Delete,
}

/// Edits that are made together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) expected: Vec<(RecordKey, Option<i64>)>,
    pub(crate) edits: Vec<(RecordKey, Edit)>,
}

impl Batch {
    /// Requires that a record has this version, or does not exist.
    #[must_use]
    pub fn expect(mut self, key: &RecordKey, version: Option<i64>) -> Self {
        self.expected.push((key.clone(), version));
        self
    }

    /// Adds an edit. Each record is edited once.
    #[must_use]
    pub fn put(mut self, key: &RecordKey, text: String) -> Self {
        self.edits.push((key.clone(), Edit::Put(text)));
        self
    }

    /// Adds the deletion of a record, which need not exist.
    #[must_use]
    pub fn delete(mut self, key: &RecordKey) -> Self {
        self.edits.push((key.clone(), Edit::Delete));
        self
    }
}

/// Access to records.
pub trait Records {
    /// All records in a folder, and in folders below it, in the order of their keys. `folder` contains the first parts
    /// of their keys.
    ///
    /// # Errors
    /// [`StoreError`]; the same for the methods below.
    fn list(&self, folder: &RecordKey) -> Result<Vec<Record>, StoreError>;

    /// The keys of a folder, without the texts.
    fn keys(&self, folder: &RecordKey) -> Result<Vec<RecordKey>, StoreError>;

    /// One record.
    fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError>;

    /// Makes all edits if every expectation holds. False if one does not hold; nothing has changed then.
    ///
    /// If an error says that the store did not answer, the edits may have been made.
    fn change(&mut self, batch: &Batch) -> Result<bool, StoreError>;

    /// A number that changes after a record of the folder has changed. It may also change without that.
    fn stamp(&self, folder: &RecordKey) -> Result<i64, StoreError>;
}
