//! Tests of NodeNetworkConfigurationPolicy.

use crate::check::node_objects;
use crate::objects::SourceFile;
use crate::objects::node_network::{DesiredKind, DesiredLink, DesiredVlan, LinkState, Stack};

/// A policy with one interface, in flow style.
fn read(interface: &str) -> Result<DesiredLink, String> {
    read_state(&format!("{{interfaces: [{interface}]}}"))
}

fn read_state(state: &str) -> Result<DesiredLink, String> {
    let file = SourceFile {
        name: "n.yaml".into(),
        text: format!(
            "apiVersion: nmstate.io/v1\nkind: NodeNetworkConfigurationPolicy\nmetadata: {{name: br1-policy}}\nspec:\n  \
             nodeSelector: {{kubernetes.io/hostname: n1}}\n  desiredState: {state}\n"
        ),
    };
    match node_objects(&[file], "default") {
        Ok(found) => Ok(found.networks.into_iter().next().unwrap().links.remove(0)),
        Err(rejected) => {
            let lines: Vec<String> = rejected.errors.iter().map(ToString::to_string).collect();
            Err(lines.join("\n"))
        }
    }
}

#[test]
fn the_bridge_of_the_manuals_is_read() {
    let link = read(
        "{name: br1, description: Linux bridge with eth1 as a port, type: linux-bridge, state: up, ipv4: {dhcp: false, \
         enabled: false}, bridge: {options: {stp: {enabled: false}}, port: [{name: eth1}]}}",
    );
    let link = link.unwrap();
    let ports = Some(vec!["eth1".to_owned()]);
    let stp = Some(false);
    assert_eq!(link.kind, DesiredKind::Bridge { stp, ports });
    assert_eq!((link.name.as_str(), link.state), ("br1", LinkState::Up));
    assert_eq!((link.ipv4, link.ipv6), (Some(Stack::Disabled), None));
}

#[test]
fn a_vlan_interface_is_read() {
    let link = read("{name: eth1.102, type: vlan, state: up, vlan: {base-iface: eth1, id: 102}}").unwrap();
    let (base, id) = ("eth1".to_owned(), 102);
    assert_eq!(link.kind, DesiredKind::Vlan(DesiredVlan { base, id }));
    let absent = read("{name: eth1.102, type: vlan, state: absent}").unwrap();
    assert_eq!(absent.state, LinkState::Absent);
}

#[test]
fn what_is_not_given_stays_as_it_is() {
    let link = read("{name: eth1, type: ethernet, state: down, mtu: 9000, ipv6: {enabled: true}}").unwrap();
    assert_eq!((link.kind, link.state), (DesiredKind::Ethernet, LinkState::Down));
    assert_eq!((link.mtu, link.mac, link.ipv4), (Some(9000), None, None));
    assert_eq!(link.ipv6, Some(Stack::Enabled(None)));
    let link = read("{name: br1, type: linux-bridge}").unwrap();
    assert_eq!(link.kind, DesiredKind::Bridge { stp: None, ports: None });
    let link =
        read("{name: br1, type: linux-bridge, ipv4: {enabled: true, address: [{ip: 192.0.2.1, prefix-length: 24}]}}");
    let net = "192.0.2.1/24".parse().unwrap();
    assert_eq!(link.unwrap().ipv4, Some(Stack::Enabled(Some(vec![net]))));
}

#[test]
fn what_hawser_does_not_serve_is_refused_by_the_name_of_its_field() {
    for (interface, words) in [
        ("{name: br1}", "type"),
        ("{name: bond0, type: bond}", "type"),
        ("{name: eth1.5, type: vlan}", "vlan"),
        ("{name: eth1.5, type: vlan, vlan: {id: 5}}", "base-iface"),
        ("{name: eth1.5, type: vlan, vlan: {base-iface: eth1, id: 4095}}", "id"),
        (
            "{name: eth1.5, type: vlan, vlan: {base-iface: eth1, id: 5, protocol: 802.1ad}}",
            "802.1Q",
        ),
        (
            "{name: br1, type: linux-bridge, vlan: {base-iface: eth1, id: 5}}",
            "vlan is for type vlan",
        ),
        ("{type: ethernet}", "name"),
        ("{name: a-name-that-is-long, type: ethernet}", "name"),
        (
            "{name: eth1, type: ethernet, state: absent}",
            "state: absent is for a linux-bridge",
        ),
        (
            "{name: eth1, type: ethernet, bridge: {port: []}}",
            "bridge is for type linux-bridge",
        ),
        (
            "{name: eth1, type: ethernet, ipv4: {enabled: true, dhcp: true}}",
            "dhcp: true is not served",
        ),
        (
            "{name: eth1, type: ethernet, ipv6: {enabled: true, autoconf: true}}",
            "autoconf: true is not served",
        ),
        ("{name: eth1, type: ethernet, ipv4: {}}", "enabled"),
        (
            "{name: eth1, type: ethernet, ipv4: {enabled: false, address: [{ip: 192.0.2.1, prefix-length: 24}]}}",
            "addresses need enabled: true",
        ),
        (
            "{name: eth1, type: ethernet, ipv6: {enabled: true, address: [{ip: 192.0.2.1, prefix-length: 24}]}}",
            "give an IPv6 address",
        ),
        (
            "{name: eth1, type: ethernet, ipv4: {enabled: true, address: [{ip: 192.0.2.1, prefix-length: 33}]}}",
            "prefix-length",
        ),
        (
            "{name: br1, type: linux-bridge, bridge: {port: [{name: eth1, vlan: {mode: trunk}}]}}",
            "vlan",
        ),
        (
            "{name: br1, type: linux-bridge, bridge: {options: {mcast-querier: true}}}",
            "mcast-querier",
        ),
        ("{name: br1, type: linux-bridge, mtu: 60}", "mtu"),
        ("{name: br1, type: linux-bridge, copy-mac-from: eth1}", "copy-mac-from"),
    ] {
        let error = read(interface).unwrap_err();
        assert!(error.contains(words), "{interface}: {error}");
        assert!(error.starts_with("n.yaml:6"), "with its line: {error}");
    }
    let error = read_state("{routes: {config: []}}").unwrap_err();
    assert!(error.contains("routes"), "{error}");
}
