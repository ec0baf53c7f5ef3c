//! SR-IOV in a lab VM with an IOMMU and two emulated PFs of 7 VFs each.
//!
//! All tests share one boot, and each leaves the PFs as it found them. Where the lab cannot exist, for want of a kernel
//! or of an emulated PF, the tests are reported as ignored.

use hawser_testkit::Result;
use hawser_testkit::guest::Machine;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// PCI address of the first PF.
const PF: &str = "0000:01:00.0";

/// The lab VM, booted by the first test.
#[derive(Default)]
struct Lab {
    machine: Mutex<Option<Machine>>,
}

impl Lab {
    fn run(&self, test: Test) -> std::result::Result<(), Failed> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let booted = match &mut *machine {
            Some(machine) => machine,
            none => none.insert(Machine::boot_sriov(&[])?),
        };
        Ok(test(booted)?)
    }
}

type Test = fn(&Machine) -> Result<()>;

/// Names with their tests.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as Test)),*] };
}

const TESTS: &[(&str, Test)] = tests![the_lab_has_virtual_functions_in_groups_of_their_own_that_vfio_pci_takes];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests share the machine's PFs.
    arguments.test_threads = Some(1);
    let lacking = Machine::lacks_sriov();
    if let Some(reason) = &lacking {
        eprintln!("skipped, because there is no lab with SR-IOV: {reason}");
    }
    let lab = Arc::new(Lab::default());
    let trials = TESTS.iter().map(|&(name, test)| {
        let lab = Arc::clone(&lab);
        Trial::test(name, move || lab.run(test)).with_ignored_flag(lacking.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Probes the lab itself: what the other tests build on.
fn the_lab_has_virtual_functions_in_groups_of_their_own_that_vfio_pci_takes(machine: &Machine) -> Result<()> {
    let pf = format!("/sys/bus/pci/devices/{PF}");
    assert_eq!(machine.sh(&format!("cat {pf}/sriov_totalvfs"))?.trim(), "7");
    machine.sh(&format!(
        "set -e\necho 0 >{pf}/sriov_drivers_autoprobe\necho 2 >{pf}/sriov_numvfs"
    ))?;
    let groups = machine.sh(&format!(
        "for vf in {pf}/virtfn*; do readlink $vf/iommu_group; done | sort -u | wc -l"
    ))?;
    assert_eq!(groups.trim(), "2", "each VF has a group of its own");
    machine.sh(&format!(
        "set -e\nvf=$(basename $(readlink {pf}/virtfn0))\necho vfio-pci >/sys/bus/pci/devices/$vf/driver_override\n\
         echo $vf >/sys/bus/pci/drivers_probe\n\
         test $(basename $(readlink /sys/bus/pci/devices/$vf/driver)) = vfio-pci\n\
         test -c /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/$vf/iommu_group))"
    ))?;
    machine
        .sh(&format!(
            "set -e\necho 0 >{pf}/sriov_numvfs\necho 1 >{pf}/sriov_drivers_autoprobe"
        ))
        .map(drop)
}
