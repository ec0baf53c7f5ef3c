//! A VMM that runs: cards put in and taken out, links shown.
//!
//! It is met anew for each change, so that nothing is held of one that may have gone, or
//! that somebody else wants to talk to.

use super::cloud_hypervisor::CloudHypervisor;
use super::qemu::Qemu;
use super::qmp::QmpError;
use super::{Card, VmmError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Where a VMM takes orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmmSocket {
    /// QEMU's monitor (`-qmp`).
    Qemu(PathBuf),
    /// cloud-hypervisor's API (`--api-socket`).
    CloudHypervisor(PathBuf),
}

/// How long a guest may take to let go of a card.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Altogether.
    pub whole: Duration,
    /// Until it is asked again.
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            whole: Duration::from_secs(20),
            // QEMU takes no second request for a card on a root port before five seconds.
            again: Duration::from_secs(6),
        }
    }
}

/// Whether the guest is told of a link by the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkShown {
    /// It is.
    ByVmm,
    /// Only what the back end can tell it.
    ByBackEnd,
}

/// Why a VMM did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] QmpError),
    /// cloud-hypervisor's socket.
    #[error("cloud-hypervisor's API: {0}")]
    CloudHypervisor(io::Error),
    /// cloud-hypervisor's answer.
    #[error("cloud-hypervisor refuses {what} with status {status}: {why}")]
    Answer {
        /// What it was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        why: String,
    },
    /// A card that cannot be described to it.
    #[error(transparent)]
    Card(VmmError),
    /// QEMU has no place for it.
    #[error("{0}, and no root port is free: start QEMU with more of -device pcie-root-port,id=…,chassis=…,slot=…")]
    NoPort(String),
    /// A card of this name is in the VM.
    #[error("a card of interface {0} is in the VM already; unplug it first")]
    There(String),
    /// The guest does not let go.
    #[error("the guest does not let go of the card of {0} within {1:?}: it is plugged as before; try again later")]
    Kept(String, Duration),
    /// The guest says no.
    #[error("the guest refuses to let go of the card of {0}: it is plugged as before")]
    Refused(String),
}

impl RunningError {
    /// Whether the VMM could not be asked at all.
    pub const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Qemu(QmpError::Silent | QmpError::Socket(_) | QmpError::NoQmp) | Self::CloudHypervisor(_)
        )
    }
}

/// A VMM that has been met.
#[derive(Debug)]
pub enum RunningVmm {
    /// QEMU.
    Qemu(Qemu),
    /// cloud-hypervisor.
    CloudHypervisor(CloudHypervisor),
}

impl VmmSocket {
    /// Meets it.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn meet(&self) -> Result<RunningVmm, RunningError> {
        Ok(match self {
            Self::Qemu(path) => RunningVmm::Qemu(Qemu::connect(path)?),
            Self::CloudHypervisor(path) => RunningVmm::CloudHypervisor(CloudHypervisor::new(path)),
        })
    }
}

impl RunningVmm {
    /// Puts a card in. Nothing is left of one that cannot be.
    ///
    /// # Errors
    /// [`RunningError`]
    pub fn plug(&mut self, card: &Card<'_>) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.plug(card),
            Self::CloudHypervisor(vmm) => vmm.plug(card),
        }
    }

    /// Presses the power button: the guest is asked to shut down.
    ///
    /// # Errors
    /// [`RunningError`]
    pub fn power_down(&mut self) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.power_down(),
            Self::CloudHypervisor(vmm) => vmm.power_down(),
        }
    }

    /// Takes a card out and comes back when the guest has let go of it.
    ///
    /// # Errors
    /// [`RunningError`]; the card is there as before.
    pub fn unplug(&mut self, port: &str, patience: &Patience) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.unplug(port, patience),
            Self::CloudHypervisor(vmm) => vmm.unplug(port, patience),
        }
    }

    /// Shows the guest a link, where the VMM can.
    ///
    /// # Errors
    /// [`RunningError`]
    pub fn set_link(&mut self, port: &str, up: bool) -> Result<LinkShown, RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.set_link(port, up).map(|()| LinkShown::ByVmm),
            Self::CloudHypervisor(_) => Ok(LinkShown::ByBackEnd),
        }
    }
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
