//! The vhost-user side's hold on a worker.

use super::command::{Command, CommandSender, Limits, RingRole, RingSetup};
use crate::mode::ModeCommand;
use crate::virtio::GuestMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A running worker. Dropping it stops the thread.
///
/// Orders are carried out in the order they are given. Only [`set_memory`],
/// [`clear_memory`], [`set_features`] and [`stop_ring`] wait for the worker.
///
/// [`set_memory`]: Self::set_memory
/// [`clear_memory`]: Self::clear_memory
/// [`set_features`]: Self::set_features
/// [`stop_ring`]: Self::stop_ring
pub struct WorkerHandle {
    commands: CommandSender,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    pub(super) const fn new(commands: CommandSender, thread: JoinHandle<()>) -> Self {
        Self {
            commands,
            thread: Some(thread),
        }
    }

    /// Gives the worker a new memory table. Returns when the old one is no longer
    /// used. Running rings are translated again; one that is no longer mapped stops
    /// until there is memory it is mapped in.
    pub fn set_memory(&self, map: Arc<GuestMap>) {
        self.commands.ask(|reply| Command::SetMemory(Some(map), reply));
    }

    /// Takes the memory away: every ring stops. For a front end that is gone.
    pub fn clear_memory(&self) {
        self.commands.ask(|reply| Command::SetMemory(None, reply));
    }

    /// Tells the features the guest acknowledged. Returns when running rings follow
    /// them: no write goes unlogged after LOG_ALL was acknowledged to the front end.
    pub fn set_features(&self, features: u64) {
        self.commands.ask(|reply| Command::SetFeatures(features, reply));
    }

    /// Tells the mode that the device was reset.
    pub fn reset(&self) {
        self.commands.send(Command::Reset);
    }

    /// Starts a ring. It serves once it is enabled too ([`set_enabled`](Self::set_enabled)).
    pub fn start_ring(&self, role: RingRole, setup: RingSetup) {
        self.commands.send(Command::StartRing(role, Box::new(setup)));
    }

    /// Stops a ring and returns the index of the next available entry, for the one
    /// who goes on; `None` if it was never started (or the worker is gone).
    pub fn stop_ring(&self, role: RingRole) -> Option<u16> {
        self.commands.ask(|reply| Command::StopRing(role, reply)).flatten()
    }

    /// Enables or disables a ring, started or not. A disabled ring gives nothing to the guest;
    /// what the guest sends on one that ran is taken, after a moment, and goes nowhere.
    pub fn set_enabled(&self, role: RingRole, enabled: bool) {
        self.commands.send(Command::SetEnabled(role, enabled));
    }

    /// Replaces the eventfd that interrupts the guest.
    pub fn set_call(&self, role: RingRole, call: Option<File>) {
        self.commands.send(Command::SetCall(role, call));
    }

    /// Replaces the eventfd that tells the front end of a broken ring.
    pub fn set_error(&self, role: RingRole, error: Option<File>) {
        self.commands.send(Command::SetError(role, error));
    }

    /// Lets frames pass or stops them, whatever rings the front end has enabled.
    pub fn set_link(&self, up: bool) {
        self.commands.send(Command::SetLink(up));
    }

    /// Replaces the rate limits.
    pub fn set_rates(&self, limits: Limits) {
        self.commands.send(Command::SetRates(limits));
    }

    /// Hands a command to the mode.
    pub fn command_mode(&self, command: ModeCommand) {
        self.commands.send(Command::Mode(command, None));
    }

    /// Hands a command to the mode and waits until it is carried out.
    ///
    /// # Errors
    /// What the mode says; BrokenPipe if the worker is gone.
    pub fn command_mode_and_wait(&self, command: ModeCommand) -> io::Result<()> {
        let done = self.commands.ask(|reply| Command::Mode(command, Some(reply)));
        done.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.commands.send(Command::Exit);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
