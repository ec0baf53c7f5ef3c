//! Signals become calls.
//!
//! Where there is a VMM the first signal that would end hawser asks the guest to shut down, and
//! a second one is the VMM's: so is the first where the guest cannot be asked.

use crate::failure::Failure;
use crate::hotplug::{Hotplug, PowerDown};
use crate::machine::Machine;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::vmm_process::SignalSink;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::{Handle, Signals};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The thread that turns signals into calls. Ends on drop.
pub(crate) struct SignalWatch {
    handle: Handle,
    vmm: Arc<Vmm>,
    thread: Option<JoinHandle<()>>,
}

/// Receivers of the signals that would end hawser, if hawser started a VMM.
#[derive(Default)]
struct Vmm {
    /// The VMM itself.
    signals: OnceLock<SignalSink>,
    /// Requests a shutdown of the guest first.
    asks: OnceLock<Hotplug>,
}

impl SignalWatch {
    /// SIGUSR1 writes the counters of `machine`, all others stop it.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(mut signals: Signals, machine: Arc<Machine>, sandbox: &Sandbox) -> Result<Self, Failure> {
        let handle = signals.handle();
        let vmm: Arc<Vmm> = Arc::default();
        let told = Arc::clone(&vmm);
        let watch = move || {
            let mut asked = false;
            for signal in &mut signals {
                if signal == SIGUSR1 {
                    machine.write_reports();
                    continue;
                }
                match (told.signals.get(), told.asks.get()) {
                    (Some(vmm), Some(hotplug)) if !asked => {
                        asked = true;
                        hotplug.power_down(PowerDown::new(vmm.clone(), signal));
                    }
                    (Some(vmm), _) => vmm.send(signal),
                    (None, _) => machine.stop(),
                }
            }
        };
        let thread = sandbox.spawn(ThreadKind::Signals, "signals", watch)?;
        Ok(Self {
            handle,
            vmm,
            thread: Some(thread),
        })
    }

    /// From now on signals are the VMM's.
    pub(crate) fn hand_to(&self, vmm: SignalSink) {
        // Set once.
        let _ = self.vmm.signals.set(vmm);
    }

    /// Makes signals request a shutdown of the guest first.
    pub(crate) fn ask_first(&self, hotplug: Hotplug) {
        // Set once.
        let _ = self.vmm.asks.set(hotplug);
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It has panicked only if standard error did; there is nothing to add to that.
            let _ = thread.join();
        }
    }
}
