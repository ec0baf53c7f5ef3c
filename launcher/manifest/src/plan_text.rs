//! Prints a plan, as text or as JSON.

use crate::check::{Checked, Rejected};
use crate::nic::{AttachmentSpec, BridgePortSpec, Underlay, UnderlaySpec, VtepSpec};
use crate::objects::cni::{PortRules, Segment};
use crate::objects::dns::Dns;
use crate::objects::interface::DhcpOptions;
use crate::objects::ipam::{Ipam, Range};
use crate::objects::report::Problem;
use crate::plan::layer2::Layer2Plan;
use crate::plan::{GuestNetwork, MasqueradePlan, NicMode, NicPlan, SriovPlan, VmPlan};
use hawser_packet::MacRange;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// The plan as text, with a few lines per NIC.
pub fn text(plan: &VmPlan) -> String {
    let nics = match plan.nics.len() {
        1 => "1 NIC".into(),
        n => format!("{n} NICs"),
    };
    let mut text = format!("VM {}/{}, {nics}\n", plan.namespace, plan.name);
    for nic in &plan.nics {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", nic_text(nic, plan.mac_range));
    }
    text
}

fn nic_text(nic: &NicPlan, pool: Option<MacRange>) -> String {
    let mut text = format!("{} on {}", nic.name, nic.network);
    if nic.mode.sriov().is_none() {
        let _ = write!(text, "\n  socket   {}", nic.socket.display());
    }
    let mut line = |name: &str, value: String| {
        let _ = write!(text, "\n  {name:<8} {value}");
    };
    line(
        "MAC",
        nic.mac.map_or_else(|| mac_text(nic, pool), |mac| mac.to_string()),
    );
    if nic.places.added {
        line(
            "origin",
            "added, as KubeVirt does where no interface is written: --default-binding".into(),
        );
    }
    if nic.queue_pairs.get() > 1 && nic.mode.sriov().is_none() {
        line("queues", format!("{} pairs", nic.queue_pairs));
    }
    if let Some(hostname) = nic.hostname.as_ref().filter(|_| nic.tells_names()) {
        line("hostname", hostname.clone());
    }
    match &nic.mode {
        NicMode::Masquerade(plan) => masquerade_text(plan, &mut line),
        NicMode::Bridge(segment) => segment_text(segment, &mut line),
        NicMode::Pod(plan) => {
            line("mode", format!("bridge: {}", attachment_text(&plan.attachment, None)));
            dhcp_text(&plan.dhcp, &mut line);
        }
        NicMode::Layer2(plan) => layer2_text(plan, &mut line),
        NicMode::Sriov(plan) => sriov_text(plan, &mut line),
    }
    text
}

/// Describes the source of the MAC of a NIC whose manifest has none.
fn mac_text(nic: &NicPlan, pool: Option<MacRange>) -> String {
    match pool {
        _ if !nic.has_own_mac() => "that of the lower link".into(),
        _ if nic.mode.derives_mac() => "follows from the address".into(),
        Some(range) => format!("one of {range}, kept for the VM"),
        None => "one of the pool, kept for the VM".into(),
    }
}

fn masquerade_text(plan: &MasqueradePlan, line: &mut impl FnMut(&str, String)) {
    line("mode", "masquerade".into());
    let text = |family: &str, network: Option<IpNet>| match (plan.network, network) {
        (GuestNetwork::OfPod, _) => format!("the pod's address if the pod has {family}"),
        (GuestNetwork::Private(_), Some(network)) => network.to_string(),
        (GuestNetwork::Private(_), None) => format!("the usual network if the pod has {family}"),
    };
    let network = plan.network.private();
    line("IPv4", text("IPv4", network.ipv4.map(IpNet::V4)));
    line("IPv6", text("IPv6", network.ipv6.map(IpNet::V6)));
    let every = plan.every_port.then(|| "every one".to_owned());
    let ports: Vec<String> = every
        .into_iter()
        .chain(plan.forwards.iter().map(ToString::to_string))
        .collect();
    line(
        "ports",
        if ports.is_empty() {
            "none".into()
        } else {
            ports.join(" ")
        },
    );
    if !plan.kept.is_empty() {
        line("kept", kept(plan).join(" "));
    }
    dhcp_text(&plan.dhcp, line);
}

/// The ports that the pod keeps, as text.
fn kept(plan: &MasqueradePlan) -> Vec<String> {
    plan.kept.iter().map(ToString::to_string).collect()
}

fn dhcp_text(dhcp: &DhcpOptions, line: &mut impl FnMut(&str, String)) {
    let options: Vec<String> = dhcp.encoded().iter().map(|(code, _)| code.to_string()).collect();
    if !options.is_empty() {
        line("DHCP", format!("also options {}", options.join(", ")));
    }
}

fn segment_text(segment: &Segment, line: &mut impl FnMut(&str, String)) {
    line(
        "mode",
        format!(
            "bridge: {}",
            attachment_text(&segment.attachment, segment.rules.as_ref())
        ),
    );
    if let Some(mtu) = segment.mtu {
        line("MTU", mtu.to_string());
    }
    ipam_text(&segment.ipam, line);
    if let Some(dns) = segment.dns.as_ref().filter(|_| segment.ipam.is_told()) {
        line("DNS", dns_text(dns));
    }
}

fn layer2_text(plan: &Layer2Plan, line: &mut impl FnMut(&str, String)) {
    let Layer2Plan {
        network, tunnel, ipam, ..
    } = plan;
    let role = if network.primary { "primary" } else { "secondary" };
    line("mode", format!("layer2: the {role} network {}", network.network));
    line(
        "VNI",
        tunnel
            .vni
            .map_or_else(|| "not given: --vni".into(), |vni| vni.to_string()),
    );
    line("VTEP", vtep_text(tunnel.vtep));
    let join = |all: Vec<String>| all.join(", ");
    let subnets: Vec<String> = network.subnets().map(|subnet| subnet.to_string()).collect();
    if !subnets.is_empty() {
        line("subnets", join(subnets));
    }
    if !network.gateways.is_empty() {
        line(
            "gateway",
            join(network.gateways.iter().map(ToString::to_string).collect()),
        );
    }
    if let Some(mtu) = network.mtu {
        line("MTU", mtu.to_string());
    }
    ipam_text(ipam, line);
    if !plan.forwards.is_empty() {
        line("ports", join(plan.forwards.iter().map(ToString::to_string).collect()));
    }
    for service in &plan.services {
        let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
        let (transport, port) = (service.transport, service.port);
        let endpoints = match service.endpoints.len() {
            1 => "1 endpoint".to_owned(),
            n => format!("{n} endpoints"),
        };
        line(
            "service",
            format!("{} {transport} {port}, {endpoints}", addresses.join(" ")),
        );
    }
    dhcp_text(&plan.dhcp, line);
}

fn sriov_text(plan: &SriovPlan, line: &mut impl FnMut(&str, String)) {
    let network = &plan.network;
    let source = match (&plan.device, &network.resource) {
        (Some(device), _) => format!("the VF {device}"),
        (None, Some(resource)) => format!("a VF of {resource}, kept for the VM"),
        (None, None) => "a VF".to_owned(),
    };
    line("mode", format!("sriov: {source}"));
    // The names of the fields are words, and no setting has fields of its own.
    if let Ok(Value::Object(fields)) = serde_json::to_value(network) {
        let settings = fields
            .iter()
            .filter(|(name, _)| *name != "resource" && *name != "device");
        for (name, value) in settings {
            line(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
}

fn vtep_text(vtep: VtepSpec) -> String {
    let VtepSpec { address, port } = vtep;
    match address {
        UnderlaySpec::Address(address) => SocketAddr::new(address, port).to_string(),
        UnderlaySpec::DefaultRoute(None) => format!("the default route's address, port {port}"),
        UnderlaySpec::DefaultRoute(Some(Underlay::Ipv4)) => format!("the IPv4 default route's address, port {port}"),
        UnderlaySpec::DefaultRoute(Some(Underlay::Ipv6)) => format!("the IPv6 default route's address, port {port}"),
    }
}

fn ipam_text(ipam: &Ipam, line: &mut impl FnMut(&str, String)) {
    match ipam {
        Ipam::None => {}
        Ipam::Dhcp => line("address", "from the segment's DHCP server".into()),
        Ipam::Static { addresses, .. } => {
            let addresses: Vec<String> = addresses.iter().map(|a| a.address.to_string()).collect();
            line("address", addresses.join(", "));
        }
        Ipam::HostLocal(ranges) | Ipam::Whereabouts(ranges) => {
            let set = |set: &Vec<Range>| {
                let ranges: Vec<String> = set.iter().map(|r| format!("{} to {}", r.first, r.last)).collect();
                format!("one of {}", ranges.join(" or "))
            };
            let named = ranges.addresses.iter().map(|named| named.address.to_string());
            let sets: Vec<String> = ranges.ranges.iter().map(set).chain(named).collect();
            line("address", sets.join(", and "));
        }
    }
}

fn dns_text(dns: &Dns) -> String {
    let servers: Vec<String> = dns.nameservers.iter().map(ToString::to_string).collect();
    let parts = [
        ("", servers.join(" ")),
        ("domain ", dns.domain.clone().unwrap_or_default()),
        ("search ", dns.search.join(" ")),
    ];
    let given = parts.iter().filter(|(_, value)| !value.is_empty());
    given
        .map(|(name, value)| format!("{name}{value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn attachment_text(attachment: &AttachmentSpec, rules: Option<&PortRules>) -> String {
    let mode = |mode: &dyn std::fmt::Debug| format!("{mode:?}").to_lowercase();
    let stacked = |kind: &str, lower: &str, mode: Option<String>| match mode {
        Some(mode) => format!("{kind} on {lower}, mode {mode}"),
        None => format!("{kind} on {lower}"),
    };
    match attachment {
        AttachmentSpec::Bridge(port) => bridge_text(port, rules),
        AttachmentSpec::Macvtap(stack) => stacked("macvtap", &stack.lower, stack.mode.as_ref().map(|m| mode(m))),
        AttachmentSpec::Ipvtap(stack) => stacked("ipvtap", &stack.lower, stack.mode.as_ref().map(|m| mode(m))),
        AttachmentSpec::Tap { name } => format!("the TAP {name}"),
        AttachmentSpec::Descriptors => "open queues".into(),
        AttachmentSpec::PodInterface { interface } => {
            format!("in place of {interface}, with its MAC and addresses")
        }
    }
}

fn bridge_text(port: &BridgePortSpec, rules: Option<&PortRules>) -> String {
    let rules = rules.cloned().unwrap_or_default();
    let mut text = format!("a TAP in {}", port.bridge);
    let mut add = |what: &str| {
        text.push_str(", ");
        text.push_str(what);
    };
    if let Some(vlan) = rules.vlan {
        add(&format!("VLAN {vlan}"));
    }
    if !rules.trunk.is_empty() {
        let ranges = rules.trunk.iter().map(|r| match (r.start(), r.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        let ranges: Vec<String> = ranges.collect();
        add(&format!("trunk {}", ranges.join(",")));
    }
    for (on, what) in [
        (rules.mac_spoof_check, "MAC spoof check"),
        (rules.preserve_default_vlan, "default VLAN kept"),
        (port.hairpin, "hairpin"),
        (port.promiscuous, "promiscuous"),
        (port.isolated, "isolated"),
    ] {
        if on {
            add(what);
        }
    }
    text
}

/// The output of `--json`: plan (null if there is none), errors and warnings.
///
/// # Errors
/// Cannot occur in practice, because every value is plain data.
pub fn json(checked: Result<&Checked, &Rejected>) -> serde_json::Result<String> {
    let (plan, errors, warnings) = match checked {
        Ok(checked) => (plan_json(&checked.plan)?, &[][..], &checked.warnings),
        Err(rejected) => (Value::Null, &rejected.errors[..], &rejected.warnings),
    };
    serde_json::to_string_pretty(&json!({
        "plan": plan,
        "errors": errors.iter().map(ProblemJson::of).collect::<Vec<_>>(),
        "warnings": warnings.iter().map(ProblemJson::of).collect::<Vec<_>>(),
    }))
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    file: &'a str,
    line: usize,
    path: &'a str,
    message: &'a str,
}

impl<'a> ProblemJson<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self {
            file: &problem.spot.file,
            line: problem.spot.line,
            path: &problem.spot.path,
            message: &problem.message,
        }
    }
}

fn plan_json(plan: &VmPlan) -> serde_json::Result<Value> {
    let nics: serde_json::Result<Vec<Value>> = plan.nics.iter().map(nic_json).collect();
    Ok(json!({ "name": plan.name, "namespace": plan.namespace, "interfaces": nics? }))
}

fn nic_json(nic: &NicPlan) -> serde_json::Result<Value> {
    let (mode, details) = match &nic.mode {
        NicMode::Masquerade(plan) => ("masquerade", masquerade_json(plan)),
        NicMode::Bridge(segment) => ("bridge", serde_json::to_value(segment)?),
        NicMode::Pod(plan) => {
            let mut details = serde_json::to_value(&plan.attachment)?;
            details["dhcpOptions"] = json!(plan.dhcp.encoded());
            ("bridge", details)
        }
        NicMode::Layer2(plan) => ("layer2", layer2_json(plan)?),
        NicMode::Sriov(plan) => {
            let mut details = serde_json::to_value(&plan.network)?;
            details["device"] = json!(plan.device);
            ("sriov", details)
        }
    };
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("name", json!(nic.name));
    set("network", json!(nic.network));
    set("socket", json!(nic.mode.sriov().is_none().then_some(&nic.socket)));
    set("mac", json!(nic.mac.map(|mac| mac.to_string())));
    set("queuePairs", json!(nic.queue_pairs));
    set("pciAddress", json!(nic.device.pci_address));
    set("bootOrder", json!(nic.device.boot_order));
    set("acpiIndex", json!(nic.device.acpi_index));
    set("hostname", json!(nic.hostname));
    set("added", json!(nic.places.added.then_some(true)));
    set("mode", json!(mode));
    set(mode, details);
    object.retain(|_, value| !value.is_null());
    Ok(Value::Object(object))
}

fn layer2_json(plan: &Layer2Plan) -> serde_json::Result<Value> {
    let mut details = serde_json::to_value(&plan.network)?;
    let forwards: Vec<String> = plan.forwards.iter().map(ToString::to_string).collect();
    details["vni"] = json!(plan.tunnel.vni.map(|vni| vni.to_string()));
    details["vtep"] = json!(vtep_text(plan.tunnel.vtep));
    details["peers"] = json!(plan.tunnel.peers);
    details["ipam"] = serde_json::to_value(&plan.ipam)?;
    details["forwards"] = json!(forwards);
    details["dhcpOptions"] = json!(plan.dhcp.encoded());
    Ok(details)
}

fn masquerade_json(plan: &MasqueradePlan) -> Value {
    let forwards: Vec<String> = plan.forwards.iter().map(ToString::to_string).collect();
    let network = plan.network.private();
    json!({
        "vmNetworkCIDR": network.ipv4,
        "vmIPv6NetworkCIDR": network.ipv6,
        "addressOfPod": plan.network == GuestNetwork::OfPod,
        "forwards": forwards,
        "everyPort": plan.every_port,
        "keptPorts": kept(plan),
        "dhcpOptions": plan.dhcp.encoded(),
    })
}
