//! Policies of the node.

use super::{Machine, PF, Result, apply, failure, policy, vf};
use serde_json::Value;

pub(super) fn a_policy_is_applied_once_and_shown_and_taken_back(machine: &Machine) -> Result<()> {
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
