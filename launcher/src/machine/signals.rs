//! Signals become calls.

use super::Machine;
use crate::companion::SignalSink;
use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::{Handle, Signals};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The thread that turns signals into calls. Ends on drop.
pub struct SignalWatch {
    handle: Handle,
    /// Who is sent the signals that would end hawser, where there is a VMM.
    vmm: Arc<OnceLock<SignalSink>>,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatch {
    /// SIGUSR1 writes the counters of `machine`, all others stop it.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(mut signals: Signals, machine: Arc<Machine>, sandbox: &Sandbox) -> Result<Self, Failure> {
        let handle = signals.handle();
        let vmm: Arc<OnceLock<SignalSink>> = Arc::default();
        let sink = Arc::clone(&vmm);
        let watch = move || {
            for signal in &mut signals {
                match sink.get() {
                    _ if signal == SIGUSR1 => machine.write_reports(),
                    Some(vmm) => vmm.send(signal),
                    None => machine.stop(),
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
    pub fn hand_to(&self, vmm: SignalSink) {
        // Set once.
        let _ = self.vmm.set(vmm);
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
