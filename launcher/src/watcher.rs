//! A thread that waits for events on a descriptor until its handle is dropped.

pub(crate) mod files;

use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The handle of the thread. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Watcher {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The descriptor has something to read.
    Event,
    /// The thread should end.
    End,
}

/// The end of the watch, from the thread's point of view.
#[derive(Clone, Debug)]
pub(crate) struct End(Arc<OwnedFd>);

impl Watcher {
    /// Starts a thread that runs `watch` until [`End::or_event`] returns [`Wake::End`].
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(crate) fn start(
        sandbox: &Sandbox,
        kind: ThreadKind,
        name: &str,
        watch: impl FnOnce(&End) + Send + 'static,
    ) -> Result<Self, Failure> {
        let end = eventfd(0, EventfdFlags::CLOEXEC);
        let end = end.map_err(|e| Failure::runtime(format_args!("cannot start the thread {name}: {e}")))?;
        let end = Arc::new(end);
        let seen = End(Arc::clone(&end));
        let thread = sandbox.spawn(kind, name, move || watch(&seen))?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl End {
    /// Waits until `events` has something to read, or until the watch should end.
    ///
    /// # Errors
    /// The error of poll(2).
    pub(crate) fn or_event(&self, events: &impl AsFd) -> Result<Wake, Errno> {
        let mut waits = [PollFd::new(events, PollFlags::IN), PollFd::new(&*self.0, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(if waits[1].revents().is_empty() {
            Wake::Event
        } else {
            Wake::End
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // This fails only if the counter is full. The thread has already been woken then.
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the panic hook has reported it.
            let _ = thread.join();
        }
    }
}
