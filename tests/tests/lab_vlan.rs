//! Test of NodeNetworkConfigurationPolicy objects with a VLAN interface. It runs in a lab VM, because the kernel of the
//! test machine may lack VLANs.

use hawser_testkit::Result;
use hawser_testkit::guest::Machine;

const SOCKET: &str = "/run/vm.sock";
/// A namespace `peer` beyond `up0`, with a host in VLAN 5 and, without a tag, the default gateway.
const LINKS: &str = "set -e
ip netns add peer && ip -n peer link set lo up
ip link add up0 type veth peer name trunk netns peer
ip addr add 10.1.0.1/24 dev up0 && ip link set up0 up
ip -n peer addr add 10.1.0.9/24 dev trunk && ip -n peer link set trunk up
ip -n peer link add link trunk name trunk.5 type vlan id 5
ip -n peer addr add 10.5.0.9/24 dev trunk.5 && ip -n peer link set trunk.5 up
ip route add default via 10.1.0.9";

/// A policy with these interfaces, each in flow style.
fn policy(interfaces: &[&str]) -> String {
    let items: String = interfaces.iter().map(|item| format!("    - {item}\n")).collect();
    format!(
        "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: vlan}}\nspec:\n  \
         desiredState:\n    interfaces:\n{items}"
    )
}

fn apply(file: &str) -> String {
    format!("hawser node apply -f /root/{file} --reach-within=2 --runtime-dir=/run/hawser")
}

#[test]
fn a_guest_is_on_the_bridge_of_a_vlan_that_a_policy_has_made_and_removes() -> Result<()> {
    let bridge = "{name: br5, type: linux-bridge, bridge: {port: [{name: up0.5}]}}";
    let vlan = "{name: up0.5, type: vlan, vlan: {base-iface: up0, id: 5}}";
    // The gateway is lost with the address of its link.
    let bad = "{name: br0, type: linux-bridge, bridge: {port: [{name: up0}]}}";
    let absent = [
        "{name: up0.5, type: vlan, state: absent}",
        "{name: br5, type: linux-bridge, state: absent}",
    ];
    let mut machine = Machine::boot(&[
        ("root/made.yaml", policy(&[bridge, vlan]).as_bytes()),
        ("root/bad.yaml", policy(&[bridge, vlan, bad]).as_bytes()),
        ("root/absent.yaml", policy(&absent).as_bytes()),
    ])?;
    machine.sh(LINKS)?;
    let links = "ip -br link";
    let before = machine.sh(links)?;
    let refused = machine.run(&apply("bad.yaml"))?;
    assert!(refused.err.contains("10.1.0.9 does not answer"), "{}", refused.err);
    assert_eq!(machine.sh(links)?, before, "everything is put back");

    let steps = machine.sh(&apply("made.yaml"))?;
    assert!(steps.contains("up0.5: create VLAN 5 of up0\n"), "{steps}");
    assert_eq!(machine.sh(&apply("made.yaml"))?, "links: nothing to change\n");
    let state = machine.sh("hawser node status --links")?;
    assert!(state.contains("base-iface: up0") && state.contains("id: 5"), "{state}");

    let arguments = format!("--mode=bridge --bridge=br5 --socket-path={SOCKET} --runtime-dir=/run/hawser");
    machine.hawser("vm", &arguments, &[SOCKET])?;
    let guest = machine.start_guest(&[SOCKET])?;
    guest.wait_for_boot(&machine)?;
    guest.sh("ip link set eth0 up && ip addr add 10.5.0.5/24 dev eth0 && ping -c 1 -W 5 10.5.0.9")?;
    let refused = machine.run(&apply("absent.yaml"))?;
    assert!(refused.err.contains("stop the VM first"), "{}", refused.err);
    guest.sh("ping -c 1 -W 5 10.5.0.9")?;

    machine
        .sh("kill $(cat /run/*.pid); for n in $(seq 50); do pidof hawser >/dev/null || break; usleep 100000; done")?;
    machine.sh(&apply("absent.yaml"))?;
    assert_eq!(machine.sh(links)?, before);
    machine.sh("ping -c 1 -W 5 10.1.0.9").map(drop)
}
