//! How much manifests may be, all together.
//!
//! A tree shares what aliases stand for, so that it takes memory for what is written, not for
//! what that comes to. What is read from it does not share: so each use of an anchor counts
//! as what it stands for.

/// What reading may still take, over all documents of all files.
#[derive(Debug)]
pub struct Budget {
    nodes: usize,
    bytes: usize,
    repeated: usize,
    exhausted: bool,
}

/// Nodes: a VM has a few hundred.
pub const MAX_NODES: usize = 400_000;
/// Bytes of their text.
pub const MAX_BYTES: usize = 16 << 20;
/// Bytes read once more because quoted text had to be moved (see [`super::indent`]).
pub const MAX_REPEATED: usize = 16 << 20;

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

/// The budget has nothing left.
#[derive(Debug)]
pub struct Exhausted;

impl Budget {
    /// A smaller one, for a text within a manifest.
    pub const fn within(nodes: usize, bytes: usize) -> Self {
        Self {
            nodes,
            bytes,
            repeated: bytes,
            exhausted: false,
        }
    }

    /// Nodes and bytes of a tree.
    pub fn take(&mut self, size: Size) -> Result<(), Exhausted> {
        let left = (self.nodes.checked_sub(size.nodes), self.bytes.checked_sub(size.bytes));
        let (Some(nodes), Some(bytes)) = left else {
            self.exhausted = true;
            return Err(Exhausted);
        };
        (self.nodes, self.bytes) = (nodes, bytes);
        Ok(())
    }

    /// Bytes that are read once more.
    pub fn repeat(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.repeated = self.repeated.checked_sub(bytes).ok_or(Exhausted)?;
        Ok(())
    }

    /// True if more was asked for than there was: nothing is read any more.
    pub const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Nodes that were read.
    #[cfg(test)]
    pub const fn nodes_taken(&self) -> usize {
        MAX_NODES - self.nodes
    }
}

/// How large a tree is, aliases counted as what they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Values.
    pub nodes: usize,
    /// Their text, and that of keys.
    pub bytes: usize,
    /// Values within values.
    pub depth: usize,
}

impl Size {
    /// A scalar.
    pub const fn of_text(text: &str) -> Self {
        Self {
            nodes: 1,
            bytes: text.len(),
            depth: 1,
        }
    }

    /// Takes in a child.
    pub fn add(&mut self, child: Self) {
        self.nodes += child.nodes;
        self.bytes += child.bytes;
        self.depth = self.depth.max(child.depth + 1);
    }
}
