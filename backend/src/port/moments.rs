//! What happens to the guest of a port, for an observer that has to act on it.

use crate::mode::Departure;
use std::sync::{Mutex, PoisonError};

/// An event in the life of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The front end has stopped all rings of a guest that migrates. Nothing runs until they start again.
    Stopped,
    /// Rings of the guest have started.
    Started,
    /// The front end has gone.
    Gone(Departure),
}

type Observer = Box<dyn Fn(Moment) + Send>;

/// The observer of a port's guest. There is at most one.
#[derive(Default)]
pub struct Moments(Mutex<Option<Observer>>);

debug_fields!(Moments {});

impl Moments {
    /// Sets the observer, which is called on the thread of the front end and must not wait.
    pub fn observe(&self, observer: Option<Observer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    /// Reports an event.
    pub fn tell(&self, moment: Moment) {
        if let Some(observer) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            observer(moment);
        }
    }
}
