//! The handle by which the vhost-user side controls a worker.

use super::command::{Command, CommandSender, Limits, RingRole, RingSetup};
use crate::mode::{Departure, HandoffError, ModeCommand, SavedMode, Unwritten};
use crate::virtio::GuestMap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

/// A rest of a worker, which continues when this is dropped.
#[derive(Debug)]
pub struct Rest(#[allow(dead_code, reason = "its drop closes the channel")] Sender<Infallible>);

/// A running worker. Dropping it stops the thread.
///
/// Commands are executed in order. Only [`set_memory`], [`clear_memory`], [`set_features`] and
/// [`stop_ring`] wait for the worker.
///
/// [`set_memory`]: Self::set_memory
/// [`clear_memory`]: Self::clear_memory
/// [`set_features`]: Self::set_features
/// [`stop_ring`]: Self::stop_ring
pub struct WorkerHandle {
    commands: CommandSender,
    thread: Option<JoinHandle<()>>,
}

debug_fields!(WorkerHandle { thread });

impl WorkerHandle {
    pub(super) const fn new(commands: CommandSender, thread: JoinHandle<()>) -> Self {
        Self {
            commands,
            thread: Some(thread),
        }
    }

    /// Replaces the worker's memory table. Returns when the old table is no longer used. Running rings are translated
    /// again. A ring that is no longer mapped stops until a later table maps it again.
    pub fn set_memory(&self, map: Arc<GuestMap>) {
        self.commands.ask(|reply| Command::SetMemory(Ok(map), reply));
    }

    /// Removes the memory of a front end that has disconnected. Every ring stops.
    pub fn clear_memory(&self, departure: Departure) {
        self.commands.ask(|reply| Command::SetMemory(Err(departure), reply));
    }

    /// Sets the features that the guest acknowledged. Returns when running rings use them: once LOG_ALL is acknowledged
    /// to the front end, every write is logged.
    pub fn set_features(&self, features: u64) {
        self.commands.ask(|reply| Command::SetFeatures(features, reply));
    }

    /// Informs the mode that the device was reset.
    pub fn reset(&self) {
        self.commands.send(Command::Reset);
    }

    /// Starts a ring. It is served once it is also enabled ([`set_enabled`](Self::set_enabled)).
    pub fn start_ring(&self, role: RingRole, setup: RingSetup) {
        self.commands.send(Command::StartRing(role, Box::new(setup)));
    }

    /// Stops a ring and returns the index of the next available entry for a successor. `None` if the ring was never
    /// started, or the worker has ended.
    pub fn stop_ring(&self, role: RingRole) -> Option<u16> {
        self.commands.ask(|reply| Command::StopRing(role, reply)).flatten()
    }

    /// Enables or disables a ring, whether or not it is started. A disabled receive ring gets no frames. Frames in a
    /// transmit ring that is disabled while it runs are discarded after a moment.
    pub fn set_enabled(&self, role: RingRole, enabled: bool) {
        self.commands.send(Command::SetEnabled(role, enabled));
    }

    /// Replaces the eventfd that interrupts the guest.
    pub fn set_call(&self, role: RingRole, call: Option<File>) {
        self.commands.send(Command::SetCall(role, call));
    }

    /// Replaces the eventfd that reports a broken ring to the front end.
    pub fn set_error(&self, role: RingRole, error: Option<File>) {
        self.commands.send(Command::SetError(role, error));
    }

    /// Sets the link up or down, regardless of the rings that the front end has enabled.
    pub fn set_link(&self, up: bool) {
        self.commands.send(Command::SetLink(up));
    }

    /// Replaces the rate limits.
    pub fn set_rates(&self, limits: Limits) {
        self.commands.send(Command::SetRates(limits));
    }

    /// Passes a command to the mode without waiting for it.
    pub fn command_mode(&self, command: ModeCommand) {
        self.commands.send(Command::Mode(command, None));
    }

    /// Passes a command to the mode and waits until it is executed.
    ///
    /// # Errors
    /// The error of the mode; BrokenPipe if the worker has ended.
    pub fn command_mode_and_wait(&self, command: ModeCommand) -> io::Result<()> {
        let done = self.commands.ask(|reply| Command::Mode(command, Some(reply)));
        done.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl WorkerHandle {
    /// Duplicates of the descriptors with which the worker's mode was created.
    ///
    /// # Errors
    /// [`HandoffError`]
    pub fn share(&self) -> Result<Vec<OwnedFd>, HandoffError> {
        self.commands.ask(Command::Share).unwrap_or(Err(HandoffError::Ended))
    }

    /// What the worker's mode can pass on in advance. The worker goes on meanwhile.
    ///
    /// # Errors
    /// [`HandoffError`]
    pub fn save_ahead(&self) -> Result<Option<SavedMode>, HandoffError> {
        let saved = self.commands.ask(Command::SaveAhead);
        Ok(saved.unwrap_or(Err(HandoffError::Ended))?.map(Unwritten::write))
    }

    /// Passes what a mode of another process has passed on in advance to a worker that has not begun.
    ///
    /// # Errors
    /// [`HandoffError`]. The worker must be dropped.
    pub fn load_ahead(&self, saved: SavedMode) -> Result<(), HandoffError> {
        let loaded = self.commands.ask(|reply| Command::LoadAhead(saved, reply));
        loaded.unwrap_or(Err(HandoffError::Ended))
    }

    /// The state of the worker's mode, for another process. The worker rests until the second value is dropped: it serves
    /// no socket, and commands wait.
    ///
    /// # Errors
    /// [`HandoffError`]; the worker continues.
    pub fn save(&self) -> Result<(SavedMode, Rest), HandoffError> {
        let (rest, end) = channel();
        let saved = self.commands.ask(|reply| Command::Save(reply, end));
        Ok((saved.unwrap_or(Err(HandoffError::Ended))?, Rest(rest)))
    }

    /// Passes the state of a mode of another process to a worker that has not begun.
    ///
    /// # Errors
    /// [`HandoffError`]. The worker must be dropped.
    pub fn load(&self, saved: SavedMode) -> Result<(), HandoffError> {
        let loaded = self.commands.ask(|reply| Command::Load(saved, reply));
        loaded.unwrap_or(Err(HandoffError::Ended))
    }

    /// Lets a worker begin that was created at [`Stage::Resting`](super::Stage). The result receives the moment at which it
    /// does.
    pub fn begin(&self) -> Receiver<std::time::Instant> {
        let (reply, begun) = sync_channel(1);
        self.commands.send(Command::Begin(reply));
        begun
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
