//! The VMM that hawser starts once its sockets are ready. hawser forwards its own signals to the VMM, and ends when the
//! VMM ends.

use crate::failure::Failure;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

/// A VMM that hawser started.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    child: Child,
    /// A pidfd, which identifies this process even after its number is reused.
    handle: Arc<OwnedFd>,
}

/// Sends signals to the VMM.
#[derive(Clone, Debug)]
pub(crate) struct SignalSink(Arc<OwnedFd>);

impl SignalSink {
    /// Sends a signal, unless the VMM has ended.
    pub(crate) fn send(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // This fails only if the process has ended.
            let _ = pidfd_send_signal(&*self.0, signal);
        }
    }
}

impl VmmProcess {
    /// Starts `words`, a program and its arguments.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(words: &[OsString]) -> Result<Self, Failure> {
        let [program, arguments @ ..] = words else {
            return Err(Failure::usage("name a VMM after --"));
        };
        let started = Command::new(program).args(arguments).spawn();
        let mut child = started.map_err(|e| Failure::runtime(format_args!("{}: {e}", program.display())))?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Self {
                child,
                handle: Arc::new(handle),
            }),
            Err(error) => {
                // Without a pidfd hawser could not end it later.
                let _ = child.kill();
                let _ = child.wait();
                Err(Failure::runtime(format_args!("{}: {error}", program.display())))
            }
        }
    }

    /// A handle that sends signals to the VMM.
    pub(crate) fn signals(&self) -> SignalSink {
        SignalSink(Arc::clone(&self.handle))
    }

    /// Waits until the VMM ends.
    ///
    /// # Errors
    /// The error of waitpid(2).
    pub(crate) fn wait(mut self) -> Result<ExitStatus, Failure> {
        self.child
            .wait()
            .map_err(|e| Failure::runtime(format_args!("cannot wait for the VMM: {e}")))
    }
}
