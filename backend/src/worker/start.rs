//! What a worker's thread does before its work: whoever makes the port confines it there.

use std::fmt;
use std::io;
use std::sync::Arc;

type Action = dyn Fn() -> io::Result<()> + Send + Sync;

/// Done by each worker's thread before anything else; by default nothing.
#[derive(Clone, Default)]
pub struct ThreadStart(Option<Arc<Action>>);

impl ThreadStart {
    /// Has `action` done; if it fails, there is no worker.
    pub fn new(action: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(action)))
    }

    pub(super) fn run(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |action| action())
    }
}

impl fmt::Debug for ThreadStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadStart").field(&self.0.is_some()).finish()
    }
}
