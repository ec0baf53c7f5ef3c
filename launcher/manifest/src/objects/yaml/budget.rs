//! Limits the total size of manifests.
//!
//! A tree shares expanded aliases, so its memory depends on the text and not on the expansion. Objects that are read
//! from the tree do not share, so each use of an anchor counts in full.

/// The amount that may still be read, over all documents of all files.
#[derive(Debug)]
pub struct Budget {
    nodes: usize,
    bytes: usize,
    repeated: usize,
    exhausted: bool,
}

/// Maximum number of nodes. A VM has a few hundred.
pub(super) const MAX_NODES: usize = 400_000;
/// Maximum bytes of text in the nodes.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Maximum bytes that may be parsed again because quoted text had to be moved (see [`super::indent`]).
pub(super) const MAX_REPEATED: usize = 16 << 20;

impl Default for Budget {
    fn default() -> Self {
        Self {
            nodes: MAX_NODES,
            bytes: MAX_BYTES,
            repeated: MAX_REPEATED,
            exhausted: false,
        }
    }
}

/// The error of a budget that is used up.
#[derive(Debug)]
pub struct Exhausted;

impl Budget {
    /// Creates a smaller budget, for a text within a manifest.
    pub const fn within(nodes: usize, bytes: usize) -> Self {
        Self {
            nodes,
            bytes,
            repeated: bytes,
            exhausted: false,
        }
    }

    /// Subtracts the nodes and bytes of a tree.
    pub fn take(&mut self, size: Size) -> Result<(), Exhausted> {
        let left = (self.nodes.checked_sub(size.nodes), self.bytes.checked_sub(size.bytes));
        let (Some(nodes), Some(bytes)) = left else {
            self.exhausted = true;
            return Err(Exhausted);
        };
        (self.nodes, self.bytes) = (nodes, bytes);
        Ok(())
    }

    /// Subtracts bytes that are parsed again.
    pub fn repeat(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.repeated = self.repeated.checked_sub(bytes).ok_or(Exhausted)?;
        Ok(())
    }

    /// True if a request exceeded the budget, so nothing more is read.
    pub const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Number of nodes read so far.
    #[cfg(test)]
    pub const fn nodes_taken(&self) -> usize {
        MAX_NODES - self.nodes
    }
}

/// Size of a tree, with aliases expanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of values.
    pub nodes: usize,
    /// Length of their text and of keys, in bytes.
    pub bytes: usize,
    /// Nesting depth.
    pub depth: usize,
}

impl Size {
    /// The size of a scalar.
    pub const fn of_text(text: &str) -> Self {
        Self {
            nodes: 1,
            bytes: text.len(),
            depth: 1,
        }
    }

    /// Adds the size of a child.
    pub fn add(&mut self, child: Self) {
        self.nodes += child.nodes;
        self.bytes += child.bytes;
        self.depth = self.depth.max(child.depth + 1);
    }
}
