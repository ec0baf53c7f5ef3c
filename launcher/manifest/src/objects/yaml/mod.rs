//! YAML and JSON as a tree in which every node has its line number.
//!
//! ```text
//!  text ── documents ──┬── json ──────────────────┬── Node
//!                      └── indent ── build ───────┘
//!                              scalar, budget
//! ```
//!
//! A deserializer into types would stop at the first error, but a manifest's report must contain all errors, each with
//! its line. So the parser's events become a plain tree, which [`super::reader`] reads.
//!
//! A text has the same meaning as for kubectl in every respect: the end of documents ([`documents`]), plain scalars
//! ([`scalar`]), merges by `<<` ([`build`]) and the indentation of quoted text ([`indent`]).
//!
//! For any text, a [`Budget`] that all files share limits memory and time, because aliases may multiply. [`MAX_DEPTH`]
//! limits recursion, because nesting may be deep.

mod budget;
mod build;
mod documents;
mod indent;
pub mod json;
mod scalar;

pub use budget::{Budget, Exhausted, Size};
pub use documents::{Documents, documents};
pub use scalar::{Meaning, Scalar, SourceLines};

use budget::{MAX_BYTES, MAX_NODES};
use std::rc::Rc;

/// Maximum nesting depth. Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 64;

/// A value and its line. Copies share their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number of the line in the file, starting at 1.
    pub line: usize,
    /// Content of the node.
    pub value: Value,
}

/// Content of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, number, boolean or null.
    Scalar(Rc<Scalar>),
    /// `- item`
    List(Rc<[Node]>),
    /// `key: value`
    Map(Rc<[Entry]>),
}

/// A pair of key and value in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, as kubectl reads it.
    pub key: Rc<str>,
    /// The key as it is written, if kubectl reads a different one.
    pub written: Option<Rc<str>>,
    /// The key in lower case, if a Go program reads it.
    pub folded: Option<Rc<str>>,
    /// Number of the line that contains the key.
    pub line: usize,
    /// Value of the pair.
    pub value: Node,
}

/// The reason why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Number of the line in the file.
    pub line: usize,
    /// The error on that line.
    pub message: String,
}

impl Node {
    /// The pair of a map that has this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.is(key)),
            _ => None,
        }
    }
}

impl Entry {
    /// True if this is the pair for `key`.
    pub fn is(&self, key: &str) -> bool {
        match &self.folded {
            Some(folded) => **folded == fold(key),
            None => &*self.key == key,
        }
    }
}

/// A key in the form in which encoding/json compares it with the fields of a struct (`foldName` in
/// fold.go).
fn fold(key: &str) -> String {
    key.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

impl SyntaxError {
    fn at(line: usize, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { line, message }
    }

    fn too_large(line: usize) -> Self {
        let most = MAX_BYTES >> 20;
        Self::at(
            line,
            format!(
                "nothing is read from here on: with expanded aliases, the manifests have more than \
                 {MAX_NODES} values or {most} MiB of text; leave out what the VM does not need"
            ),
        )
    }

    fn twice(key: &str, line: usize, first: usize) -> Self {
        Self::at(
            line,
            format!("{key:?} is here twice, first on line {first}: remove one"),
        )
    }
}

#[cfg(test)]
mod tests;
