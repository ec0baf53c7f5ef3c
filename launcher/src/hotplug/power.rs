//! The VM's end in order: its power button is pressed, the guest has the manifest's grace period
//! to shut down, and only then is the VMM told to end.

use crate::companion::SignalSink;
use crate::vmm::running::VmmSocket;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// A VM that is to end, or none.
#[derive(Debug, Default)]
pub struct PowerDown(Option<Ending>);

#[derive(Debug)]
struct Ending {
    /// The VMM, and the signal that ends it.
    vmm: SignalSink,
    signal: i32,
    /// When it is sent; `None`: the guest has not been asked.
    deadline: Option<Instant>,
}

impl PowerDown {
    /// Of a VM whose VMM `signal` would end.
    pub const fn new(vmm: SignalSink, signal: i32) -> Self {
        Self(Some(Ending {
            vmm,
            signal,
            deadline: None,
        }))
    }

    /// Presses the button. A guest that cannot be asked, or has no time, loses its power at once.
    pub(super) fn begin(self, socket: Option<&VmmSocket>, grace: Duration) -> Self {
        let Some(mut ending) = self.0 else { return self };
        let asked = match socket {
            Some(socket) if !grace.is_zero() => socket.meet().and_then(|mut vmm| vmm.power_down()),
            _ => return Self::force(&ending),
        };
        match asked {
            Ok(()) => {
                log::info!("the guest is asked to shut down, within {grace:?}; a second signal ends the VMM at once");
                ending.deadline = Some(Instant::now() + grace);
                Self(Some(ending))
            }
            Err(error) => {
                log::warn!("the guest cannot be asked to shut down: {error}");
                Self::force(&ending)
            }
        }
    }

    fn force(ending: &Ending) -> Self {
        ending.vmm.send(ending.signal);
        Self(None)
    }

    /// The next of `orders`; `None` if there will be none any more. Ends the VMM when its time
    /// has come.
    pub(super) fn wait_beside<T>(&mut self, orders: &Receiver<T>) -> Option<T> {
        while let Some((ending, deadline)) = self.0.as_ref().and_then(|ending| Some((ending, ending.deadline?))) {
            match orders.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    log::warn!("the guest has not shut down in time: the VMM is told to end");
                    *self = Self::force(ending);
                }
            }
        }
        orders.recv().ok()
    }
}
