//! Changes a running VMM: adds and removes NICs, and sets links.
//!
//! Each change opens a new connection, so a VMM that has ended, or whose monitor has another client, blocks nothing.

use super::cloud_hypervisor::CloudHypervisor;
use super::qemu::Qemu;
use super::qmp::QmpError;
use super::{Card, Passed, VmmError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the control socket of a VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VmmSocket {
    /// QEMU's monitor (`-qmp`).
    Qemu(PathBuf),
    /// cloud-hypervisor's API (`--api-socket`).
    CloudHypervisor(PathBuf),
}

/// Time limits within which a guest must release a NIC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Total time for the release.
    pub whole: Duration,
    /// Time after which the request is repeated.
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            whole: Duration::from_secs(20),
            // QEMU refuses a second request for a NIC on a root port within five seconds.
            again: Duration::from_secs(6),
        }
    }
}

/// Whether the VMM can show the guest a link state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkShown {
    /// The VMM sets the link.
    ByVmm,
    /// The VMM cannot set links; only the back end's own channel is available.
    ByBackEnd,
}

/// The reason why a change of a running VMM failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunningError {
    /// QEMU's monitor returned an error.
    #[error(transparent)]
    Qemu(#[from] QmpError),
    /// The socket of cloud-hypervisor failed.
    #[error("cloud-hypervisor's API: {0}")]
    CloudHypervisor(io::Error),
    /// cloud-hypervisor answered with an error.
    #[error("cloud-hypervisor refused {what} with status {status}: {why}")]
    Answer {
        /// Request that was refused.
        what: String,
        /// HTTP status.
        status: u16,
        /// Body of the response.
        why: String,
    },
    /// The NIC cannot be expressed as options of the VMM.
    #[error(transparent)]
    Card(VmmError),
    /// QEMU has no free root port.
    #[error("{0}, and no root port is free: start QEMU with more of -device pcie-root-port,id=…,chassis=…,slot=…")]
    NoPort(String),
    /// The manifest names a place at which QEMU plugs nothing.
    #[error(
        "pciAddress of {0}: QEMU adds devices to a running VM only behind root ports: leave it out, or give it to a VM \
         that starts"
    )]
    Fixed(String),
    /// The VM already has a NIC of this name.
    #[error("the VM already has a NIC for interface {0}; unplug it first")]
    There(String),
    /// The guest did not release the NIC in time.
    #[error("the guest did not release the NIC of {0} within {1:?}: it stays plugged; try again later")]
    Kept(String, Duration),
    /// The guest refused to release the NIC.
    #[error("the guest refused to release the NIC of {0}: it stays plugged")]
    Refused(String),
}

impl RunningError {
    /// True if the VMM could not be reached at all.
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Qemu(QmpError::Silent | QmpError::Socket(_) | QmpError::NoQmp) | Self::CloudHypervisor(_)
        )
    }
}

/// A VMM to which a connection is open.
#[derive(Debug)]
pub(crate) enum RunningVmm {
    /// A QEMU monitor.
    Qemu(Qemu),
    /// A cloud-hypervisor API.
    CloudHypervisor(CloudHypervisor),
}

impl VmmSocket {
    /// Connects to the VMM.
    ///
    /// # Errors
    /// The VMM does not answer.
    pub(crate) fn connect(&self) -> Result<RunningVmm, RunningError> {
        Ok(match self {
            Self::Qemu(path) => RunningVmm::Qemu(Qemu::connect(path)?),
            Self::CloudHypervisor(path) => RunningVmm::CloudHypervisor(CloudHypervisor::new(path)),
        })
    }
}

impl RunningVmm {
    /// Adds a NIC. A failure leaves nothing behind.
    ///
    /// # Errors
    /// [`RunningError`]
    pub(crate) fn plug(&mut self, card: &Card<'_>) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.plug(card),
            Self::CloudHypervisor(vmm) => vmm.plug(card),
        }
    }

    /// Adds a virtual function.
    ///
    /// # Errors
    /// [`RunningError`]
    pub(crate) fn plug_passed(&mut self, passed: &Passed<'_>) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.plug_passed(passed),
            Self::CloudHypervisor(vmm) => vmm.plug_passed(passed),
        }
    }

    /// Presses the VM's power button, which requests a shutdown of the guest.
    ///
    /// # Errors
    /// [`RunningError`]
    pub(crate) fn power_down(&mut self) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.power_down(),
            Self::CloudHypervisor(vmm) => vmm.power_down(),
        }
    }

    /// Removes a NIC and returns once the guest has released it.
    ///
    /// # Errors
    /// [`RunningError`]. The NIC is then unchanged.
    pub(crate) fn unplug(&mut self, port: &str, patience: &Patience) -> Result<(), RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.unplug(port, patience),
            Self::CloudHypervisor(vmm) => vmm.unplug(port, patience),
        }
    }

    /// Sets the link state that the guest sees, if the VMM supports it.
    ///
    /// # Errors
    /// [`RunningError`]
    pub(crate) fn set_link(&mut self, port: &str, up: bool) -> Result<LinkShown, RunningError> {
        match self {
            Self::Qemu(vmm) => vmm.set_link(port, up).map(|()| LinkShown::ByVmm),
            Self::CloudHypervisor(_) => Ok(LinkShown::ByBackEnd),
        }
    }
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
