//! A NIC without a port: a virtual function that the VMM passes to the guest.

use super::followed::FileState;
use super::{NicMetrics, NicStatus, VfStatus};
use crate::failure::Failure;
use crate::mode::Mode;
use crate::vf::{Keeper, Report, Vf};
use crate::vmm::Passed;
use hawser_backend::counters::{Count, Counters, Gauge};
use hawser_manifest::nic::DeviceHints;
use hawser_packet::MacAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device that is passed to the guest.
#[derive(Debug)]
pub(crate) struct PassedThrough {
    /// Name of the NIC.
    pub name: String,
    vf: Option<Vf>,
    keeper: Option<Arc<Keeper>>,
    is_link_wanted: AtomicBool,
}

impl PassedThrough {
    /// The virtual function of an interface.
    pub(crate) fn of(vf: Vf, keeper: Arc<Keeper>) -> Self {
        Self {
            name: vf.name.clone(),
            vf: Some(vf),
            keeper: Some(keeper),
            is_link_wanted: AtomicBool::new(true),
        }
    }

    /// A device without a function behind it, whose link is up.
    #[cfg(test)]
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            vf: None,
            keeper: None,
            is_link_wanted: AtomicBool::new(true),
        }
    }

    /// Sets the function up.
    ///
    /// # Errors
    /// The step that failed; the function is as it was.
    pub(super) fn pass(&self) -> Result<(), Failure> {
        match (&self.keeper, &self.vf) {
            (Some(keeper), Some(vf)) => keeper.pass(vf),
            _ => Ok(()),
        }
    }

    /// Input for the VMM's flags.
    pub(crate) fn card(&self) -> Option<Passed<'_>> {
        let vf = self.vf.as_ref()?;
        Some(Passed {
            name: &self.name,
            address: vf.address.to_string(),
            device: DeviceHints::clone(&vf.device),
            bus: None,
        })
    }

    fn report(&self) -> Result<Report, Failure> {
        match &self.keeper {
            Some(keeper) => keeper.report(&self.name),
            None => Ok(Report {
                mtu: 1500,
                link_up: self.is_link_wanted(),
                ..Report::default()
            }),
        }
    }

    pub(super) fn is_link_up(&self) -> bool {
        self.report().is_ok_and(|report| report.link_up)
    }

    pub(super) fn is_link_wanted(&self) -> bool {
        self.is_link_wanted.load(Ordering::Relaxed)
    }

    /// The network decides about the link of a function, so this only remembers the wish.
    pub(super) fn set_link(&self, up: bool) {
        self.is_link_wanted.store(up, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> NicStatus {
        let report = self.report();
        let mut status = NicStatus {
            name: self.name.clone(),
            mac: self.mac(),
            mtu: 0,
            mode: Mode::without_port(),
            queue_pairs: 1,
            link_up: false,
            driver_runs: false,
            leased: Vec::new(),
            seen: Vec::new(),
            warnings: Vec::new(),
            vf: None,
        };
        match report {
            Ok(report) => {
                status.vf = self.vf.as_ref().map(|vf| VfStatus {
                    address: vf.address.to_string(),
                    number: report.number,
                    pf: report.pf,
                    driver: report.driver,
                    vlan: report.vlan,
                    traffic: report.traffic,
                });
                status.mtu = u16::try_from(report.mtu).unwrap_or(u16::MAX);
                status.link_up = report.link_up;
                status.driver_runs = report.is_used;
            }
            Err(failure) => status.warnings.push(failure.to_string()),
        }
        status
    }

    fn mac(&self) -> Option<MacAddr> {
        self.vf.as_ref()?.mac
    }

    pub(super) fn metrics(&self) -> NicMetrics {
        let report = self.report();
        NicMetrics {
            link_up: report.as_ref().is_ok_and(|report| report.link_up),
            counters: report.as_ref().map(counters).unwrap_or_default(),
            failure: report.err().map(|failure| failure.to_string()),
            peers_file: FileState::default(),
            services_file: FileState::default(),
            peers: Vec::new(),
        }
    }
}

/// What the driver of the physical function counts, under the names of ports.
fn counters(report: &Report) -> Counters {
    let counters = Counters::default();
    counters.set(Gauge::QueuePairs, u64::from(report.is_used));
    let of_driver = [Count::RxFrames, Count::RxBytes, Count::TxFrames, Count::TxBytes];
    for (count, value) in of_driver.into_iter().zip(report.traffic.into_iter().flatten()) {
        counters.add(count, value);
    }
    counters
}

impl Drop for PassedThrough {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.give_back(&self.name);
        }
    }
}
