//! Determines from policies how the links of a node must change. Nothing here changes the node.

use super::survey::Found;
use hawser_backend::packet::MacAddr;
use hawser_manifest::objects::node_network::{DesiredKind, DesiredLink, DesiredVlan, LinkState, NodeNetwork, Stack};
use hawser_manifest::objects::report::Spot;
use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;

/// The kernel's name for bridges.
pub(super) const BRIDGE: &str = "bridge";
/// The kernel's name for VLAN interfaces.
pub(super) const VLAN: &str = "vlan";
/// The kernel's name for TAP devices, which belong to VMs.
const TAP: &str = "tun";
/// The link that every namespace has.
const LOOPBACK: &str = "lo";

/// The reason why policies cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub(super) struct NetworkError {
    place: Spot,
    why: String,
}

/// One change of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Creates a bridge, switched off.
    Create { name: String },
    /// Creates a VLAN interface, switched off.
    CreateVlan { name: String, vlan: DesiredVlan },
    /// Switches the spanning tree of a bridge on or off.
    Stp { name: String, on: bool },
    /// Takes a port out of its bridge.
    Leave { port: String, bridge: String },
    /// Makes a link a port of a bridge and switches it on.
    Join { port: String, bridge: String },
    /// Sets the MTU.
    Mtu { name: String, to: u32 },
    /// Sets the address of the link.
    Mac { name: String, to: MacAddr },
    /// Switches the kernel's IPv6 on or off.
    Ipv6 { name: String, on: bool },
    /// Removes an IP address.
    RemoveAddress { name: String, net: IpNet },
    /// Adds an IP address.
    AddAddress { name: String, net: IpNet },
    /// Switches a link on or off.
    Switch { name: String, on: bool },
    /// Removes a bridge or a VLAN interface. This step comes after the check-point.
    Delete { name: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_off = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Create { name } => write!(f, "{name}: create the bridge"),
            Self::CreateVlan { name, vlan } => write!(f, "{name}: create VLAN {} of {}", vlan.id, vlan.base),
            Self::Stp { name, on } => write!(f, "{name}: spanning tree {}", on_off(on)),
            Self::Leave { port, bridge } => write!(f, "{bridge}: remove the port {port}"),
            Self::Join { port, bridge } => write!(f, "{bridge}: add the port {port}"),
            Self::Mtu { name, to } => write!(f, "{name}: MTU {to}"),
            Self::Mac { name, to } => write!(f, "{name}: address {to}"),
            Self::Ipv6 { name, on } => write!(f, "{name}: IPv6 {}", on_off(on)),
            Self::RemoveAddress { name, net } => write!(f, "{name}: remove {net}"),
            Self::AddAddress { name, net } => write!(f, "{name}: add {net}"),
            Self::Switch { name, on } => write!(f, "{name}: switch {}", on_off(on)),
            Self::Delete { name } => write!(f, "{name}: remove the link"),
        }
    }
}

/// The links of a node by name, as they are.
struct Node<'a>(&'a [Found]);

impl<'a> Node<'a> {
    fn named(&self, name: &str) -> Option<&'a Found> {
        self.0.iter().find(|found| found.link.name == name)
    }

    fn ports(&self, bridge: u32) -> impl Iterator<Item = &'a Found> {
        self.0.iter().filter(move |found| found.link.master == Some(bridge))
    }

    fn name_of(&self, index: u32) -> &'a str {
        let found = self.0.iter().find(|found| found.link.index == index);
        found.map_or("", |found| found.link.name.as_str())
    }
}

/// Plans the changes. The order of the steps is that in which they are made.
///
/// # Errors
/// A policy that cannot be applied to this node.
pub(super) fn plan(policies: &[NodeNetwork], found: &[Found]) -> Result<Vec<Step>, NetworkError> {
    let node = Node(found);
    let links: Vec<&DesiredLink> = policies.iter().flat_map(|policy| &policy.links).collect();
    check(&links, &node)?;
    let mut steps = Vec::new();
    // A port that moves leaves its bridge before another one takes it.
    links.iter().for_each(|link| leave(link, &node, &mut steps));
    // VLAN interfaces may be those of new bridges, and ports of new bridges.
    let (vlans, others): (Vec<&DesiredLink>, Vec<&DesiredLink>) =
        links.iter().partition(|link| matches!(link.kind, DesiredKind::Vlan(_)));
    let new = others.iter().chain(&vlans);
    new.for_each(|link| create(link, &node, &mut steps));
    links.iter().for_each(|link| set_up(link, &node, &mut steps));
    links.iter().for_each(|link| remove(link, &node, &mut steps));
    Ok(steps)
}

/// Checks the links against each other and against the node.
fn check(links: &[&DesiredLink], node: &Node<'_>) -> Result<(), NetworkError> {
    let mut names = HashSet::new();
    let mut ports = HashSet::new();
    for link in links {
        let fail = |why: String| {
            let place = link.spot.clone();
            Err(NetworkError { place, why })
        };
        let name = &link.name;
        if !names.insert(name.as_str()) {
            return fail(format!("{name} is described twice; describe each link once"));
        }
        if name == LOOPBACK {
            return fail(format!("{name} belongs to the kernel; leave it out"));
        }
        let there = node.named(name);
        let asked = match &link.kind {
            DesiredKind::Bridge { ports, .. } => ports.as_ref(),
            DesiredKind::Vlan(_) => None,
            DesiredKind::Ethernet if there.is_none() => {
                return fail(format!(
                    "no link of this node is called {name}; `ip link` lists the links"
                ));
            }
            DesiredKind::Ethernet => continue,
        };
        let kernels = if matches!(link.kind, DesiredKind::Vlan(_)) {
            VLAN
        } else {
            BRIDGE
        };
        if let Some(found) = there.filter(|found| !found.link.is(kernels)) {
            let kind = Some(found.link.kind.as_str()).filter(|kind| !kind.is_empty());
            let kind = kind.unwrap_or("network card");
            return fail(format!("{name} exists and is a {kind}; choose another name"));
        }
        if let DesiredKind::Vlan(vlan) = &link.kind
            && link.state != LinkState::Absent
        {
            check_vlan(name, vlan, links, node).or_else(fail)?;
        }
        if link.state == LinkState::Absent {
            let guest = there.and_then(|found| node.ports(found.link.index).find(|port| port.link.is(TAP)));
            if let Some(guest) = guest {
                let tap = &guest.link.name;
                return fail(format!(
                    "the TAP device {tap} of a VM is a port of {name}; stop the VM first"
                ));
            }
            continue;
        }
        for port in asked.into_iter().flatten() {
            if !ports.insert(port.as_str()) {
                return fail(format!("{port} is a port twice; name it in one bridge"));
            }
            let Some(found) = node.named(port) else {
                if links.iter().any(|link| link.name == *port && is_new_vlan(link)) {
                    continue;
                }
                return fail(format!(
                    "no link of this node is called {port}; `ip link` lists the links"
                ));
            };
            if port == LOOPBACK || found.link.is(BRIDGE) || found.link.mac.is_none() {
                return fail(format!("{port} cannot be a port of a bridge; name a network card"));
            }
            let master = found.link.master.map(|index| node.name_of(index));
            let is_planned = |master: &str| links.iter().any(|link| link.name == master);
            if let Some(master) = master.filter(|master| master != name && !is_planned(master)) {
                return fail(format!("{port} is a port of {master}; take it out there first"));
            }
        }
    }
    Ok(())
}

fn is_new_vlan(link: &DesiredLink) -> bool {
    matches!(link.kind, DesiredKind::Vlan(_)) && link.state != LinkState::Absent
}

/// Checks that a VLAN interface can be created, or is there.
fn check_vlan(name: &str, vlan: &DesiredVlan, links: &[&DesiredLink], node: &Node<'_>) -> Result<(), String> {
    let DesiredVlan { base, id } = vlan;
    let is_new_bridge = |link: &&DesiredLink| {
        link.name == *base && matches!(link.kind, DesiredKind::Bridge { .. }) && link.state != LinkState::Absent
    };
    let lower = node.named(base);
    if lower.is_none() && !links.iter().any(is_new_bridge) {
        return Err(format!(
            "no link of this node is called {base}; `ip link` lists the links"
        ));
    }
    let Some(there) = node.named(name) else { return Ok(()) };
    if there.link.vlan == Some(*id) && there.link.lower == lower.map(|found| found.link.index) {
        return Ok(());
    }
    let now = there.link.vlan.unwrap_or_default();
    let of = node.name_of(there.link.lower.unwrap_or_default());
    Err(format!(
        "{name} exists and is VLAN {now} of {of}; remove it first (state: absent), or choose another name"
    ))
}

/// Takes out the ports that a bridge no longer has.
fn leave(link: &DesiredLink, node: &Node<'_>, steps: &mut Vec<Step>) {
    let (DesiredKind::Bridge { ports, .. }, Some(bridge)) = (&link.kind, node.named(&link.name)) else {
        return;
    };
    let wanted = match (link.state, ports) {
        (LinkState::Absent, _) => &[][..],
        (_, Some(ports)) => ports,
        (_, None) => return,
    };
    for port in node.ports(bridge.link.index) {
        if !port.link.is(TAP) && !wanted.contains(&port.link.name) {
            steps.push(Step::Leave {
                port: port.link.name.clone(),
                bridge: link.name.clone(),
            });
        }
    }
}

/// Creates a link that is not there.
fn create(link: &DesiredLink, node: &Node<'_>, steps: &mut Vec<Step>) {
    if link.state == LinkState::Absent || node.named(&link.name).is_some() {
        return;
    }
    let name = link.name.clone();
    match &link.kind {
        DesiredKind::Ethernet => {}
        DesiredKind::Bridge { .. } => steps.push(Step::Create { name }),
        DesiredKind::Vlan(vlan) => {
            let (name_of_base, vlan) = (vlan.base.clone(), vlan.clone());
            steps.push(Step::CreateVlan { name, vlan });
            // The kernel does not switch on a VLAN of a link that is off.
            if !node.named(&name_of_base).is_some_and(|found| found.link.is_up) {
                switch(name_of_base, true, steps);
            }
        }
    }
}

/// Switches a link on or off, unless an earlier step does.
fn switch(name: String, on: bool, steps: &mut Vec<Step>) {
    let step = Step::Switch { name, on };
    if !steps.contains(&step) {
        steps.push(step);
    }
}

fn set_up(link: &DesiredLink, node: &Node<'_>, steps: &mut Vec<Step>) {
    let name = || link.name.clone();
    if link.state == LinkState::Absent {
        return;
    }
    let there = node.named(&link.name);
    if let DesiredKind::Bridge { stp, ports } = &link.kind {
        // The kernel creates bridges without a spanning tree.
        let now = there.map_or(Some(false), |found| found.link.stp);
        if let Some(on) = stp.filter(|on| now != Some(*on)) {
            steps.push(Step::Stp { name: name(), on });
        }
        for port in ports.iter().flatten() {
            let master = node.named(port).and_then(|found| found.link.master);
            if master.is_none() || master != there.map(|found| found.link.index) {
                steps.push(Step::Join {
                    port: port.clone(),
                    bridge: name(),
                });
            }
        }
    }
    if let Some(to) = link.mtu.filter(|to| there.map(|found| found.link.mtu) != Some(*to)) {
        steps.push(Step::Mtu { name: name(), to });
    }
    let mac = there.and_then(|found| found.link.mac);
    if let Some(to) = link.mac.filter(|to| mac != Some(*to)) {
        steps.push(Step::Mac { name: name(), to });
    }
    let is_new = there.is_none();
    // A new link gets no addresses that nobody has asked for, as with NMState.
    let ipv6 = link.ipv6.as_ref().or(is_new.then_some(&Stack::Disabled));
    if let Some(ipv6) = ipv6 {
        let on = *ipv6 != Stack::Disabled;
        let is_on = there.is_none_or(|found| !found.ipv6_disabled);
        if on != is_on {
            steps.push(Step::Ipv6 { name: name(), on });
        }
    }
    let up = link.state == LinkState::Up;
    if there.is_some_and(|found| found.link.is_up) != up {
        switch(name(), up, steps);
    }
    for (stack, is_ipv4) in [(&link.ipv4, true), (&link.ipv6, false)] {
        let Some(stack) = stack else { continue };
        let now: Vec<IpNet> = there
            .iter()
            .flat_map(|found| &found.addresses)
            .map(|address| address.net)
            .filter(|net| net.addr().is_ipv4() == is_ipv4)
            .collect();
        let wanted = match stack {
            Stack::Disabled => Vec::new(),
            Stack::Enabled(None) => continue,
            Stack::Enabled(Some(nets)) => nets.clone(),
        };
        // The kernel removes the addresses with IPv6.
        let by_hand = is_ipv4 || *stack != Stack::Disabled;
        for &net in now.iter().filter(|net| by_hand && !wanted.contains(net)) {
            steps.push(Step::RemoveAddress { name: name(), net });
        }
        for &net in wanted.iter().filter(|net| !now.contains(net)) {
            steps.push(Step::AddAddress { name: name(), net });
        }
    }
}

fn remove(link: &DesiredLink, node: &Node<'_>, steps: &mut Vec<Step>) {
    let there = node.named(&link.name);
    let Some(found) = there.filter(|_| link.state == LinkState::Absent) else {
        return;
    };
    let name = || link.name.clone();
    if found.link.is_up {
        let on = false;
        steps.push(Step::Switch { name: name(), on });
    }
    steps.push(Step::Delete { name: name() });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
