//! YAML and JSON as a tree whose every node knows its line.
//!
//! ```text
//!  text ── documents ──┬── json ──────────────────┬── Node
//!                      └── indent ── build ───────┘
//!                              scalar, budget
//! ```
//!
//! A deserializer into types stops at the first thing it does not like; a manifest is
//! answered with everything that is wrong with it, each at its line. So the parser's
//! events become a plain tree, and [`super::reader`] asks the tree.
//!
//! A text means here what kubectl reads from it: where documents end ([`documents`]), what a
//! plain scalar is ([`scalar`]), what `<<` merges ([`build`]), how far to the left quoted text
//! may stand ([`indent`]).
//!
//! Whatever the text, memory and time stay within a [`Budget`] that all files share, and
//! recursion within [`MAX_DEPTH`]: aliases that multiply, nesting without end.

mod budget;
mod build;
mod documents;
mod indent;
pub mod json;
mod scalar;

pub use budget::Budget;
pub use documents::documents;
pub use scalar::Scalar;

use budget::{MAX_BYTES, MAX_NODES};
use std::rc::Rc;

/// Values within values; Kubernetes' own objects stay below 20.
const MAX_DEPTH: usize = 64;

/// A value and where it begins. A copy shares what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line of the file, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, number, boolean or nothing.
    Scalar(Rc<Scalar>),
    /// `- item`
    List(Rc<[Node]>),
    /// `key: value`
    Map(Rc<[Entry]>),
}

/// One pair of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, as kubectl has it.
    pub key: Rc<str>,
    /// The key as it was written, where kubectl makes another of it.
    pub written: Option<Rc<str>>,
    /// The key without regard to case, where a program in Go reads it so.
    pub folded: Option<Rc<str>>,
    /// Its line.
    pub line: usize,
    /// What it stands for.
    pub value: Node,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line of the file.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl Node {
    /// A pair of a map.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.is(key)),
            _ => None,
        }
    }
}

impl Entry {
    /// True if this is the pair of a key.
    pub fn is(&self, key: &str) -> bool {
        match &self.folded {
            Some(folded) => **folded == fold(key),
            None => &*self.key == key,
        }
    }
}

/// A key as encoding/json compares it with the fields of a struct (`foldName` in fold.go).
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
                "from here on nothing is read: with what aliases stand for, the manifests have more than {MAX_NODES} \
                 values or {most} MiB of text; leave out what the VM does not need"
            ),
        )
    }

    fn twice(key: &str, line: usize, first: usize) -> Self {
        Self::at(
            line,
            format!("{key:?} is here twice, first on line {first}: leave one out"),
        )
    }
}

#[cfg(test)]
mod tests;
