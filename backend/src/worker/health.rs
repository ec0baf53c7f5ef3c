//! Records the failure of a port. If a worker ends without a command to do so, its queue pair and all its flows are
//! lost, so the port has failed.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

type Listener = Box<dyn Fn() + Send>;

/// Health of a port's workers.
#[derive(Default)]
pub struct Health {
    failure: OnceLock<String>,
    listener: Mutex<Option<Listener>>,
}

debug_fields!(Health { failure });

impl Health {
    /// The reason why the first worker failed. `None` while all of them run.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Calls `listener` when a worker fails, or immediately if one has already failed.
    pub fn tell(&self, listener: Listener) {
        let mut current = self.lock();
        if self.failure.get().is_some() {
            listener();
        }
        *current = Some(listener);
    }

    /// Records that a worker has failed.
    pub(crate) fn fail(&self, why: String) {
        let listener = self.lock();
        // Only the first reason is kept, because later failures may be its consequences.
        if self.failure.set(why).is_ok()
            && let Some(listener) = &*listener
        {
            listener();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_first_failure_is_reported_once_also_to_later_readers() {
        let (health, calls) = (Health::default(), Arc::new(AtomicUsize::new(0)));
        let count = || -> Listener {
            let calls = Arc::clone(&calls);
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        health.tell(count());
        assert_eq!(health.failure(), None);
        health.fail("one".to_owned());
        health.fail("two".to_owned());
        assert_eq!((health.failure(), calls.load(Ordering::Relaxed)), (Some("one"), 1));
        health.tell(count());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
