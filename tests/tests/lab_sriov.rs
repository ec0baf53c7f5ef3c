//! Tests of SR-IOV in a lab VM with an IOMMU and three emulated PFs with 7 VFs each.
//!
//! All tests share one boot, and each leaves the PFs as it found them. If the lab cannot exist because a kernel or an
//! emulated PF is missing, the tests are reported as ignored.

use hawser_testkit::guest::{Machine, passed};
use hawser_testkit::{Result, artifacts, failure};
use libtest_mimic::{Arguments, Failed, Trial};
use passing::{
    a_vf_gets_its_attributes_and_vfio_and_is_put_back_at_the_end, a_vf_is_ready_soon_besides_the_time_of_the_drivers,
    after_a_kill_at_any_moment_the_next_start_puts_the_vf_back, every_attribute_that_a_driver_has_is_set_and_read_back,
};
use policies::a_policy_is_applied_once_and_shown_and_taken_back;
use qemu::{
    a_guest_reaches_the_pf_through_its_vf_and_another_vf_comes_and_goes,
    after_fifty_kills_of_hawser_and_qemu_the_vfs_are_as_before, after_kills_of_hawser_and_qemu_the_vfs_are_as_before,
    qemu_has_a_vf_at_the_address_of_its_manifest_and_plugs_and_unplugs_others,
};
use refusals::{
    a_mac_that_is_on_the_segment_is_refused, a_vf_that_is_used_is_refused,
    a_vf_whose_iommu_group_has_the_pf_in_it_is_refused, policies_that_contradict_the_node_or_each_other_change_nothing,
    what_cannot_work_is_refused_before_anything_changes,
};
use std::fs;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use vms::{
    a_pf_that_goes_down_and_a_vf_that_is_taken_away_are_told, a_pf_that_is_taken_away_is_told,
    a_vm_of_the_manuals_gets_its_vf_and_keeps_it_and_gives_it_back,
    a_vm_that_asks_for_it_gets_a_macvtap_where_no_vf_is_left,
    a_vm_that_asks_for_it_gets_a_port_of_the_bridge_of_the_pf_where_no_vf_is_left,
    of_two_vms_that_start_at_once_a_hundred_times_one_gets_the_last_vf,
    of_two_vms_that_start_at_once_one_gets_the_last_vf,
    the_standby_of_a_vf_is_on_its_pf_and_gets_the_frames_for_its_mac,
};

#[path = "lab_sriov/passing.rs"]
mod passing;
#[path = "lab_sriov/policies.rs"]
mod policies;
#[path = "lab_sriov/qemu.rs"]
mod qemu;
#[path = "lab_sriov/refusals.rs"]
mod refusals;
#[path = "lab_sriov/vms.rs"]
mod vms;

/// PCI address of the first PF.
const PF: &str = "0000:01:00.0";

/// The lab VM, which the first test boots.
struct Lab {
    machine: Mutex<Option<Machine>>,
    /// True if it gets the image of a guest.
    has_image: bool,
}

impl Lab {
    fn run(&self, test: Test) -> std::result::Result<(), Failed> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let booted = match &mut *machine {
            Some(machine) => machine,
            none => none.insert(self.boot()?),
        };
        Ok(test(booted)?)
    }

    fn boot(&self) -> Result<Machine> {
        let mut files = vec![("usr/bin/vf", fs::read(artifacts::vf()?)?)];
        if self.has_image {
            files.push((passed::IMAGE, passed::image()?));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, &**bytes)).collect();
        Machine::boot_sriov(&files)
    }
}

type Test = fn(&Machine) -> Result<()>;

/// Lists the tests with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as Test)),*] };
}

const TESTS: &[(&str, Test)] = tests![
    the_lab_has_virtual_functions_in_groups_of_their_own_that_vfio_pci_takes,
    a_vf_gets_its_attributes_and_vfio_and_is_put_back_at_the_end,
    a_vf_is_ready_soon_besides_the_time_of_the_drivers,
    after_a_kill_at_any_moment_the_next_start_puts_the_vf_back,
    what_cannot_work_is_refused_before_anything_changes,
    a_vf_that_is_used_is_refused,
    a_vf_whose_iommu_group_has_the_pf_in_it_is_refused,
    a_mac_that_is_on_the_segment_is_refused,
    policies_that_contradict_the_node_or_each_other_change_nothing,
    every_attribute_that_a_driver_has_is_set_and_read_back,
    a_policy_is_applied_once_and_shown_and_taken_back,
    a_vm_of_the_manuals_gets_its_vf_and_keeps_it_and_gives_it_back,
    of_two_vms_that_start_at_once_one_gets_the_last_vf,
    a_pf_that_goes_down_and_a_vf_that_is_taken_away_are_told,
    a_pf_that_is_taken_away_is_told,
    the_standby_of_a_vf_is_on_its_pf_and_gets_the_frames_for_its_mac,
    a_vm_that_asks_for_it_gets_a_macvtap_where_no_vf_is_left,
    a_vm_that_asks_for_it_gets_a_port_of_the_bridge_of_the_pf_where_no_vf_is_left,
    qemu_has_a_vf_at_the_address_of_its_manifest_and_plugs_and_unplugs_others,
    after_kills_of_hawser_and_qemu_the_vfs_are_as_before,
];

/// Tests for `hack/test --long`.
const LONG: &[(&str, Test)] = tests![
    of_two_vms_that_start_at_once_a_hundred_times_one_gets_the_last_vf,
    after_fifty_kills_of_hawser_and_qemu_the_vfs_are_as_before,
    a_guest_reaches_the_pf_through_its_vf_and_another_vf_comes_and_goes,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests share the machine's PFs.
    arguments.test_threads = Some(1);
    let lacking = Machine::lacks_sriov();
    if let Some(reason) = &lacking {
        eprintln!("skipped, because there is no lab with SR-IOV: {reason}");
    }
    let lab = Arc::new(Lab {
        machine: Mutex::default(),
        has_image: arguments.include_ignored || arguments.ignored,
    });
    let all = TESTS.iter().map(|test| (test, false));
    let all = all.chain(LONG.iter().map(|test| (test, true)));
    let trials = all.map(|(&(name, test), is_long)| {
        let lab = Arc::clone(&lab);
        Trial::test(name, move || lab.run(test)).with_ignored_flag(lacking.is_some() || is_long)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Checks the properties of the lab on which the other tests depend.
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

/// The address of VF `number` of the first PF.
fn vf(machine: &Machine, number: u32) -> Result<String> {
    let path = machine.sh(&format!("readlink /sys/bus/pci/devices/{PF}/virtfn{number}"))?;
    Ok(path.trim().trim_start_matches("../").to_owned())
}

/// VFs of the first PF, which are removed on drop.
struct Vfs<'a>(&'a Machine);

impl<'a> Vfs<'a> {
    fn new(machine: &'a Machine, number: u32) -> Result<Self> {
        machine.sh(&format!(
            "set -e\ncd /sys/bus/pci/devices/{PF}\necho 0 >sriov_drivers_autoprobe\necho {number} >sriov_numvfs\n\
             ip link set $(ls net) up\n\
             for n in $(seq 100); do grep -q 1 net/*/carrier && exit; usleep 50000; done; exit 1"
        ))?;
        Ok(Self(machine))
    }

    /// Everything that passing a VF may change, as text.
    fn state(&self) -> Result<String> {
        self.0.sh(&format!(
            "cd /sys/bus/pci/devices/{PF}; ip link show dev $(ls net); for vf in virtfn*; do\n\
             echo $vf $(cat $vf/driver_override) driver:$(readlink $vf/driver); done"
        ))
    }
}

impl Drop for Vfs<'_> {
    fn drop(&mut self) {
        let left = self.0.run(&format!(
            "cd /sys/bus/pci/devices/{PF}; echo 0 >sriov_numvfs; echo 1 >sriov_drivers_autoprobe; ip link set $(ls net) down"
        ));
        drop(left);
    }
}

/// Attributes as `vf` reads them.
const TAGGED: &str = r#"'{"vlan":{"id":100,"qos":3,"protocol":"customer"}}'"#;
const MAC: &str = r#"'{"mac":[2,0,0,0,0,16]}'"#;
const UNCHECKED: &str = r#"'{"spoof_check":false}'"#;
const TRUSTED: &str = r#"'{"trust":true}'"#;

/// A SriovNetworkNodePolicy as in the manuals, for the first PF.
fn policy(num_vfs: u32) -> String {
    format!(
        "apiVersion: sriovnetwork.openshift.io/v1\nkind: SriovNetworkNodePolicy\nmetadata:\n  name: policy\n  \
         namespace: openshift-sriov-network-operator\nspec:\n  resourceName: nics\n  nodeSelector:\n    \
         feature.node.kubernetes.io/network-sriov.capable: \"true\"\n  priority: 10\n  mtu: 1600\n  numVfs: {num_vfs}\n  \
         nicSelector:\n    vendor: \"8086\"\n    deviceID: \"10c9\"\n    rootDevices: [\"{PF}\"]\n  deviceType: \
         vfio-pci\n  isRdma: false\n"
    )
}

/// Runs `hawser node apply` with a policy; the record is in `/run/pools.json`.
fn apply(machine: &Machine, policy: &str, options: &str) -> Result<String> {
    machine.sh(&format!(
        "hawser node apply -f - --pools=/run/pools.json {options} <<'END'\n{policy}END"
    ))
}
