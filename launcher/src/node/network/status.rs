//! Shows the links of the node in the form of kubernetes-nmstate's NodeNetworkState, with the words of NMState.

use super::plan::BRIDGE;
use super::survey::Found;
use serde_json::{Value, json};

/// The object that describes the links of a node.
pub(super) fn state(node: &str, found: &[Found]) -> Value {
    let interfaces: Vec<Value> = found.iter().map(|link| interface(link, found)).collect();
    json!({
        "apiVersion": "nmstate.io/v1beta1",
        "kind": "NodeNetworkState",
        "metadata": {"name": node},
        "status": {"currentState": {"interfaces": interfaces}},
    })
}

fn interface(found: &Found, all: &[Found]) -> Value {
    let link = &found.link;
    let stack = |is_ipv4: bool| {
        let nets = found.addresses.iter().map(|address| address.net);
        let nets: Vec<Value> = nets
            .filter(|net| net.addr().is_ipv4() == is_ipv4)
            .map(|net| json!({"ip": net.addr(), "prefix-length": net.prefix_len()}))
            .collect();
        let enabled = if is_ipv4 {
            !nets.is_empty()
        } else {
            !found.ipv6_disabled
        };
        json!({"enabled": enabled, "address": nets})
    };
    let mut interface = json!({
        "name": link.name,
        "type": kind(&link.name, &link.kind),
        "state": if link.is_up { "up" } else { "down" },
        "mtu": link.mtu,
        "ipv4": stack(true),
        "ipv6": stack(false),
    });
    if let Some(mac) = link.mac {
        interface["mac-address"] = mac.to_string().into();
    }
    let master = link
        .master
        .and_then(|index| all.iter().find(|found| found.link.index == index));
    if let Some(master) = master {
        interface["controller"] = master.link.name.clone().into();
    }
    let base = link
        .lower
        .and_then(|index| all.iter().find(|found| found.link.index == index));
    if let (Some(id), Some(base)) = (link.vlan, base) {
        interface["vlan"] = json!({"base-iface": base.link.name, "id": id});
    }
    if link.is(BRIDGE) {
        let ports = all.iter().filter(|found| found.link.master == Some(link.index));
        let ports: Vec<Value> = ports.map(|port| json!({"name": port.link.name})).collect();
        interface["bridge"] = json!({
            "options": {"stp": {"enabled": link.stp.unwrap_or(false)}},
            "port": ports,
        });
    }
    interface
}

/// The word of NMState for a kind of the kernel.
fn kind<'a>(name: &str, kind: &'a str) -> &'a str {
    match kind {
        "" if name == "lo" => "loopback",
        "" => "ethernet",
        BRIDGE => "linux-bridge",
        "macvtap" => "mac-vtap",
        "macvlan" => "mac-vlan",
        other => other,
    }
}
