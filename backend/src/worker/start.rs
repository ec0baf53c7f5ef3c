//! An action that a worker's thread runs before its work. The port's owner uses it to confine the thread.

use std::fmt;
use std::io;
use std::sync::Arc;

type Action = dyn Fn() -> io::Result<()> + Send + Sync;

/// An action that each worker's thread runs first. By default there is none.
#[derive(Clone, Default)]
pub struct ThreadStart(Option<Arc<Action>>);

impl ThreadStart {
    /// Runs `action` on each thread. If it fails, the worker is not started.
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
