//! What cannot work is refused before anything changes, with the field, the device and the remedy.

use super::vms::only_a_vf;
use super::{Machine, PF, Result, TAGGED, TRUSTED, UNCHECKED, Vfs, policy, vf};

pub(super) fn what_cannot_work_is_refused_before_anything_changes(machine: &Machine) -> Result<()> {
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
        (
            &*address,
            r#"'{"rate":{"min":0,"max":99999}}'"#,
            "cannot set transmit rates 0 to 99999 Mbit/s: the link has 1000 Mbit/s; change or leave out the field",
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
    // The driver refuses a MAC of a group only when it is set, which is after the VLAN. The VLAN is then restored.
    let output = machine.run(&format!(
        r#"vf pass /run/refused {address} {TAGGED} '{{"mac":[1,0,0,0,0,16]}}' </dev/null"#
    ))?;
    assert!(
        output.err.contains("mac: VF 0 of") && output.err.contains("the driver refuses MAC 01:00:00:00:00:10"),
        "{}",
        output.err
    );
    assert_eq!(vfs.state()?, before);
    Ok(())
}

/// Tries to pass a VF, which must be refused with these words before anything changes.
fn must_be_refused(vfs: &Vfs<'_>, address: &str, attribute: &str, words: &str) -> Result<()> {
    let before = vfs.state()?;
    let output = vfs.0.run(&format!(
        "vf pass /run/refused {address} {UNCHECKED} {attribute} </dev/null"
    ))?;
    assert_ne!(output.status, Some(0), "{words}");
    assert!(output.err.contains(words), "{words}: {}", output.err);
    assert_eq!(vfs.state()?, before, "{words}");
    Ok(())
}

pub(super) fn a_vf_that_is_used_is_refused(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 2)?;
    let address = vf(machine, 0)?;
    let device = format!("/sys/bus/pci/devices/{address}");
    // A VMM has it, to which this process gave nothing.
    machine.sh(&format!(
        "set -e\necho vfio-pci >{device}/driver_override; echo {address} >/sys/bus/pci/drivers_probe\n\
         sh -c 'exec 3<>/dev/vfio/'$(basename $(readlink {device}/iommu_group))'; echo >/run/open; exec sleep 60' >/dev/null 2>&1 &\n\
         echo $! >/run/holder\nfor n in $(seq 100); do [ -e /run/open ] && exit; usleep 50000; done; exit 1"
    ))?;
    must_be_refused(&vfs, &address, TRUSTED, "is in use: another process has /dev/vfio/")?;
    machine.sh(&format!(
        "kill $(cat /run/holder); rm /run/open\nfor n in $(seq 100); do echo {address} >{device}/driver/unbind && break; usleep 50000; done\n\
         echo igbvf >{device}/driver_override; echo {address} >/sys/bus/pci/drivers_probe\n\
         for n in $(seq 100); do ls {device}/net/* 2>/dev/null && exit; usleep 50000; done; exit 1"
    ))?;
    let link = machine.sh(&format!("ls {device}/net"))?.trim().to_owned();
    machine.sh(&format!("ip link set {link} up && ip addr add 10.8.0.1/24 dev {link}"))?;
    let words = format!("this host, which has 10.8.0.1/24 on {link}, uses {address}; end that, or choose another VF");
    must_be_refused(&vfs, &address, TRUSTED, &words)?;
    machine.sh(&format!(
        "set -e\nip addr flush dev {link}\nip link add used type bridge\nip link set {link} master used"
    ))?;
    let words = format!("the bridge used, whose port {link} is, uses {address}");
    must_be_refused(&vfs, &address, TRUSTED, &words)?;
    machine.sh(&format!(
        "set -e\nip link del used\nip netns add pod\nip link set {link} netns pod"
    ))?;
    let words = format!("another network namespace uses {address}");
    must_be_refused(&vfs, &address, TRUSTED, &words)?;
    let refused = machine.run(&format!(
        "hawser node apply -f - --pools=/run/none.json <<'END'\n{}END",
        policy(3)
    ))?;
    assert!(
        refused.err.contains("numVfs 3 would change the 2 VFs of")
            && refused.err.contains("another network namespace uses VF 0"),
        "{}",
        refused.err
    );
    machine.sh(&format!(
        "ip netns exec pod ip link set {link} netns 1; ip netns del pod; echo {address} >{device}/driver/unbind; echo >{device}/driver_override"
    ))?;
    Ok(())
}

/// PCI address of the third PF, whose root port does not isolate its VFs.
const SHARING_PF: &str = "0000:03:00.0";

pub(super) fn a_vf_whose_iommu_group_has_the_pf_in_it_is_refused(machine: &Machine) -> Result<()> {
    let device = format!("/sys/bus/pci/devices/{SHARING_PF}");
    machine.sh(&format!(
        "set -e\necho 0 >{device}/sriov_drivers_autoprobe\necho 1 >{device}/sriov_numvfs\nip link set $(ls {device}/net) up\n\
         for n in $(seq 100); do grep -q 1 {device}/net/*/carrier && exit; usleep 50000; done; exit 1"
    ))?;
    let address = machine.sh(&format!("basename $(readlink {device}/virtfn0)"))?;
    let address = address.trim();
    let state = format!(
        "ip link show dev $(ls {device}/net); cat {device}/virtfn0/driver_override; ls {device}/virtfn0/driver 2>&1"
    );
    let before = machine.sh(&format!("{state} | cat"))?;
    let vm = only_a_vf("sharing")
        .replace("    k8s.v1.cni.cncf.io/resourceName: openshift.io/nics\n", "")
        .replace("  annotations:\n", "")
        .replace("\"type\": ", &format!("\"deviceID\": \"{address}\", \"type\": "));
    let refused = machine.run(&format!(
        "mkdir -p /root /var/lib/hawser\ncat >/root/sharing.yaml <<'END'\n{vm}END\n\
         hawser run -f /root/sharing.yaml --socket-dir=/run/sharing --runtime-dir=/run/hawser --store=/run/sharing.db -- qemu-none"
    ))?;
    assert_ne!(refused.status, Some(0));
    let words = format!("of {address} also contains {SHARING_PF} with the driver igb");
    assert!(refused.err.contains(&words), "{}", refused.err);
    assert_eq!(machine.sh(&format!("{state} | cat"))?, before);
    machine
        .sh(&format!(
            "echo 0 >{device}/sriov_numvfs; echo 1 >{device}/sriov_drivers_autoprobe; ip link set $(ls {device}/net) down"
        ))
        .map(drop)
}

pub(super) fn a_mac_that_is_on_the_segment_is_refused(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 1)?;
    let address = vf(machine, 0)?;
    let pf = machine
        .sh(&format!("ls /sys/bus/pci/devices/{PF}/net"))?
        .trim()
        .to_owned();
    machine.sh(&format!(
        "ip link add tap7 link {pf} address 02:00:00:00:00:17 type macvtap mode bridge"
    ))?;
    let words = format!("mac: 02:00:00:00:00:17 is already the MAC of the link tap7 on the segment of {pf}; give the");
    must_be_refused(&vfs, &address, r#"'{"mac":[2,0,0,0,0,23]}'"#, &words)?;
    machine.sh(&format!(
        "set -e\nip link del tap7\nip link add segment type bridge\nip link set {pf} master segment\n\
         ip link add guest type dummy\nip link set guest master segment\n\
         bridge fdb add 02:00:00:00:00:18 dev guest master\nbridge fdb add 02:00:00:00:00:19 dev {pf} master"
    ))?;
    let words = "is already the MAC of a device behind the port guest of the bridge segment";
    must_be_refused(&vfs, &address, r#"'{"mac":[2,0,0,0,0,24]}'"#, words)?;
    // What is behind the PF's own port may be the VF itself.
    machine.sh(&format!(
        r#"vf pass /run/refused {address} '{{"mac":[2,0,0,0,0,25]}}' </dev/null"#
    ))?;
    machine.sh("ip link del segment; ip link del guest").map(drop)
}

pub(super) fn policies_that_contradict_the_node_or_each_other_change_nothing(machine: &Machine) -> Result<()> {
    let vfs = Vfs::new(machine, 1)?;
    let before = vfs.state()?;
    let refuse = |how: &str, policies: &str, words: &str| -> Result<()> {
        let refused = machine.run(&format!(
            "{how} hawser node apply -f - --pools=/run/contradict.json <<'END'\n{policies}END"
        ))?;
        assert_eq!(refused.status, Some(2), "{words}: {}", refused.err);
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
        assert_eq!(vfs.state()?, before, "{words}");
        Ok(())
    };
    let other = policy(2).replace("name: policy", "name: other");
    refuse("", &policy(8), "numVfs 8 is above the 7 VFs of")?;
    refuse(
        "unshare -n",
        &policy(2),
        "the PF 0000:01:00.0 (driver igb) matches nicSelector, but has no network device in this network namespace",
    )?;
    refuse(
        "",
        &format!("{}---\n{other}", policy(2)),
        "policy and other both cover VFs 0-1 of",
    )?;
    machine.sh(&format!(
        "hawser node apply -f - --pools=/run/contradict.json <<'END'\n{}END",
        policy(1)
    ))?;
    let refused = machine.run(&format!(
        "hawser node apply -f - --pools=/run/contradict.json <<'END'\n{other}END"
    ))?;
    assert!(
        refused
            .err
            .contains("belong to the policy policy, which was applied before"),
        "{}",
        refused.err
    );
    let numbers = machine.sh(&format!("cat /sys/bus/pci/devices/{PF}/sriov_numvfs"))?;
    assert_eq!(numbers.trim(), "1");
    machine
        .sh("rm /run/contradict.json; ip link set $(ls /sys/bus/pci/devices/0000:01:00.0/net) mtu 1500")
        .map(drop)
}
