//! The VM's end in order: its power button is pressed, the guest has the manifest's grace period
//! to shut down, and only then is the VMM told to end.

use crate::vmm::running::VmmSocket;
use crate::vmm_process::SignalSink;
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

    /// When the VMM is told to end.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadline
    }

    /// Tells it, if it is time.
    pub(super) fn expire(&mut self) {
        let Some(ending) = &self.0 else { return };
        if ending.deadline.is_some_and(|at| at <= Instant::now()) {
            log::warn!("the guest has not shut down in time: the VMM is told to end");
            *self = Self::force(ending);
        }
    }
}
