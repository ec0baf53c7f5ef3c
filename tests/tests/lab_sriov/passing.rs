//! A VF gets its attributes and vfio, and is put back.

use super::{MAC, Machine, PF, Result, TAGGED, TRUSTED, UNCHECKED, Vfs, failure, vf};

pub(super) fn a_vf_gets_its_attributes_and_vfio_and_is_put_back_at_the_end(machine: &Machine) -> Result<()> {
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
        "passed: ready after",
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

/// Longest time, besides that of the drivers, until a VF is ready. In milliseconds.
const SOON: u32 = 200;
/// Number of attempts.
const ATTEMPTS: u32 = 10;

pub(super) fn a_vf_is_ready_soon_besides_the_time_of_the_drivers(machine: &Machine) -> Result<()> {
    let _vfs = Vfs::new(machine, 1)?;
    let address = vf(machine, 0)?;
    // The machine may be busy with other tests, and the processor of the lab is an emulated one.
    for _ in 0..ATTEMPTS {
        let shown = machine.sh(&format!(
            "vf pass /run/vf {address} {TAGGED} {MAC} {UNCHECKED} {TRUSTED} </dev/null"
        ))?;
        print!("{shown}");
        let own = shown
            .split_once(": hawser ")
            .and_then(|(_, rest)| rest.split(' ').next());
        let own: u32 = own.ok_or_else(|| failure(shown.clone()))?.parse()?;
        if own <= SOON {
            return Ok(());
        }
    }
    Err(failure(format!("hawser took more than {SOON} ms {ATTEMPTS} times")))
}

pub(super) fn after_a_kill_at_any_moment_the_next_start_puts_the_vf_back(machine: &Machine) -> Result<()> {
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

/// Tests on netdevsim, whose VFs have every attribute but are not PCI functions.
pub(super) fn every_attribute_that_a_driver_has_is_set_and_read_back(machine: &Machine) -> Result<()> {
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
