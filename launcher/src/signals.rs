//! Turns signals into calls.
//!
//! With a VMM, the first signal that would end hawser requests a shutdown of the guest, and the second is forwarded to
//! the VMM. If a shutdown cannot be requested, the first signal is forwarded too. Signals for a VM whose VMM hawser has
//! started reach its parent, which passes them on; those that reach this process as well, because a terminal sends them to
//! all, count once.

use crate::failure::Failure;
use crate::hotplug::{Hotplug, PowerDown};
use crate::machine::Machine;
use crate::sandbox::{Sandbox, ThreadKind};
use crate::vmm_process::{ParentLine, VmmEvents};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::{Handle, Signals};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The thread that turns signals into calls. It ends on drop.
pub(crate) struct SignalWatch {
    handle: Handle,
    receivers: Receivers,
    thread: Option<JoinHandle<()>>,
}

/// Receivers of the signals.
#[derive(Clone)]
pub(crate) struct Receivers(Arc<Parts>);

struct Parts {
    machine: Arc<Machine>,
    /// The VMM's parent, if hawser started a VMM.
    vmm: OnceLock<ParentLine>,
    /// Handle through which a shutdown of the guest is requested first.
    asks: OnceLock<Hotplug>,
    /// A shutdown was requested.
    asked: AtomicBool,
}

impl Receivers {
    /// True if the VM is shutting down.
    pub(crate) fn is_ending(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// A signal that reached this process itself.
    fn receive(&self, signal: i32) {
        match self.0.vmm.get() {
            Some(_) if signal != SIGUSR1 => {}
            _ => self.on_signal(signal),
        }
    }
}

impl VmmEvents for Receivers {
    fn on_signal(&self, signal: i32) {
        let parts = &self.0;
        if signal == SIGUSR1 {
            return parts.machine.write_reports();
        }
        let Some(vmm) = parts.vmm.get() else {
            return parts.machine.stop();
        };
        match parts.asks.get() {
            Some(hotplug) if !parts.asked.swap(true, Ordering::Relaxed) => {
                hotplug.power_down(PowerDown::new(vmm.clone(), signal));
            }
            _ => vmm.kill(signal),
        }
    }

    fn on_end(&self) {
        self.0.machine.stop();
    }
}

impl SignalWatch {
    /// Starts the thread. SIGUSR1 logs the counters of `machine`. All other signals stop it.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub(crate) fn start(mut signals: Signals, machine: Arc<Machine>, sandbox: &Sandbox) -> Result<Self, Failure> {
        let handle = signals.handle();
        let receivers = Receivers(Arc::new(Parts {
            machine,
            vmm: OnceLock::new(),
            asks: OnceLock::new(),
            asked: AtomicBool::new(false),
        }));
        let told = receivers.clone();
        let watch = move || signals.forever().for_each(|signal| told.receive(signal));
        let thread = sandbox.spawn(ThreadKind::Signals, "signals", watch)?;
        Ok(Self {
            handle,
            receivers,
            thread: Some(thread),
        })
    }

    /// The receivers, for signals that arrive in another way.
    pub(crate) fn receivers(&self) -> Receivers {
        self.receivers.clone()
    }

    /// Forwards signals to the VMM from now on.
    pub(crate) fn hand_to(&self, vmm: ParentLine) {
        // It is set only once.
        let _ = self.receivers.0.vmm.set(vmm);
    }

    /// Makes signals request a shutdown of the guest first.
    pub(crate) fn ask_first(&self, hotplug: Hotplug) {
        // It is set only once.
        let _ = self.receivers.0.asks.set(hotplug);
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
