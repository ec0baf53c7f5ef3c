//! VFs with a real QEMU, which emulates a machine within the emulated lab VM.
//!
//! The firmware of that machine runs soon. A guest with an operating system takes minutes ([`passed`]).

use super::vms::{LIFETIME, VM, only_a_vf, take_back};
use super::{Machine, PF, Result, apply, failure, policy};
use hawser_testkit::guest::{Nested, passed};
use serde_json::Value;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A machine without an operating system.
const FIRMWARE: &str = "qemu-system-x86_64 -nodefaults -no-reboot -display none -M q35,accel=tcg -cpu qemu64 -m 64M";
/// Everything that passing a VF may change.
const STATE: &str = "cd /sys/bus/pci/devices/0000:01:00.0; ip link show dev $(ls net); for vf in virtfn*; do\n\
    echo $vf $(cat $vf/driver_override) driver:$(readlink $vf/driver); done";
/// Longest time of a step in the guest.
const STEP: Duration = Duration::from_secs(180);
/// Longest time until the guest continues.
const CONTINUES: Duration = Duration::from_secs(300);

/// A VM that `hawser run` serves and whose QEMU it starts.
struct Run<'a> {
    machine: &'a Machine,
    name: &'static str,
    asked: Cell<u32>,
}

impl<'a> Run<'a> {
    /// Starts hawser for the VM `name` of these manifests, with QEMU, which gets a further monitor.
    fn start(machine: &'a Machine, name: &'static str, manifests: &str, qemu: &str) -> Result<Self> {
        let run = Self {
            machine,
            name,
            asked: Cell::new(0),
        };
        run.write(manifests)?;
        machine.sh(&format!(
            "mkdir -p /var/lib/hawser; mkfifo /run/{name}.in /run/{name}.out; : >/run/{name}.qmp"
        ))?;
        machine.start(&format!("exec cat /run/{name}.out >/run/{name}.qmp"), LIFETIME)?;
        machine.start(
            &format!(
                "echo $$ >/run/{name}.pid; exec hawser run -f /root/{name}.yaml {} --runtime-dir=/run/hawser \
                 --store=/run/{name}.db -- {qemu} -chardev pipe,id=own,path=/run/{name} -mon chardev=own,mode=control \
                 >/run/{name}.log 2>&1",
                run.place()
            ),
            LIFETIME,
        )?;
        run.wait_for("QEMU's monitor", "grep -q QMP $NAME.qmp")?;
        run.qmp("qmp_capabilities", "{}")?;
        Ok(run)
    }

    fn place(&self) -> String {
        format!("--socket-dir=/run/{}", self.name)
    }

    fn write(&self, manifests: &str) -> Result<()> {
        let name = self.name;
        self.machine
            .sh(&format!(
                "mkdir -p /root; cat >/root/{name}.yaml <<'END'\n{manifests}END"
            ))
            .map(drop)
    }

    /// Waits until a shell command succeeds; `$NAME` is the path of the VM's files without their endings.
    fn wait_for(&self, what: &str, command: &str) -> Result<()> {
        let name = self.name;
        let waited = self.machine.run(&format!(
            "NAME=/run/{name}\nfor n in $(seq 300); do {command} && exit; usleep 100000; done; cat $NAME.log $NAME.qmp; exit 1"
        ))?;
        match waited.status {
            Some(0) => Ok(()),
            _ => Err(failure(format!("{what}: {}", waited.out))),
        }
    }

    /// Asks QEMU through the test's own monitor.
    fn qmp(&self, command: &str, arguments: &str) -> Result<Value> {
        let (id, name) = (self.asked.get(), self.name);
        self.asked.set(id + 1);
        self.machine.sh(&format!(
            "echo '{{\"execute\": \"{command}\", \"arguments\": {arguments}, \"id\": {id}}}' >/run/{name}.in"
        ))?;
        self.wait_for(command, &format!("grep -q '\"id\": {id}' $NAME.qmp"))?;
        let answer = self
            .machine
            .sh(&format!("grep '\"id\": {id}' /run/{name}.qmp | tail -n 1"))?;
        let answer: Value = serde_json::from_str(&answer)?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(failure(format!("{command}: {answer}"))),
        }
    }

    /// Names of QEMU's devices.
    fn devices(&self) -> Result<Vec<String>> {
        let list = self.qmp("qom-list", r#"{"path": "/machine/peripheral"}"#)?;
        let names = list.as_array().into_iter().flatten();
        Ok(names
            .filter_map(|entry| entry["name"].as_str().map(str::to_owned))
            .collect())
    }

    fn has(&self, device: &str) -> Result<bool> {
        Ok(self.devices()?.iter().any(|name| name == device))
    }

    fn status(&self) -> Result<Value> {
        let status = self.machine.sh(&format!("hawser status --json {}", self.place()))?;
        Ok(serde_json::from_str(&status)?)
    }

    /// Ends QEMU, and with it hawser.
    fn end(self) -> Result<()> {
        let name = self.name;
        self.machine
            .sh(&format!(
                "kill -9 $(pidof qemu-system-x86_64)\n\
                 for n in $(seq 100); do pidof hawser >/dev/null || exec rm -f /run/{name}.in /run/{name}.out; usleep 100000; done\n\
                 ps; exit 1"
            ))
            .map(drop)
    }
}

fn wait_for_link(machine: &Machine) -> Result<()> {
    machine
        .sh(&format!(
            "for n in $(seq 100); do grep -q 1 /sys/bus/pci/devices/{PF}/net/*/carrier && exit; usleep 50000; done; exit 1"
        ))
        .map(drop)
}

/// [`VM`] whose VF is at an address, and with further interfaces for VFs.
fn vm_with(more: &[&str]) -> String {
    let interfaces: String = more
        .iter()
        .map(|name| format!("          - name: {name}\n            sriov: {{}}\n"))
        .collect();
    let networks: String = more
        .iter()
        .map(|name| format!("      - name: {name}\n        multus:\n          networkName: sriov-network\n"))
        .collect();
    let first = "            sriov: {}\n            bootOrder: 1\n";
    let placed = VM.replacen(
        first,
        &format!("{first}            pciAddress: \"0000:00:0a.0\"\n{interfaces}"),
        1,
    );
    placed + &networks
}

pub(super) fn qemu_has_a_vf_at_the_address_of_its_manifest_and_plugs_and_unplugs_others(
    machine: &Machine,
) -> Result<()> {
    machine.sh("ip link add d0 type dummy && ip addr add 10.9.0.1/24 dev d0 && ip link set d0 up")?;
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(3)))?;
    wait_for_link(machine)?;
    let before = machine.sh(STATE)?;
    // By default the machine leaves the slots to ACPI, with which nothing is unplugged without an operating system.
    let qemu = format!("{FIRMWARE} -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
    let run = Run::start(machine, "firmware", &vm_with(&["nic2"]), &qemu)?;
    let pci = run.qmp("query-pci", "{}")?;
    let found = pci[0]["devices"].as_array().into_iter().flatten();
    let mut found = found.filter(|device| device["qdev_id"] == "hawser-nic-nic1");
    let device = found.next().ok_or_else(|| failure(format!("no VF in {pci}")))?;
    assert_eq!(
        (&device["slot"], &device["function"]),
        (&10.into(), &0.into()),
        "{device}"
    );
    assert_eq!(
        (&device["id"]["vendor"], &device["id"]["device"]),
        (&0x8086.into(), &0x10ca.into()),
        "{device}"
    );
    assert!(run.has("hawser-nic-nic2")? && run.has("hawser-nic-default")?);
    let status = run.status()?;
    assert_eq!(status["interfaces"][1]["driver"], "running", "{status}");

    // A VF that was there at the start leaves only with the guest's consent, and there is no guest.
    let refused = machine.run(&format!("hawser unplug nic2 {}", run.place()))?;
    assert!(
        refused.err.contains("the guest did not release the NIC of nic2"),
        "{}",
        refused.err
    );
    assert!(run.has("hawser-nic-nic2")?);
    // Its place is one at which QEMU unplugs nothing.
    let refused = machine.run(&format!("hawser unplug nic1 {}", run.place()))?;
    assert!(refused.err.contains("pcie.0"), "{}", refused.err);
    assert!(run.has("hawser-nic-nic1")?);

    // A later one is behind a port that no guest has switched on, and leaves at once.
    let two = machine.sh(STATE)?;
    run.write(&vm_with(&["nic2", "nic3"]))?;
    let plugged = machine.sh(&format!("hawser plug -f /root/firmware.yaml {}", run.place()))?;
    assert!(plugged.contains("nic3: plugged"), "{plugged}");
    assert!(run.has("hawser-nic-nic3")?);
    let three = machine.sh(STATE)?;
    assert_ne!(three, two, "the VF of nic3 has attributes");
    let unplugged = machine.sh(&format!("hawser unplug nic3 {}", run.place()))?;
    assert!(unplugged.contains("nic3: unplugged"), "{unplugged}");
    assert!(!run.has("hawser-nic-nic3")?);
    let events = machine.sh("cat /run/firmware.qmp")?;
    assert!(
        events.contains("DEVICE_DELETED") && events.contains("hawser-nic-nic3"),
        "{events}"
    );
    assert_eq!(machine.sh(STATE)?, two);
    run.end()?;
    assert_eq!(machine.sh(STATE)?, before);
    machine.sh("ip link del d0")?;
    take_back(machine)
}

pub(super) fn after_kills_of_hawser_and_qemu_the_vfs_are_as_before(machine: &Machine) -> Result<()> {
    kill(machine, 6)
}

pub(super) fn after_fifty_kills_of_hawser_and_qemu_the_vfs_are_as_before(machine: &Machine) -> Result<()> {
    kill(machine, 50)
}

/// Starts hawser and QEMU this many times, and kills both. The moments are spread over the time that a start takes.
fn kill(machine: &Machine, rounds: u32) -> Result<()> {
    /// Time within which QEMU has the VF, in milliseconds.
    const START: u32 = 3_000;
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/killed.yaml <<'END'\n{}END\n\
         printf '#!/bin/sh\\n' >/usr/bin/qemu-that-ends; chmod 755 /usr/bin/qemu-that-ends",
        only_a_vf("killed")
    ))?;
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(2)))?;
    wait_for_link(machine)?;
    let before = machine.sh(STATE)?;
    let run =
        "hawser run -f /root/killed.yaml --socket-dir=/run/killed-vm --runtime-dir=/run/hawser --store=/run/killed.db";
    let mut had = 0;
    for round in 0..rounds {
        // hawser ends first and its keeper stays, all end at once, or hawser and its keeper end first. A QEMU that starts
        // at that very moment is killed afterwards.
        let whom = match round % 3 {
            0 => "kill -9 $!; usleep 300000; kill -9 $(pidof qemu-system-x86_64)",
            1 => "kill -9 $(pidof hawser) $(pidof qemu-system-x86_64)",
            _ => "kill -9 $(pidof hawser); usleep 300000; kill -9 $(pidof qemu-system-x86_64)",
        };
        let wait = START * round / rounds.max(2).saturating_sub(1);
        let log = machine.sh(&format!(
            "{run} -- {FIRMWARE} >/run/killed.log 2>&1 &\nusleep {wait}000\n\
             pidof qemu-system-x86_64 >/dev/null && echo had\n({whom}) 2>/dev/null\nwait\n\
             for n in $(seq 100); do\n\
             kill -9 $(pidof qemu-system-x86_64) 2>/dev/null\n\
             pidof hawser qemu-system-x86_64 >/dev/null || exit 0; usleep 100000; done; ps; exit 1"
        ))?;
        had += u32::from(log.contains("had"));
        // Where the keeper was killed too, the next start puts the VF back.
        if round % 3 != 0 {
            machine.sh(&format!(
                "{run} -- qemu-that-ends >/run/killed.log 2>&1 || {{ cat /run/killed.log; exit 1; }}"
            ))?;
        }
        assert_eq!(
            machine.sh(STATE)?,
            before,
            "round {round}, killed after {wait} ms by: {whom}"
        );
    }
    println!("{rounds} rounds, QEMU ran at {had} of the kills");
    assert!(had > 0, "no start got as far as QEMU");
    take_back(machine)
}

/// A VM with a VF at an address of its own, and with another one if `also` is true.
fn guest_vm(also: bool) -> String {
    let vm = only_a_vf("guest").replace("sriov: {}\n", "sriov: {}\n            pciAddress: \"0000:00:0a.0\"\n");
    match also {
        false => vm,
        true => {
            vm.replace(
                "      networks:\n",
                "          - name: other\n            sriov: {}\n      networks:\n",
            ) + "      - name: other\n        multus:\n          networkName: vfs\n"
        }
    }
}

/// Runs a command in the guest, which is slow.
fn within(guest: &Nested, command: &str) -> Result<String> {
    let begun = Instant::now();
    let output = guest.run_for(command, STEP)?;
    println!("{} ms in the guest: {command}", begun.elapsed().as_millis());
    match output.status {
        Some(0) => Ok(output.out),
        status => Err(failure(format!(
            "in the guest, status {status:?} from: {command}\n{}{}",
            output.out, output.err
        ))),
    }
}

pub(super) fn a_guest_reaches_the_pf_through_its_vf_and_another_vf_comes_and_goes(machine: &Machine) -> Result<()> {
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(2)))?;
    wait_for_link(machine)?;
    let pf = machine
        .sh(&format!("ls /sys/bus/pci/devices/{PF}/net"))?
        .trim()
        .to_owned();
    machine.sh(&format!("ip addr add 10.7.0.1/24 dev {pf}"))?;
    let before = machine.sh(STATE)?;
    let begun = Instant::now();
    let qemu = format!("qemu-system-x86_64 {}", passed::arguments());
    let run = Run::start(machine, "guest", &guest_vm(false), &qemu)?;
    let guest = machine.continued_guest()?;
    // QEMU may not read the line yet.
    while guest.run_for("true", Duration::from_secs(10)).is_err() {
        if begun.elapsed() > CONTINUES {
            return Err(failure(format!(
                "the guest does not continue: {}",
                run.qmp("query-status", "{}")?
            )));
        }
    }
    println!(
        "the guest answers {} ms after the start of hawser",
        begun.elapsed().as_millis()
    );
    let mac_of = |n: usize| {
        Ok::<_, hawser_testkit::Failure>(
            run.status()?["interfaces"][n]["mac"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    // The image is that of a guest without the VF.
    let found = within(
        &guest,
        "echo 1 >/sys/bus/pci/rescan; cd /sys/bus/pci/devices/0000:00:0a.0; basename $(readlink driver); ls net; cat net/*/address",
    )?;
    assert_eq!(found, format!("igbvf\neth0\n{}\n", mac_of(0)?));
    within(
        &guest,
        "ip link set eth0 up && ip addr add 10.7.0.2/24 dev eth0\n\
         for n in $(seq 100); do grep -q 1 /sys/class/net/eth0/carrier && exit; usleep 200000; done; exit 1",
    )?;
    within(&guest, "ping -c 3 -W 10 10.7.0.1")?;
    println!(
        "the guest reaches the PF {} ms after the start of hawser",
        begun.elapsed().as_millis()
    );

    let one = machine.sh(STATE)?;
    run.write(&guest_vm(true))?;
    machine.sh(&format!("hawser plug -f /root/guest.yaml {}", run.place()))?;
    let came = within(
        &guest,
        "for n in $(seq 300); do [ -e /sys/class/net/eth1/address ] && exec cat /sys/class/net/eth1/address; usleep 200000; done; exit 1",
    )?;
    assert_eq!(came.trim(), mac_of(1)?);
    // The guest, which is slow, may release it after hawser's limit.
    let deadline = Instant::now() + STEP;
    loop {
        let unplugged = machine.run(&format!("hawser unplug other {}", run.place()))?;
        match unplugged.status {
            Some(0) => break,
            _ if unplugged.err.contains("try again later") && Instant::now() < deadline => {}
            _ => return Err(failure(format!("other: {}", unplugged.err))),
        }
    }
    assert!(!run.has("hawser-nic-other")?);
    within(&guest, "[ ! -e /sys/class/net/eth1 ]")?;
    assert_eq!(machine.sh(STATE)?, one, "the second VF is put back");
    within(&guest, "ping -c 1 -W 10 10.7.0.1")?;
    println!(
        "the second VF is gone {} ms after the start of hawser",
        begun.elapsed().as_millis()
    );
    run.end()?;
    assert_eq!(machine.sh(STATE)?, before);
    machine.sh(&format!("ip addr flush dev {pf}"))?;
    apply(machine, &policy(0), "")?;
    take_back(machine)
}
