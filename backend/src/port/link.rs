//! The link of the guest's card, as the guest sees it: VIRTIO_NET_S_LINK_UP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is called when the link has changed.
type Listener = Box<dyn Fn() + Send>;

/// The link: up at first. Whoever shows it to the guest is told of changes.
pub struct Link {
    up: AtomicBool,
    listener: Mutex<Option<Listener>>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            listener: Mutex::new(None),
        }
    }
}

impl Link {
    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Who is told from now on.
    pub fn tell(&self, listener: Option<Listener>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }

    pub(super) fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up
            && let Some(listener) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner)
        {
            listener();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn only_changes_are_told_and_to_the_last_listener_only() {
        let (link, calls) = (Link::default(), Arc::new(AtomicUsize::new(0)));
        link.set(false);
        let counter = Arc::clone(&calls);
        link.tell(Some(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })));
        for up in [false, true, true, false] {
            link.set(up);
        }
        assert_eq!((calls.load(Ordering::Relaxed), link.is_up()), (2, false));
        link.tell(None);
        link.set(true);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
