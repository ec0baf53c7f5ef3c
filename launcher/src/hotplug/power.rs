//! Orderly shutdown of the VM: its power button is pressed, the guest has the manifest's grace
//! period to shut down, and then the VMM is stopped.

use crate::vmm::running::VmmSocket;
use crate::vmm_process::ParentLine;
use std::time::{Duration, Instant};

/// The shutdown of a VM, if one is in progress.
#[derive(Debug, Default)]
pub(crate) struct PowerDown(Option<Ending>);

#[derive(Debug)]
struct Ending {
    /// The VMM and the signal that stops it.
    vmm: ParentLine,
    signal: i32,
    /// Time at which the signal is sent. `None` before the power button is pressed.
    deadline: Option<Instant>,
}

impl PowerDown {
    /// Prepares the shutdown of a VM whose VMM is stopped by `signal`.
    pub(crate) const fn new(vmm: ParentLine, signal: i32) -> Self {
        Self(Some(Ending {
            vmm,
            signal,
            deadline: None,
        }))
    }

    /// Presses the power button. A VM without a known VMM or without a grace period is stopped immediately.
    pub(super) fn begin(self, socket: Option<&VmmSocket>, grace: Duration) -> Self {
        let Some(mut ending) = self.0 else { return self };
        let asked = match socket {
            Some(socket) if !grace.is_zero() => socket.connect().and_then(|mut vmm| vmm.power_down()),
            _ => return Self::force(&ending),
        };
        match asked {
            Ok(()) => {
                log::info!(
                    "asked the guest to shut down within {grace:?}; a second signal \
                    stops the VMM at once"
                );
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
        ending.vmm.kill(ending.signal);
        Self(None)
    }

    /// Time at which the VMM is stopped.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadline
    }

    /// Stops the VMM, if its time is up.
    pub(super) fn expire(&mut self) {
        let Some(ending) = &self.0 else { return };
        if ending.deadline.is_some_and(|at| at <= Instant::now()) {
            log::warn!("the guest has not shut down in time: stopping the VMM");
            *self = Self::force(ending);
        }
    }
}
