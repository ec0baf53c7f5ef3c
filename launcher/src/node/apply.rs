//! Carries out the steps of a plan. The steps for one physical function are made completely or not at all.

use super::plan::{PfPlan, Step, needs_driver};
use super::survey::{self, Pf};
use crate::failure::Failure;
use hawser_host::netlink::Netlink;
use hawser_host::pci::Pci;
use hawser_host::vf_state::PASSING_DRIVER;
use hawser_manifest::objects::node_policy::DeviceType;
use std::io;

/// Makes the changes of one physical function. If a step fails, the steps before it are undone.
///
/// # Errors
/// The step that failed.
pub(super) fn carry_out(pci: &Pci, plan: &PfPlan) -> Result<(), Failure> {
    for (done, step) in plan.steps.iter().enumerate() {
        let Err(error) = take(pci, plan, step) else { continue };
        for step in plan.steps[..done].iter().rev().filter_map(undoing) {
            if let Err(error) = take(pci, plan, &step) {
                log::error!("{}: cannot undo: {step}: {error}", plan.record.name);
            }
        }
        let remedy = match step {
            Step::Bind { pool } if pool.device_type == PASSING_DRIVER && !pci.has_driver(PASSING_DRIVER) => {
                "; load the driver first (modprobe vfio-pci)"
            }
            _ if error.kind() == io::ErrorKind::PermissionDenied => "; run this as root",
            _ => "",
        };
        return Err(Failure::runtime(format_args!(
            "{} ({}): {step}: {error}{remedy}; the PF is as it was",
            plan.record.name, plan.record.pf
        )));
    }
    Ok(())
}

/// The step that undoes this step; `None` if nothing has to be undone.
fn undoing(step: &Step) -> Option<Step> {
    match *step {
        Step::Autoprobe { from, to } => Some(Step::Autoprobe { from: to, to: from }),
        Step::Present { from, to } => Some(Step::Present { from: to, to: from }),
        Step::Mtu { from, to } => Some(Step::Mtu { from: to, to: from }),
        // A physical function that stays up does no harm, and a change of the number removes new virtual functions.
        Step::Up | Step::Bind { .. } => None,
    }
}

fn take(pci: &Pci, plan: &PfPlan, step: &Step) -> io::Result<()> {
    let pf = plan.record.pf;
    let link = |change: fn(&mut Netlink, u32, u32) -> io::Result<()>, value| {
        let mut netlink = Netlink::open()?;
        let link = netlink.link_of_device(&pf.to_string())?;
        let link = link.ok_or_else(|| io::Error::other("its network device is gone"))?;
        change(&mut netlink, link.index, value)
    };
    match step {
        Step::Autoprobe { to, .. } => pci.set_autoprobe(pf, *to),
        Step::Present { to, .. } => pci.set_present(pf, *to),
        Step::Up => link(|netlink, index, _| netlink.set_up(index, true), 0),
        Step::Mtu { to, .. } => link(Netlink::set_mtu, *to),
        Step::Bind { pool } => {
            let found = survey::look(pci).map_err(|failure| io::Error::other(failure.to_string()))?;
            let found: Option<&Pf> = found.here.iter().find(|found| found.function.address == pf);
            let members = found.into_iter().flat_map(|found| &found.vfs);
            for vf in members.filter(|vf| (pool.first..=pool.last).contains(&vf.number) && needs_driver(vf, pool)) {
                let address = vf.function.address;
                let passing = (pool.device_type == DeviceType::VfioPci.name()).then_some(PASSING_DRIVER);
                pci.set_driver_override(address, passing)?;
                pci.unbind(address)?;
                pci.probe(address)?;
                let driver = pci.function(address)?.and_then(|function| function.driver);
                if passing.is_some_and(|passing| driver.as_deref() != Some(passing)) {
                    return Err(io::Error::other(format!(
                        "VF {} ({address}) has {} afterwards",
                        vf.number,
                        driver.as_deref().unwrap_or("no driver")
                    )));
                }
            }
            Ok(())
        }
    }
}
