//! The link state of the guest's NIC as the guest sees it: VIRTIO_NET_S_LINK_UP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Callback that is called after the link state has changed.
type Listener = Box<dyn Fn() + Send>;

/// The link of a NIC. It is up while the segment carries frames, the operator has not set it down and the port has not
/// failed. All three hold initially. A listener reports changes to the guest.
pub struct Link {
    up: AtomicBool,
    state: Mutex<State>,
}

debug_fields!(Link { up });

struct State {
    segment: bool,
    wanted: bool,
    failed: bool,
    listener: Option<Listener>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            state: Mutex::new(State {
                segment: true,
                wanted: true,
                failed: false,
                listener: None,
            }),
        }
    }
}

impl Link {
    /// True if the link is up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// True if the operator has set the link up, regardless of the segment's state.
    pub fn is_wanted(&self) -> bool {
        self.lock().wanted
    }

    /// Sets the listener that is called on changes.
    pub fn tell(&self, listener: Option<Listener>) {
        self.lock().listener = listener;
    }

    /// True if there is a listener. A front end that accepts link changes is then connected.
    pub fn is_told(&self) -> bool {
        self.lock().listener.is_some()
    }

    /// Records whether the segment carries frames.
    pub(super) fn set_segment(&self, up: bool) {
        self.change(|state| state.segment = up);
    }

    /// Sets the link up or down on behalf of the operator.
    pub(super) fn set_wanted(&self, up: bool) {
        self.change(|state| state.wanted = up);
    }

    /// Records that the port has failed permanently.
    pub(super) fn set_failed(&self) {
        self.change(|state| state.failed = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let up = state.segment && state.wanted && !state.failed;
        if self.up.swap(up, Ordering::AcqRel) != up
            && let Some(listener) = &state.listener
        {
            listener();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn only_changes_are_reported_and_to_the_last_listener_only() {
        let (link, calls) = (Link::default(), Arc::new(AtomicUsize::new(0)));
        link.set_segment(false);
        let counter = Arc::clone(&calls);
        link.tell(Some(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })));
        for up in [false, true, true, false] {
            link.set_segment(up);
        }
        assert_eq!((calls.load(Ordering::Relaxed), link.is_up()), (2, false));
        link.tell(None);
        link.set_segment(true);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn it_is_up_only_if_the_segment_and_the_operator_say_so() {
        let (link, calls) = (Link::default(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&calls);
        link.tell(Some(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })));
        link.set_wanted(false);
        link.set_segment(false);
        link.set_wanted(true);
        assert!(!link.is_up() && link.is_wanted());
        link.set_segment(true);
        assert!(link.is_up());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
