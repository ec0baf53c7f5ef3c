//! Turns signals into calls.
//!
//! With a VMM, the first signal that would end hawser requests a shutdown of the guest, and the second is forwarded to
//! the VMM. If a shutdown cannot be requested, the first signal is forwarded too.

use crate::failure::Failure;
use crate::hotplug::{Hotplug, PowerDown};
use crate::machine::Machine;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::vmm_process::SignalSink;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::{Handle, Signals};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The thread that turns signals into calls. It ends on drop.
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
    /// Handle through which a shutdown of the guest is requested first.
    asks: OnceLock<Hotplug>,
}

impl SignalWatch {
    /// Starts the thread. SIGUSR1 logs the counters of `machine`. All other signals stop it.
    ///
    /// # Errors
    /// The thread cannot be created.
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

    /// Forwards signals to the VMM from now on.
    pub(crate) fn hand_to(&self, vmm: SignalSink) {
        // It is set only once.
        let _ = self.vmm.signals.set(vmm);
    }

    /// Makes signals request a shutdown of the guest first.
    pub(crate) fn ask_first(&self, hotplug: Hotplug) {
        // It is set only once.
        let _ = self.vmm.asks.set(hotplug);
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It panics only if standard error fails, so there is nothing to report.
            let _ = thread.join();
        }
    }
}
