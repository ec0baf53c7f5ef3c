use super::*;
use hawser_host::addresses::Address;
use hawser_host::link::Link;
use hawser_manifest::check::node_objects;
use hawser_manifest::objects::SourceFile;

/// A link that is switched on.
fn found(index: u32, name: &str, kind: &str, master: Option<u32>) -> Found {
    Found {
        link: Link {
            index,
            name: name.into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            kind: kind.into(),
            master,
            lower: None,
            is_up: true,
            has_carrier: true,
            is_promiscuous: false,
            default_vlan: None,
            stp: (kind == BRIDGE).then_some(false),
            ipvtap_mode: None,
            vlan: None,
            device: None,
        },
        addresses: Vec::new(),
        ipv6_disabled: false,
    }
}

/// A policy with these interfaces, each in flow style.
fn policies(interfaces: &[&str]) -> Vec<NodeNetwork> {
    let items: String = interfaces.iter().map(|item| format!("    - {item}\n")).collect();
    let file = SourceFile {
        name: "n.yaml".into(),
        text: format!(
            "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: br1-policy}}\nspec:\n  \
             desiredState:\n    interfaces:\n{items}"
        ),
    };
    node_objects(&[file], "default").unwrap().networks
}

fn steps(interfaces: &[&str], node: &[Found]) -> Vec<String> {
    let steps = plan(&policies(interfaces), node).unwrap();
    steps.iter().map(ToString::to_string).collect()
}

const BR1: &str = "{name: br1, type: linux-bridge, state: up, ipv4: {enabled: false, dhcp: false}, bridge: {options: \
                   {stp: {enabled: false}}, port: [{name: eth1}]}}";

#[test]
fn the_bridge_of_the_manuals_is_created_once() {
    let node = [found(1, "lo", "", None), found(2, "eth1", "", None)];
    assert_eq!(
        steps(&[BR1], &node),
        [
            "br1: create the bridge",
            "br1: add the port eth1",
            "br1: IPv6 off",
            "br1: switch on",
        ]
    );
    let node = [found(2, "eth1", "", Some(3)), found(3, "br1", BRIDGE, None)];
    assert_eq!(steps(&[BR1], &node), [""; 0]);
}

#[test]
fn a_bridge_gets_the_ports_that_are_named_and_keeps_those_of_vms() {
    let node = [
        found(2, "eth1", "", None),
        found(3, "br1", BRIDGE, None),
        found(4, "eth2", "", Some(3)),
        found(5, "tap0", TAP, Some(3)),
    ];
    assert_eq!(
        steps(&[BR1], &node),
        ["br1: remove the port eth2", "br1: add the port eth1"]
    );
    let without = "{name: br1, type: linux-bridge, bridge: {options: {stp: {enabled: true}}}}";
    assert_eq!(steps(&[without], &node), ["br1: spanning tree on"]);
}

#[test]
fn a_port_leaves_one_bridge_before_it_joins_another_one() {
    let node = [found(2, "eth1", "", Some(3)), found(3, "br0", BRIDGE, None)];
    let br0 = "{name: br0, type: linux-bridge, bridge: {port: []}}";
    let steps = steps(&[BR1, br0], &node);
    assert_eq!(steps[0], "br0: remove the port eth1");
    assert!(steps.contains(&"br1: add the port eth1".to_owned()), "{steps:?}");
}

#[test]
fn addresses_become_those_of_the_policy() {
    let net = |text: &str| Address::new(text.parse().unwrap(), 2);
    let mut eth1 = found(2, "eth1", "", None);
    eth1.addresses = vec![net("192.0.2.1/24"), net("192.0.2.2/24"), net("2001:db8::1/64")];
    let change = "{name: eth1, type: ethernet, mtu: 9000, ipv4: {enabled: true, address: [{ip: 192.0.2.2, \
                  prefix-length: 24}, {ip: 192.0.2.3, prefix-length: 24}]}, ipv6: {enabled: false}}";
    assert_eq!(
        steps(&[change], &[eth1]),
        [
            "eth1: MTU 9000",
            "eth1: IPv6 off",
            "eth1: remove 192.0.2.1/24",
            "eth1: add 192.0.2.3/24",
        ]
    );
}

#[test]
fn a_bridge_is_removed_after_its_ports_have_left() {
    let node = [found(2, "eth1", "", Some(3)), found(3, "br1", BRIDGE, None)];
    let absent = "{name: br1, type: linux-bridge, state: absent}";
    assert_eq!(
        steps(&[absent], &node),
        ["br1: remove the port eth1", "br1: switch off", "br1: remove the link",]
    );
    assert_eq!(steps(&[absent], &[]), [""; 0]);
}

const VLAN5: &str = "{name: eth1.5, type: vlan, vlan: {base-iface: eth1, id: 5}}";
const BR5: &str = "{name: br5, type: linux-bridge, bridge: {port: [{name: eth1.5}]}}";

#[test]
fn a_vlan_interface_is_created_before_the_bridge_takes_it_and_removed_after_that() {
    let mut eth1 = found(2, "eth1", "", None);
    eth1.link.is_up = false;
    assert_eq!(
        steps(&[BR5, VLAN5], &[eth1]),
        [
            "br5: create the bridge",
            "eth1.5: create VLAN 5 of eth1",
            "eth1: switch on",
            "br5: add the port eth1.5",
            "br5: IPv6 off",
            "br5: switch on",
            "eth1.5: IPv6 off",
            "eth1.5: switch on",
        ]
    );
    let mut vlan = found(4, "eth1.5", VLAN, Some(3));
    (vlan.link.vlan, vlan.link.lower) = (Some(5), Some(2));
    let node = [found(2, "eth1", "", None), found(3, "br5", BRIDGE, None), vlan];
    assert_eq!(steps(&[BR5, VLAN5], &node), [""; 0]);
    let absent = [
        "{name: eth1.5, type: vlan, state: absent}",
        "{name: br5, type: linux-bridge, state: absent}",
    ];
    assert_eq!(
        steps(&absent, &node),
        [
            "br5: remove the port eth1.5",
            "eth1.5: switch off",
            "eth1.5: remove the link",
            "br5: switch off",
            "br5: remove the link",
        ]
    );
    let other = VLAN5.replace("id: 5", "id: 6");
    let error = plan(&policies(&[&other]), &node).unwrap_err().to_string();
    assert!(error.contains("eth1.5 exists and is VLAN 5 of eth1"), "{error}");
}

#[test]
fn what_cannot_be_applied_is_refused_with_its_place() {
    let node = [
        found(1, "lo", "", None),
        found(2, "eth1", "", Some(4)),
        found(3, "br1", BRIDGE, None),
        found(4, "br9", BRIDGE, None),
        found(5, "tap0", TAP, Some(4)),
    ];
    for (interfaces, words) in [
        (&[BR1][..], "eth1 is a port of br9"),
        (&["{name: br9, type: linux-bridge, state: absent}"], "tap0 of a VM"),
        (
            &["{name: eth7.5, type: vlan, vlan: {base-iface: eth7, id: 5}}"],
            "called eth7",
        ),
        (
            &["{name: eth1, type: vlan, vlan: {base-iface: eth1, id: 5}}"],
            "eth1 exists and is a network card",
        ),
        (&[BR5], "called eth1.5"),
        (&["{name: eth7, type: ethernet}"], "no link of this node is called eth7"),
        (&["{name: lo, type: ethernet}"], "belongs to the kernel"),
        (
            &["{name: eth1, type: linux-bridge}"],
            "eth1 exists and is a network card",
        ),
        (
            &["{name: br1, type: linux-bridge}", "{name: br1, type: linux-bridge}"],
            "described twice",
        ),
        (
            &["{name: br2, type: linux-bridge, bridge: {port: [{name: br1}]}}"],
            "br1 cannot be a port",
        ),
        (
            &["{name: br2, type: linux-bridge, bridge: {port: [{name: eth7}]}}"],
            "called eth7",
        ),
        (
            &[
                "{name: br9, type: linux-bridge, bridge: {port: [{name: eth1}]}}",
                "{name: br1, type: linux-bridge, bridge: {port: [{name: eth1}]}}",
            ],
            "a port twice",
        ),
    ] {
        let error = plan(&policies(interfaces), &node).unwrap_err().to_string();
        assert!(error.contains(words), "{interfaces:?}: {error}");
        assert!(error.starts_with("n.yaml:"), "{error}");
    }
}
