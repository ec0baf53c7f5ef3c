//! Tests a guest in layer2 mode with a host behind the Geneve port of OVS's user-space datapath.

use hawser_testkit::guest::Kind;
use hawser_testkit::nodes::{Nodes, PORT, Port};
use hawser_testkit::ovs::Ovs;
use hawser_testkit::{Result, peers, until};
use std::fs;

const VNI: u32 = 4711;
const MTU: u32 = 1500;
/// The guest is on the first node, OVS on the second.
const GUEST: Port = Port::new(0, 11);
const FAR: Port = Port::new(1, 12);

/// Sets up the bridges; `options` are further options of the Geneve port.
fn lay_switch(nodes: &Nodes, underlay6: bool, options: &str) -> Result<Ovs> {
    let (node, folder) = (&nodes.nodes[FAR.node], nodes.path("ovs"));
    fs::create_dir(&folder)?;
    // The packet sockets of OVS complete neither segments nor checksums.
    for namespace in &nodes.nodes {
        namespace.run("ethtool -K eth0 tx off gso off tso off")?;
    }
    let ovs = Ovs::start(node, &folder)?;
    ovs.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy eth0")?;
    ovs.vsctl(&format!(
        "add-br br-int -- set bridge br-int datapath_type=netdev other-config:hwaddr={}",
        FAR.mac()
    ))?;
    let (own, remote) = if underlay6 {
        (Nodes::vtep6(FAR.node), Nodes::vtep6(GUEST.node))
    } else {
        (Nodes::vtep4(FAR.node), Nodes::vtep4(GUEST.node))
    };
    node.run("ip addr flush dev eth0 scope global")?;
    node.run("ip link set br-phy up")?;
    node.run(&match underlay6 {
        false => format!("ip addr add {own}/24 dev br-phy"),
        true => format!("ip -6 addr add {own}/64 dev br-phy nodad"),
    })?;
    ovs.vsctl(&format!(
        "add-port br-int tunnel -- set interface tunnel type=geneve options:remote_ip={remote} options:key={VNI} {options}"
    ))?;
    let inner = MTU - if underlay6 { 82 } else { 62 };
    node.run(&format!("ip link set br-int mtu {inner} up"))?;
    node.run(&format!("ip addr add {}/24 dev br-int", FAR.address4()))?;
    node.run(&format!("ip -6 addr add {}/64 dev br-int nodad", FAR.address6()))?;
    until("OVS knows the route to the other node", || {
        Ok(ovs.appctl(&format!("ovs/route/lookup {remote}"))?.contains("br-phy"))
    })?;
    Ok(ovs)
}

fn assert_bytes_cross(underlay6: bool, options: &str) -> Result<()> {
    let nodes = Nodes::new(2, MTU)?;
    let _ovs = lay_switch(&nodes, underlay6, options)?;
    let vtep = match underlay6 {
        true => Nodes::vtep6(GUEST.node),
        false => Nodes::vtep4(GUEST.node),
    };
    let mut hawser = nodes.hawser(VNI, GUEST, &[&format!("--vtep={vtep}"), &FAR.peer(underlay6)])?;
    let guest = nodes.guest(Kind::Uml, &hawser)?;
    let far = &nodes.nodes[FAR.node];
    guest.sh(&format!("ping -c 2 -W 5 {}", FAR.address4()))?;
    guest.sh(&format!("ping -6 -c 2 -W 5 {}", FAR.address6()))?;
    for at in [
        format!("{}:{PORT}", FAR.address4()),
        format!("[{}]:{PORT}", FAR.address6()),
    ] {
        let _server = peers::serve(far, &nodes.path("ovs"), at.parse()?)?;
        // The last segment of each transfer is shorter; in the second transfer it has one byte.
        for bytes in [20_000_000, 1_380 * 40 + 1] {
            for command in ["send", "receive"] {
                guest.traffic(&format!("{command} to={at} bytes={bytes}"))?;
            }
        }
        guest.traffic(&format!("udp to={at} sizes=1,22,1300 count=40"))?;
    }
    let counters = hawser.counters()?;
    assert!(counters.get("tunnel_sent") > 0 && counters.get("tunnel_received") > 0);
    for reason in [
        "tunnel_malformed",
        "tunnel_option",
        "tunnel_unknown_peer",
        "tunnel_spoofed_mac",
    ] {
        assert_eq!(counters.dropped(reason), 0, "{reason}");
    }
    hawser.assert_alive()
}

#[test]
fn a_guest_and_a_host_behind_ovs_exchange_bytes_over_both_underlays_with_checksums() -> Result<()> {
    for underlay6 in [false, true] {
        assert_bytes_cross(underlay6, "options:csum=true")?;
    }
    Ok(())
}

#[test]
fn datagrams_of_ovs_without_a_checksum_are_accepted_over_ipv4() -> Result<()> {
    assert_bytes_cross(false, "options:csum=false")
}
