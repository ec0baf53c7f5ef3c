//! VMs with VFs.

use super::{Machine, PF, Result, apply, policy};
use serde_json::Value;
use std::time::Duration;

/// The network and the VM of the manuals, on the pool of [`policy`].
pub(super) const VM: &str = r#"apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetwork
metadata:
  name: sriov-network
  namespace: openshift-sriov-network-operator
spec:
  resourceName: nics
  networkNamespace: default
  vlan: 100
  vlanQoS: 3
  linkState: auto
  minTxRate: 0
  maxTxRate: 100
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
[ "$1" != --version ] || exec echo "QEMU emulator version 10.0.2"
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

/// Longest time that a VM runs.
pub(super) const LIFETIME: Duration = Duration::from_secs(1200);

const RUN: &str = "hawser run -f /root/vm.yaml --socket-dir=/run/vm --runtime-dir=/run/hawser";

pub(super) fn a_vm_of_the_manuals_gets_its_vf_and_keeps_it_and_gives_it_back(machine: &Machine) -> Result<()> {
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
            LIFETIME,
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
        for words in [
            "vlan 100, qos 3",
            "tx rate 100 (Mbps)",
            "spoof checking off",
            "trust on",
        ] {
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

/// A VM with only a VF of the pool of [`policy`].
pub(super) fn only_a_vf(name: &str) -> String {
    format!(
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata:\n  name: vfs\n  annotations:\n    \
         k8s.v1.cni.cncf.io/resourceName: openshift.io/nics\nspec:\n  config: '{{\"cniVersion\": \"0.3.1\", \"type\": \
         \"sriov\"}}'\n---\napiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata:\n  name: {name}\nspec:\n  \
         template:\n    spec:\n      domain:\n        devices:\n          interfaces:\n          - name: nic\n            \
         sriov: {{}}\n      networks:\n      - name: nic\n        multus:\n          networkName: vfs\n"
    )
}

pub(super) fn of_two_vms_that_start_at_once_one_gets_the_last_vf(machine: &Machine) -> Result<()> {
    race(machine, 3)
}

pub(super) fn of_two_vms_that_start_at_once_a_hundred_times_one_gets_the_last_vf(machine: &Machine) -> Result<()> {
    race(machine, 100)
}

/// Starts two VMs at once on a pool of one VF, this many times.
fn race(machine: &Machine, rounds: u32) -> Result<()> {
    machine.sh(
        "mkdir -p /root /var/lib/hawser\nprintf '#!/bin/sh\\n' >/usr/bin/qemu-that-ends; chmod 755 /usr/bin/qemu-that-ends",
    )?;
    for name in ["one", "two"] {
        machine.sh(&format!("cat >/root/{name}.yaml <<'END'\n{}END", only_a_vf(name)))?;
    }
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(1)))?;
    let mut winners = [0; 2];
    for round in 0..rounds {
        // A VMM that ends at once: the lease of its VM stays.
        let ends = machine.sh("rm -f /run/race.db*\nfor vm in one two; do\n\
             (hawser run -f /root/$vm.yaml --socket-dir=/run/race-$vm --runtime-dir=/run/hawser --store=/run/race.db \
             -- qemu-that-ends >/run/race.$vm 2>&1; echo $? >>/run/race.$vm) &\ndone\nwait\n\
             tail -n 1 /run/race.one; tail -n 1 /run/race.two")?;
        let winner = match ends.split_whitespace().collect::<Vec<_>>()[..] {
            ["0", "1"] => 0,
            ["1", "0"] => 1,
            _ => panic!(
                "round {round}: {ends}{}",
                machine.sh("cat /run/race.one /run/race.two")?
            ),
        };
        winners[winner] += 1;
        let loser = ["two", "one"][winner];
        let reason = machine.sh(&format!("cat /run/race.{loser}"))?;
        assert!(reason.contains("no VF of nics is left"), "round {round}: {reason}");
    }
    println!("{rounds} rounds, won by {winners:?}");
    take_back(machine)
}

/// Waits until a command in the lab succeeds.
fn wait_for(machine: &Machine, what: &str, command: &str) -> Result<()> {
    let waited = machine.run(&format!(
        "for n in $(seq 200); do {command} && exit; usleep 100000; done; exit 1"
    ))?;
    assert_eq!(
        waited.status,
        Some(0),
        "{what}: {}",
        machine.sh("cat /run/told.log /run/events")?
    );
    Ok(())
}

/// PCI address of the second PF, which is on the segment of the first one.
const OTHER_PF: &str = "0000:02:00.0";

pub(super) fn the_standby_of_a_vf_is_on_its_pf_and_gets_the_frames_for_its_mac(machine: &Machine) -> Result<()> {
    let vm = only_a_vf("paired").replace("sriov: {}", "sriov: {}\n            failover: true");
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/paired.yaml <<'END'\n{vm}END\ncat >/usr/bin/qemu-stand-in <<'END'\n{VMM}END\n\
         chmod 755 /usr/bin/qemu-stand-in; rm -f /run/qemu.up; ip link set $(ls /sys/bus/pci/devices/{OTHER_PF}/net) up"
    ))?;
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(1)))?;
    let name = |pf: &str| {
        Ok::<_, hawser_testkit::Failure>(
            machine
                .sh(&format!("ls /sys/bus/pci/devices/{pf}/net"))?
                .trim()
                .to_owned(),
        )
    };
    let (pf, other) = (name(PF)?, name(OTHER_PF)?);
    for link in [&pf, &other] {
        wait_for(
            machine,
            "the link of a PF",
            &format!("grep -q 1 /sys/class/net/{link}/carrier"),
        )?;
    }
    machine.start(
        "echo $$ >/run/told.pid; exec hawser run -f /root/paired.yaml --socket-dir=/run/paired --runtime-dir=/run/hawser \
         --store=/run/paired.db -- /usr/bin/qemu-stand-in -M q35 >/run/told.log 2>&1",
        LIFETIME,
    )?;
    wait_for(machine, "the VMM", "[ -e /run/qemu.up ]")?;
    let arguments = machine.sh("cat /run/qemu.args")?;
    for words in [",failover=on", "vfio-pci,", "failover_pair_id=hawser-nic-nic-standby"] {
        assert!(arguments.contains(words), "{words}: {arguments}");
    }
    let links = machine.sh(&format!("ip -o -d link show type macvtap; ip link show dev {pf}"))?;
    let standby = links
        .lines()
        .find(|line| line.contains(&format!("@{pf}:")))
        .unwrap_or_default();
    let mac = standby
        .split_once("link/ether ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .unwrap_or_default();
    assert!(
        !mac.is_empty() && links.contains(&format!("vf 0     link/ether {mac}")),
        "{links}"
    );
    let link = standby.split([' ', '@']).nth(1).unwrap_or_default();
    // The PF gives its own link the frames for the MAC, although that is the administrative MAC of the VF.
    let received = || {
        Ok::<u32, hawser_testkit::Failure>(
            machine
                .sh(&format!("cat /sys/class/net/{link}/statistics/rx_packets"))?
                .trim()
                .parse()?,
        )
    };
    let before = received()?;
    machine.sh(&format!(
        "set -e\nip addr add 10.7.0.1/24 dev {other}\nip neigh replace 10.7.0.2 lladdr {mac} dev {other}"
    ))?;
    wait_for(
        machine,
        "frames for the standby",
        &format!(
            "ping -c 1 -W 1 10.7.0.2 >/dev/null; [ $(cat /sys/class/net/{link}/statistics/rx_packets) -gt {} ]",
            before + 3
        ),
    )?;
    end_vm(machine)?;
    assert_eq!(machine.sh("ip -o link show type macvtap")?, "", "the standby is gone");
    apply(machine, &policy(0), "")?;
    machine
        .sh(&format!(
            "ip addr flush dev {other}; ip link set {other} down\n\
             cd /sys/bus/pci/devices/{PF}; echo 1 >sriov_drivers_autoprobe; ip link set {pf} mtu 1500 down"
        ))
        .map(drop)
}

/// The way of a NIC in place of a VF.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InPlace {
    Macvtap,
    BridgePort,
}

pub(super) fn a_vm_that_asks_for_it_gets_a_macvtap_where_no_vf_is_left(machine: &Machine) -> Result<()> {
    without_vf(machine, InPlace::Macvtap)
}

pub(super) fn a_vm_that_asks_for_it_gets_a_port_of_the_bridge_of_the_pf_where_no_vf_is_left(
    machine: &Machine,
) -> Result<()> {
    without_vf(machine, InPlace::BridgePort)
}

fn without_vf(machine: &Machine, way: InPlace) -> Result<()> {
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/first.yaml <<'END'\n{}END\ncat >/root/second.yaml <<'END'\n{}END\n\
         cat >/usr/bin/qemu-stand-in <<'END'\n{VMM}END\nprintf '#!/bin/sh\\n' >/usr/bin/qemu-that-ends\n\
         chmod 755 /usr/bin/qemu-*; rm -f /run/qemu.up",
        only_a_vf("first"),
        only_a_vf("second").replace("sriov: {}", "sriov: {}\n            fallback: macvtap"),
    ))?;
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(1)))?;
    let pf = machine
        .sh(&format!("ls /sys/bus/pci/devices/{PF}/net"))?
        .trim()
        .to_owned();
    if way == InPlace::BridgePort {
        machine.sh(&format!(
            "set -e\nip link add segment type bridge\nip link set {pf} master segment\nip link set segment up"
        ))?;
    }
    let run = "--runtime-dir=/run/hawser --store=/run/short.db";
    // The VF stays leased to the first VM.
    machine.sh(&format!(
        "hawser run -f /root/first.yaml --socket-dir=/run/first {run} -- qemu-that-ends"
    ))?;
    machine.start(
        &format!(
            "echo $$ >/run/told.pid; exec hawser run -f /root/second.yaml --socket-dir=/run/second {run} \
             -- /usr/bin/qemu-stand-in >/run/told.log 2>&1"
        ),
        LIFETIME,
    )?;
    wait_for(machine, "the VMM", "[ -e /run/qemu.up ]")?;
    let arguments = machine.sh("cat /run/qemu.args")?;
    assert!(
        arguments.contains("virtio-net-pci,id=hawser-nic-nic,") && !arguments.contains("vfio-pci"),
        "{arguments}"
    );
    let mac = arguments
        .split_once(",mac=")
        .and_then(|(_, rest)| rest.split(',').next())
        .unwrap_or_default();
    match way {
        InPlace::Macvtap => {
            let links = machine.sh("ip -o -d link show type macvtap")?;
            assert!(
                links.contains(&format!("@{pf}:")) && links.contains(&format!("link/ether {mac} ")),
                "{mac}: {links}"
            );
        }
        InPlace::BridgePort => {
            let ports = machine.sh("ip -o link show master segment")?;
            assert_eq!(ports.lines().count(), 2, "{ports}");
            assert_eq!(machine.sh("ip -o link show type macvtap")?, "");
        }
    }
    let status: Value = serde_json::from_str(&machine.sh("hawser status --json --socket-dir=/run/second")?)?;
    assert_eq!(status["interfaces"][0]["mode"], "bridge", "{status}");
    end_vm(machine)?;
    assert_eq!(machine.sh("ip -o link show type macvtap")?, "", "the macvtap is gone");
    if way == InPlace::BridgePort {
        assert_eq!(machine.sh("ip -o link show master segment")?.lines().count(), 1);
        machine.sh("ip link del segment")?;
    }
    machine.sh("rm -f /run/short.db*")?;
    take_back(machine)
}

/// Ends the VM whose hawser is in `/run/told.pid`.
fn end_vm(machine: &Machine) -> Result<()> {
    machine
        .sh(
            "kill -TERM $(cat /run/told.pid); kill -9 $(pidof qemu-stand-in) 2>/dev/null\n\
             for n in $(seq 100); do pidof hawser >/dev/null || exit 0; usleep 100000; done; ps; exit 1",
        )
        .map(drop)
}

/// Removes the VFs of [`policy`].
pub(super) fn take_back(machine: &Machine) -> Result<()> {
    apply(machine, &policy(0), "")?;
    machine
        .sh(&format!(
            "cd /sys/bus/pci/devices/{PF}; echo 1 >sriov_drivers_autoprobe; ip link set $(ls net) mtu 1500 down"
        ))
        .map(drop)
}

pub(super) fn a_pf_that_goes_down_and_a_vf_that_is_taken_away_are_told(machine: &Machine) -> Result<()> {
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/told.yaml <<'END'\n{}END\ncat >/usr/bin/qemu-stand-in <<'END'\n{VMM}END\n\
         chmod 755 /usr/bin/qemu-stand-in; rm -f /run/qemu.up",
        only_a_vf("told")
    ))?;
    machine.sh(&format!("hawser node apply -f - <<'END'\n{}END", policy(1)))?;
    let pf = machine
        .sh(&format!("ls /sys/bus/pci/devices/{PF}/net"))?
        .trim()
        .to_owned();
    wait_for(
        machine,
        "the link of the PF",
        &format!("grep -q 1 /sys/class/net/{pf}/carrier"),
    )?;
    machine.start(
        "echo $$ >/run/told.pid; exec hawser run -f /root/told.yaml --socket-dir=/run/told --runtime-dir=/run/hawser \
         --store=/run/told.db --event-log=/run/events -- /usr/bin/qemu-stand-in >/run/told.log 2>&1",
        LIFETIME,
    )?;
    let told = |count: u32, words: &str| format!("[ $(grep -c '{words}' /run/events) = {count} ]");
    let status = || -> Result<Value> {
        let all: Value = serde_json::from_str(&machine.sh("hawser status --json --socket-dir=/run/told")?)?;
        Ok(all["interfaces"][0].clone())
    };
    let metrics = |words: &str| format!("vf metrics /run/told/api.sock | grep -q '{words}'");
    wait_for(machine, "the VMM", "[ -e /run/qemu.up ]")?;
    wait_for(
        machine,
        "the driver",
        &told(1, r#""event":"driver-changed","running":true"#),
    )?;
    machine.sh(&format!("ip link set {pf} down"))?;
    wait_for(
        machine,
        "the link that is down",
        &told(1, r#""event":"link-changed","up":false"#),
    )?;
    assert_eq!(status()?["linkState"], "down");
    wait_for(machine, "the metric", &metrics(r#"hawser_port_link_up{port="nic"} 0"#))?;
    machine.sh(&format!("ip link set {pf} up"))?;
    wait_for(
        machine,
        "the link that is up",
        &told(1, r#""event":"link-changed","up":true"#),
    )?;
    // The administrator takes the VF away from under the VMM.
    machine.sh(&format!("echo 0 >/sys/bus/pci/devices/{PF}/sriov_numvfs"))?;
    wait_for(machine, "the VF that is gone", &told(1, r#""event":"port-failed""#))?;
    let words = format!("{pf}: it has no VF 0");
    wait_for(machine, "the reason", &told(1, &words))?;
    assert!(status()?["warnings"].to_string().contains(&words), "{}", status()?);
    wait_for(machine, "the metric", &metrics(r#"hawser_port_failed{port="nic"} 1"#))?;
    end_vm(machine)?;
    take_back(machine)
}

pub(super) fn a_pf_that_is_taken_away_is_told(machine: &Machine) -> Result<()> {
    machine.sh(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/removed.yaml <<'END'\n{}END\ncat >/usr/bin/qemu-stand-in <<'END'\n{VMM}END\n\
         chmod 755 /usr/bin/qemu-stand-in; rm -f /run/qemu.up /run/events",
        only_a_vf("removed")
    ))?;
    let policy = policy(1).replace(PF, OTHER_PF);
    machine.sh(&format!("hawser node apply -f - <<'END'\n{policy}END"))?;
    let pf = machine
        .sh(&format!("ls /sys/bus/pci/devices/{OTHER_PF}/net"))?
        .trim()
        .to_owned();
    machine.start(
        "echo $$ >/run/told.pid; exec hawser run -f /root/removed.yaml --socket-dir=/run/removed --runtime-dir=/run/hawser \
         --store=/run/removed.db --event-log=/run/events -- /usr/bin/qemu-stand-in >/run/told.log 2>&1",
        LIFETIME,
    )?;
    wait_for(machine, "the VMM", "[ -e /run/qemu.up ]")?;
    machine.sh(&format!("echo 1 >/sys/bus/pci/devices/{OTHER_PF}/remove"))?;
    wait_for(
        machine,
        "the PF that is gone",
        r#"[ $(grep -c '"event":"port-failed"' /run/events) = 1 ]"#,
    )?;
    // Its VFs go before it does.
    let reason = format!("{pf}: it has no VF 0\\|{pf} is gone");
    wait_for(machine, "the reason", &format!("grep -q '{reason}' /run/events"))?;
    let status: Value = serde_json::from_str(&machine.sh("hawser status --json --socket-dir=/run/removed")?)?;
    assert!(
        status["interfaces"][0]["warnings"].to_string().contains(&pf),
        "{status}"
    );
    end_vm(machine)?;
    machine.sh(&format!(
        "echo 1 >/sys/bus/pci/rescan\nfor n in $(seq 100); do [ -e /sys/bus/pci/devices/{OTHER_PF}/net ] && exit; usleep 50000; done; exit 1"
    ))?;
    machine.sh("rm -f /run/events /var/lib/hawser/vf-pools.json").map(drop)
}
