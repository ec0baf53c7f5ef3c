//! A port that continues in another process.
//!
//! The old process hands its server over, which stops the rings, and then makes its workers rest
//! ([`Port::rest`]). The new process has a port whose workers rest from the start ([`Origin::Successor`](super::Origin)). It loads the
//! modes and the NIC, takes over the server, and lets the workers begin once the old process has given up the guest.

use super::Port;
use super::forwards::SavedForward;
use super::identity::Identity;
use super::saved::{NicError, NicRecord};
use crate::bridge;
use crate::config::payload::{Payload, Sealed};
use crate::masquerade;
use crate::mode::{HandoffError, ModeCommand, SavedMode};
use crate::nat;
use crate::overlay;
use crate::worker::Rest;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

/// A port between two processes, without its server and the modes of its workers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    nic: Sealed<NicRecord>,
    /// Forwards, including those that were added while the port was served.
    forwards: Vec<SavedForward>,
}

impl Payload for PortRecord {
    const KIND: &'static str = "port";
    const VERSION: u32 = 1;
}

/// A port whose workers rest. They continue when this is dropped.
#[derive(Debug)]
pub struct RestingPort {
    /// State of the port.
    pub record: PortRecord,
    /// States of the workers' modes.
    pub modes: Vec<SavedMode>,
    /// Rests of the workers.
    pub rests: Vec<Rest>,
}

/// How often workers take in what others have passed to them. A frame may make its flow move, and the flow then arrives
/// in the next round.
const ROUNDS: usize = 2;

impl Port {
    /// Duplicates of the descriptors with which the modes were created, for [`PortResources`](super::PortResources) of
    /// another process: those of each worker.
    ///
    /// # Errors
    /// [`HandoffError`]
    pub fn share(&self) -> Result<Vec<Vec<OwnedFd>>, HandoffError> {
        self.workers.iter().map(crate::worker::WorkerHandle::share).collect()
    }

    /// What the modes of the workers can pass on in advance, while everything runs: `None` for a mode without such state.
    ///
    /// # Errors
    /// [`HandoffError`]
    pub fn save_ahead(&self) -> Result<Vec<Option<SavedMode>>, HandoffError> {
        self.workers
            .iter()
            .map(crate::worker::WorkerHandle::save_ahead)
            .collect()
    }

    /// Passes on what the modes of another process have passed on in advance.
    ///
    /// # Errors
    /// [`HandoffError`]. The port must be dropped.
    pub fn load_ahead(&self, modes: Vec<Option<SavedMode>>) -> Result<(), HandoffError> {
        let mut each = self.workers.iter().zip(modes);
        each.try_for_each(|(worker, mode)| mode.map_or(Ok(()), |mode| worker.load_ahead(mode)))
    }

    /// Makes the workers rest. Their rings must be stopped.
    ///
    /// # Errors
    /// [`HandoffError`]; the workers continue.
    pub fn rest(&self) -> Result<RestingPort, HandoffError> {
        // A single worker has none to take in from.
        for _ in 0..ROUNDS * usize::from(self.workers.len() > 1) {
            for worker in &self.workers {
                worker.command_mode_and_wait(ModeCommand::TakeIn)?;
            }
        }
        let saved: Result<Vec<_>, _> = self.workers.iter().map(crate::worker::WorkerHandle::save).collect();
        let (modes, rests) = saved?.into_iter().unzip();
        Ok(RestingPort {
            record: PortRecord {
                nic: Sealed(self.save()),
                forwards: self.save_forwards(),
            },
            modes,
            rests,
        })
    }

    /// Loads the modes of another process into workers that rest.
    ///
    /// # Errors
    /// [`HandoffError`]. The port must be dropped.
    pub fn load_modes(&self, modes: Vec<SavedMode>) -> Result<(), HandoffError> {
        if modes.len() != self.workers.len() {
            let why = format!("it has {} workers and the port {}", modes.len(), self.workers.len());
            return Err(io::Error::other(why).into());
        }
        self.workers
            .iter()
            .zip(modes)
            .try_for_each(|(worker, mode)| worker.load(mode))
    }

    /// Continues with the port of another process. Call this while the workers rest, after the front end was taken over.
    ///
    /// # Errors
    /// [`NicError`]. The port must be dropped.
    pub fn load_record(&self, record: PortRecord) -> Result<(), NicError> {
        let Sealed(nic) = record.nic;
        self.load(nic)?;
        self.load_forwards(record.forwards);
        Ok(())
    }

    /// Ends the TCP connections of workers that rest, as soon as they continue, because another process may have moved
    /// bytes of them. Both sides are reset.
    pub fn end_connections(&self) {
        for worker in &self.workers {
            worker.command_mode(ModeCommand::EndConnections);
        }
    }

    /// Lets workers begin that rest from the start, and returns the moment at which the last one has.
    pub fn begin(&self) -> std::time::Instant {
        let begun: Vec<_> = self.workers.iter().map(crate::worker::WorkerHandle::begin).collect();
        let begun = begun.into_iter().filter_map(|begun| begun.recv().ok());
        begun.max().unwrap_or_else(std::time::Instant::now)
    }
}

/// The kinds of payloads that this process reads, and writes for some ports.
pub fn optional_formats() -> Vec<(&'static str, u32)> {
    overlay::formats()
}

/// The kinds of payloads that this process reads and writes for every port, with the newest version of each.
pub fn formats() -> Vec<(&'static str, u32)> {
    const fn of<T: Payload>() -> (&'static str, u32) {
        (T::KIND, T::VERSION)
    }
    let own = vec![of::<PortRecord>(), of::<NicRecord>(), of::<Identity>()];
    [
        own,
        vec![bridge::format()],
        masquerade::formats(),
        nat::handover::formats(),
    ]
    .concat()
}
