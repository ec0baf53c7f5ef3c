//! Tests of SR-IOV in a lab VM with an IOMMU and two emulated PFs with 7 VFs each.
//!
//! All tests share one boot, and each leaves the PFs as it found them. If the lab cannot exist because a kernel or an
//! emulated PF is missing, the tests are reported as ignored.

use hawser_testkit::guest::Machine;
use hawser_testkit::{Result, artifacts, failure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use std::fs;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// PCI address of the first PF.
const PF: &str = "0000:01:00.0";

/// The lab VM, which the first test boots.
#[derive(Default)]
struct Lab {
    machine: Mutex<Option<Machine>>,
}

impl Lab {
    fn run(&self, test: Test) -> std::result::Result<(), Failed> {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let booted = match &mut *machine {
            Some(machine) => machine,
            none => none.insert(Machine::boot_sriov(&[("usr/bin/vf", &fs::read(artifacts::vf()?)?)])?),
        };
        Ok(test(booted)?)
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
    after_a_kill_at_any_moment_the_next_start_puts_the_vf_back,
    what_cannot_work_is_refused_before_anything_changes,
    every_attribute_that_a_driver_has_is_set_and_read_back,
    a_policy_is_applied_once_and_shown_and_taken_back,
    a_vm_of_the_manuals_gets_its_vf_and_keeps_it_and_gives_it_back,
];

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

fn a_vf_gets_its_attributes_and_vfio_and_is_put_back_at_the_end(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 2)?;
    let before = vfs.state()?;
    let address = vf(machine, 1)?;
    // The second process cannot get the VF of the first process.
    let shown = machine.sh(&format!(
        "set -e\nmkfifo /run/hold\nvf pass /run/vf {address} {TAGGED} {MAC} {UNCHECKED} {TRUSTED} </run/hold >/run/vf.log 2>&1 &\n\
         exec 3>/run/hold\nfor n in $(seq 100); do grep -q passed /run/vf.log && break; usleep 50000; done\n\
         cat /run/vf.log\nip link show dev $(ls /sys/bus/pci/devices/{PF}/net)\n\
         basename $(readlink /sys/bus/pci/devices/{address}/driver)\n\
         exec 3>&-\nwait\nrm /run/hold"
    ))?;
    for words in [
        "passed in",
        "vf 1     link/ether 02:00:00:00:00:10",
        "vlan 100, qos 3",
        "spoof checking off",
        "trust on",
        "vfio-pci",
    ] {
        assert!(shown.contains(words), "{words} is not among:\n{shown}");
    }
    assert_eq!(vfs.state()?, before);
    assert_eq!(machine.sh("ls /run/vf")?.trim(), "lock", "the journal is gone");
    Ok(())
}

fn after_a_kill_at_any_moment_the_next_start_puts_the_vf_back(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 1)?;
    let before = vfs.state()?;
    let address = vf(machine, 0)?;
    for round in 0..50 {
        // The log of the round before could say that the VF is passed before this process has begun.
        // From before the first change on; every tenth kill comes after the last change.
        let wait = match round % 10 {
            9 => "for n in $(seq 200); do grep -q passed /run/killed.log && break; usleep 50000; done".to_owned(),
            _ => format!("usleep {}", round * 8_000),
        };
        let log = machine.sh(&format!(
            "[ -e /run/stay ] || mkfifo /run/stay\nexec 3<>/run/stay\n\
             rm -f /run/killed.log\n\
             vf pass /run/killed {address} {TAGGED} {MAC} {UNCHECKED} {TRUSTED} <&3 >/run/killed.log 2>&1 &\n\
             {wait}\nkill -9 $!\nwait\nvf recover /run/killed\ncat /run/killed.log"
        ))?;
        assert_eq!(vfs.state()?, before, "killed after: {wait}");
        assert!(round % 10 != 9 || log.contains("passed"), "{log}");
    }
    Ok(())
}

fn what_cannot_work_is_refused_before_anything_changes(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 2)?;
    let before = vfs.state()?;
    let address = vf(machine, 0)?;
    machine.sh(&format!(
        "set -e\nip link set $(ls /sys/bus/pci/devices/{PF}/net) vf 1 mac 02:00:00:00:00:11"
    ))?;
    let before = before.replacen(
        "vf 1     link/ether 00:00:00:00:00:00",
        "vf 1     link/ether 02:00:00:00:00:11",
        1,
    );
    for (device, attribute, words) in [
        (
            &*address,
            r#"'{"rate":{"min":10,"max":20}}'"#,
            "maxTxRate: the driver igb of",
        ),
        (&*address, r#"'{"link":"disable"}'"#, "linkState: the driver igb of"),
        (
            &*address,
            r#"'{"vlan":{"id":7,"qos":0,"protocol":"service"}}'"#,
            "it tags with 802.1q only",
        ),
        (&*address, r#"'{"mac":[2,0,0,0,0,17]}'"#, "is already the MAC of VF 1"),
        (PF, TRUSTED, "is not a VF"),
        ("0000:7f:00.0", TRUSTED, "there is no PCI function"),
    ] {
        let output = machine.run(&format!(
            "vf pass /run/refused {device} {UNCHECKED} {attribute} </dev/null"
        ))?;
        assert_ne!(output.status, Some(0), "{attribute}");
        assert!(output.err.contains(words), "{attribute}: {}", output.err);
        assert_eq!(vfs.state()?, before, "{attribute}");
    }
    // The PF is in another network namespace, so it is not visible.
    let output = machine.run(&format!(
        "unshare -n vf pass /run/refused {address} {TRUSTED} </dev/null"
    ))?;
    assert!(
        output.err.contains("has no network device in this network namespace"),
        "{}",
        output.err
    );
    let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    machine.sh(&format!("echo N >{parameter}"))?;
    let output = machine.run(&format!("vf pass /run/refused {address} {TRUSTED} </dev/null"))?;
    machine.sh(&format!("echo Y >{parameter}"))?;
    assert!(
        output.err.contains("the IOMMU does not remap interrupts"),
        "{}",
        output.err
    );
    assert_eq!(vfs.state()?, before);
    // The driver refuses this rate only when it is set, which is after the VLAN. The VLAN is then restored.
    let output = machine.run(&format!(
        r#"vf pass /run/refused {address} {TAGGED} '{{"rate":{{"min":0,"max":99999}}}}' </dev/null"#
    ))?;
    assert!(
        output.err.contains("refuses transmit rates 0 to 99999 Mbit/s"),
        "{}",
        output.err
    );
    assert_eq!(vfs.state()?, before);
    Ok(())
}

/// Tests on netdevsim, whose VFs have every attribute but are not PCI functions.
fn every_attribute_that_a_driver_has_is_set_and_read_back(machine: &Machine) -> Result<()> {
    if machine.run("grep -q ^netdevsim /proc/modules")?.status != Some(0) {
        println!("there is no netdevsim in this lab: only igb was tried");
        return Ok(());
    }
    let shown = machine.sh(
        r#"set -e
        echo '9 1' >/sys/bus/netdevsim/new_device
        echo 2 >/sys/bus/netdevsim/devices/netdevsim9/sriov_numvfs
        pf=$(ls /sys/bus/netdevsim/devices/netdevsim9/net)
        vf set $pf 1 '{"vlan":{"id":7,"qos":3,"protocol":"service"}}' '{"mac":[2,0,0,0,0,18]}' '{"rate":{"min":10,"max":20}}' \
            '{"spoof_check":false}' '{"trust":true}' '{"link":"disable"}'
        ip link show dev $pf
        echo 9 >/sys/bus/netdevsim/del_device"#,
    )?;
    let line = shown.lines().find(|line| line.contains("vf 1")).unwrap_or_default();
    for words in [
        "02:00:00:00:00:12",
        "vlan 7, qos 3, vlan protocol 802.1ad",
        "max_tx_rate 20Mbps, min_tx_rate 10Mbps",
        "spoof checking off",
        "link-state disable",
        "trust on",
    ] {
        assert!(line.contains(words), "{words} is not in {line}");
    }
    Ok(())
}

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

fn a_policy_is_applied_once_and_shown_and_taken_back(machine: &Machine) -> Result<()> {
    let tried = apply(machine, &policy(3), "--dry-run")?;
    for step in [
        "sriov_numvfs 0 -> 3",
        "link down -> up",
        "mtu 1500 -> 1600",
        "VFs 0-2 to vfio-pci",
    ] {
        assert!(tried.contains(step), "{step}: {tried}");
    }
    let numbers = format!("cat /sys/bus/pci/devices/{PF}/sriov_numvfs");
    assert_eq!(machine.sh(&numbers)?.trim(), "0", "a dry run changes nothing");
    assert_eq!(apply(machine, &policy(3), "")?, tried);
    assert!(apply(machine, &policy(3), "")?.contains("nothing to change"));
    let state: Value = serde_json::from_str(&machine.sh("hawser node status --json --pools=/run/pools.json")?)?;
    assert_eq!(state["kind"], "SriovNetworkNodeState");
    assert_eq!(state["spec"]["interfaces"][0]["vfGroups"][0]["vfRange"], "0-2");
    assert_eq!(state["status"]["syncStatus"], "Succeeded");
    let interfaces = state["status"]["interfaces"].as_array().cloned().unwrap_or_default();
    let pf = interfaces.iter().find(|interface| interface["pciAddress"] == PF);
    let pf = pf.ok_or_else(|| failure(format!("the PF is not in {state}")))?;
    assert_eq!(
        (&pf["numVfs"], &pf["totalvfs"], &pf["mtu"]),
        (&3.into(), &7.into(), &1600.into())
    );
    assert_eq!(pf["Vfs"][2]["driver"], "vfio-pci");
    assert_eq!(pf["Vfs"][2]["resourceName"], "nics");
    let text = machine.sh("hawser node status --pools=/run/pools.json")?;
    assert!(text.contains("kind: SriovNetworkNodeState\n"), "{text}");
    // These are more VFs than the PF has.
    let refused = machine.run(&format!(
        "hawser node apply -f - --pools=/run/pools.json <<'END'\n{}END",
        policy(8)
    ))?;
    assert_eq!(refused.status, Some(2));
    assert!(
        refused.err.contains("numVfs 8 is above the 7 VFs of"),
        "{}",
        refused.err
    );
    // The number changes while no VF is in use, but not while one is.
    let address = vf(machine, 1)?;
    let refused = machine.run(&format!(
        "group=$(basename $(readlink /sys/bus/pci/devices/{address}/iommu_group))\nexec 3<>/dev/vfio/$group\n\
         hawser node apply -f - --pools=/run/pools.json <<'END'\n{}END",
        policy(2)
    ))?;
    assert!(refused.err.contains("a VM uses VF 1"), "{}", refused.err);
    assert!(apply(machine, &policy(0), "")?.contains("sriov_numvfs 3 -> 0"));
    machine.sh(&format!(
        "cd /sys/bus/pci/devices/{PF}; echo 1 >sriov_drivers_autoprobe; ip link set $(ls net) mtu 1500 down"
    ))?;
    Ok(())
}

/// The network and the VM of the manuals, on the pool of [`policy`].
const VM: &str = r#"apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetwork
metadata:
  name: sriov-network
  namespace: openshift-sriov-network-operator
spec:
  resourceName: nics
  networkNamespace: default
  vlan: 100
  vlanQoS: 3
  spoofChk: "off"
  trust: "on"
  capabilities: "{}"
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm
spec:
  template:
    spec:
      domain:
        devices:
          interfaces:
          - name: default
            masquerade: {}
          - name: nic1
            sriov: {}
            bootOrder: 1
      networks:
      - name: default
        pod: {}
      - name: nic1
        multus:
          networkName: sriov-network
"#;

/// A stand-in for QEMU: it opens the groups of its functions, as QEMU does, and runs until it is ended.
const VMM: &str = r#"#!/bin/sh
echo "$@" >/run/qemu.args
for word in "$@"; do
    case $word in
    vfio-pci,*) vf=${word##*host=}; vf=${vf%%,*}
        exec 7<>/dev/vfio/$(basename $(readlink /sys/bus/pci/devices/$vf/iommu_group)) || exit 1 ;;
    esac
done
echo started >/run/qemu.up
while :; do usleep 100000; done
"#;

const RUN: &str = "hawser run -f /root/vm.yaml --socket-dir=/run/vm --runtime-dir=/run/hawser";

fn a_vm_of_the_manuals_gets_its_vf_and_keeps_it_and_gives_it_back(machine: &Machine) -> Result<()> {
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/vm.yaml <<'END'\n{VM}END\ncat >/usr/bin/qemu-stand-in <<'END'\n{VMM}END\n\
         chmod 755 /usr/bin/qemu-stand-in\nip link add d0 type dummy && ip addr add 10.9.0.1/24 dev d0 && ip link set d0 up"
    ))?;
    // Without the pool, nothing is started.
    let refused = machine.run(&format!("{RUN} --store=/run/store.db"))?;
    assert!(refused.err.contains("no VF of nics is left"), "{}", refused.err);
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(2)))?;
    machine.sh(&format!(
        "for n in $(seq 100); do grep -q 1 /sys/bus/pci/devices/{PF}/net/*/carrier && exit; usleep 50000; done; exit 1"
    ))?;
    let state = format!(
        "cd /sys/bus/pci/devices/{PF}; ip link show dev $(ls net); for vf in virtfn*; do\n\
         echo $vf $(cat $vf/driver_override) driver:$(readlink $vf/driver); done"
    );
    let before = machine.sh(&state)?;
    let mut macs = Vec::new();
    for signal in ["TERM", "KILL"] {
        machine.sh("rm -f /run/qemu.up")?;
        machine.start(
            &format!("echo $$ >/run/run.pid; exec {RUN} --store=/run/store.db -- /usr/bin/qemu-stand-in -M q35 >/run/run.log 2>&1"),
            std::time::Duration::from_secs(600),
        )?;
        machine
            .sh("for n in $(seq 200); do [ -e /run/qemu.up ] && exit; usleep 50000; done; cat /run/run.log; exit 1")?;
        let arguments = machine.sh("cat /run/qemu.args")?;
        assert!(
            arguments.contains("vfio-pci,id=hawser-nic-nic1,host=0000:01:10.0,bus=hawser-port1,bootindex=1"),
            "{arguments}"
        );
        let link = machine.sh(&state)?;
        let line = link
            .lines()
            .find(|line| line.contains("vf 0"))
            .unwrap_or_default()
            .to_owned();
        for words in ["vlan 100, qos 3", "spoof checking off", "trust on"] {
            assert!(line.contains(words), "{words}: {line}");
        }
        macs.extend(line.split_whitespace().nth(3).map(str::to_owned));
        let status = machine.sh("hawser status --json --socket-dir=/run/vm")?;
        let status: Value = serde_json::from_str(&status)?;
        let nic = &status["interfaces"][1];
        assert_eq!(
            (&nic["name"], &nic["mode"]),
            (&"nic1".into(), &"sriov".into()),
            "{status}"
        );
        assert_eq!(
            (&nic["linkState"], &nic["driver"]),
            (&"up".into(), &"running".into()),
            "{status}"
        );
        let vf = &nic["virtualFunction"];
        assert_eq!(
            (&vf["address"], &vf["number"]),
            (&"0000:01:10.0".into(), &0.into()),
            "{status}"
        );
        assert_eq!((&vf["pfDriver"], &vf["vlan"]), (&"igb".into(), &100.into()), "{status}");
        assert_eq!(nic["mac"].as_str(), macs.last().map(String::as_str), "{status}");
        machine.sh(&format!(
            "kill -{signal} $(cat /run/run.pid)\nusleep 300000\nkill -9 $(pidof qemu-stand-in) 2>/dev/null\n\
             for n in $(seq 100); do pidof hawser >/dev/null || exit 0; usleep 100000; done; ps; exit 1"
        ))?;
        assert_eq!(
            machine.sh(&state)?,
            before,
            "after SIG{signal}:\n{}",
            machine.sh("cat /run/run.log")?
        );
    }
    assert_eq!(macs.len(), 2);
    assert_eq!(macs[0], macs[1], "the VM keeps its MAC");
    let leases = machine.sh("hawser leases list --store=/run/store.db")?;
    assert!(leases.contains(" VF 0000:01:10.0\n"), "{leases}");
    machine.sh("hawser leases release default/vm --store=/run/store.db")?;
    assert_eq!(machine.sh("hawser leases list --store=/run/store.db")?, "");
    apply(machine, &policy(0), "")?;
    machine.sh(&format!(
        "ip link del d0; cd /sys/bus/pci/devices/{PF}; echo 1 >sriov_drivers_autoprobe; ip link set $(ls net) mtu 1500 down"
    ))?;
    Ok(())
}
