//! The VMM as a companion: started when its sockets are ready, sent the signals that
//! hawser is sent, and the end of it is the end of hawser.

use crate::failure::Failure;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

/// A VMM that runs.
#[derive(Debug)]
pub struct Companion {
    child: Child,
    /// Names the process even when it has ended and its number is another's.
    handle: Arc<OwnedFd>,
}

/// What signals for the VMM are given to.
#[derive(Clone, Debug)]
pub struct SignalSink(Arc<OwnedFd>);

impl SignalSink {
    /// Sends a signal, unless the VMM has ended.
    pub fn send(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // Fails only if nobody is left to hear it.
            let _ = pidfd_send_signal(&*self.0, signal);
        }
    }
}

impl Companion {
    /// Starts `words`: a program and its arguments.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(words: &[OsString]) -> Result<Self, Failure> {
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
                // Nobody waits for a VMM that cannot be told to end.
                let _ = child.kill();
                let _ = child.wait();
                Err(Failure::runtime(format_args!("{}: {error}", program.display())))
            }
        }
    }

    /// Where signals go.
    pub fn signals(&self) -> SignalSink {
        SignalSink(Arc::clone(&self.handle))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// What waitpid(2) says.
    pub fn wait(mut self) -> Result<ExitStatus, Failure> {
        self.child
            .wait()
            .map_err(|e| Failure::runtime(format_args!("cannot wait for the VMM: {e}")))
    }
}
