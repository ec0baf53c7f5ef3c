//! Service: ports of nodes that are forwarded to a VM.

use super::fields::network as table;
use super::metadata::{Metadata, texts};
use super::names;
use super::ports;
use super::reader::{Item, Object};
use super::report::{Report, Spot};
use hawser_config::Transport;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Position in the manifest.
    pub spot: Spot,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Labels of its pods; empty if labels do not select them.
    pub selector: BTreeMap<String, String>,
    /// True if nodes listen for it.
    pub on_nodes: bool,
    /// The address on which nodes listen, if it has one family.
    pub bind: Option<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its errors. They concern only the VM that it selects.
    pub problems: Report,
}

/// `spec.ports[]`
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Position in the manifest.
    pub spot: Spot,
    /// TCP or UDP.
    pub transport: Transport,
    /// `nodePort`
    pub node_port: Option<u16>,
    /// The guest's port.
    pub target: TargetPort,
}

/// The guest's port for a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By its number.
    Number(u16),
    /// By its name in the interface.
    Name(String),
}

/// `type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

const PORTS: std::ops::RangeInclusive<i64> = 1..=65_535;

/// Reads `kind: Service`.
pub fn read(object: &Object<'_>, namespace: &str) -> Service {
    let metadata = Metadata::read(object, namespace);
    let name = metadata.need_name(object, "the Service");
    let spec = object.need("spec", "give selector and ports");
    let spec = spec.and_then(|spec| spec.object(&table::SERVICE_SPEC));
    let kind = spec.as_ref().map_or(Type::ClusterIp, kind);
    if let Some(spec) = &spec {
        source_ranges(spec, kind);
        affinity(spec);
    }
    // An ExternalName has no pods, and its selector is ignored.
    let selects = kind != Type::ExternalName;
    Service {
        spot: object.spot().clone(),
        name,
        namespace: metadata.namespace,
        selector: texts(spec.as_ref().and_then(|spec| spec.get("selector")).filter(|_| selects)),
        on_nodes: matches!(kind, Type::NodePort | Type::LoadBalancer),
        bind: spec.as_ref().and_then(bind),
        ports: spec.as_ref().map(|spec| ports(spec, kind)).unwrap_or_default(),
        problems: object.apart(),
    }
}

fn kind(spec: &Object<'_>) -> Type {
    let kinds = [
        ("ClusterIP", Type::ClusterIp),
        ("NodePort", Type::NodePort),
        ("LoadBalancer", Type::LoadBalancer),
        ("ExternalName", Type::ExternalName),
    ];
    let item = spec.get("type");
    item.and_then(|item| item.choice(&kinds)).unwrap_or(Type::ClusterIp)
}

/// Checks the clients that may use the load balancer. The nodes' own ports are open to every client, as in the cluster,
/// where only traffic to the balancer's address is filtered.
fn source_ranges(spec: &Object<'_>, kind: Type) {
    let Some(item) = spec.get("loadBalancerSourceRanges") else {
        return;
    };
    let network = |text: &str| {
        text.trim()
            .parse::<IpNet>()
            .map_err(|_| "give a network such as 192.0.2.0/24".to_owned())
    };
    let ranges = item.items();
    for range in &ranges {
        range.parsed(network);
    }
    if kind != Type::LoadBalancer {
        item.error("only a Service of type LoadBalancer has clients of a load balancer: leave it out");
    } else if !ranges.is_empty() {
        item.warn(
            "not enforced: it concerns clients of the load balancer, but hawser listens on the \
             nodePort, which is open to all",
        );
    }
}

/// The value has no effect, because every client reaches the same VM.
fn affinity(spec: &Object<'_>) {
    if let Some(item) = spec.get("sessionAffinity") {
        item.choice(&[("None", ()), ("ClientIP", ())]);
    }
}

/// The wildcard address of a Service with one family.
fn bind(spec: &Object<'_>) -> Option<IpAddr> {
    let policy = spec.get("ipFamilyPolicy").and_then(|item| {
        item.choice(&[
            ("SingleStack", true),
            ("PreferDualStack", false),
            ("RequireDualStack", false),
        ])
    });
    let item = spec.get("ipFamilies")?;
    let families: Vec<IpAddr> = item
        .items()
        .iter()
        .filter_map(|item| {
            item.choice(&[
                ("IPv4", Ipv4Addr::UNSPECIFIED.into()),
                ("IPv6", Ipv6Addr::UNSPECIFIED.into()),
            ])
        })
        .collect();
    match families[..] {
        [family] if policy != Some(false) => return Some(family),
        [first, second] if first == second => item.error("a family is in the list twice: name each once"),
        [_, _] if policy == Some(true) => {
            item.error("two families contradict ipFamilyPolicy SingleStack: leave one");
        }
        [_, _, _, ..] => item.error("give IPv4, IPv6 or both"),
        _ => {}
    }
    None
}

fn ports(spec: &Object<'_>, kind: Type) -> Vec<ServicePort> {
    let items = spec.list("ports");
    let mut names = BTreeSet::new();
    let mut ports = Vec::new();
    for item in &items {
        let Some(object) = item.object(&table::SERVICE_PORT) else {
            continue;
        };
        match object.get("name") {
            None if items.len() > 1 => object.error("name is missing: each of several ports needs one"),
            None => {}
            Some(item) => {
                let name = item.parsed(names::dns_label);
                if name.is_some_and(|name| !names.insert(name)) {
                    item.error("another port has the same name: give each its own");
                }
            }
        }
        ports.extend(port(item, &object, kind));
    }
    ports
}

/// `protocol`. If nodes listen on the port, hawser has to serve it; the cluster handles other
/// Services.
fn transport(object: &Object<'_>, kind: Type) -> Option<Transport> {
    let on_nodes = matches!(kind, Type::NodePort | Type::LoadBalancer);
    match object.get("protocol") {
        Some(item) if !on_nodes && item.scalar().is_some_and(|scalar| scalar.text == "SCTP") => {
            item.warn("not served: masquerade carries TCP and UDP");
            None
        }
        _ => ports::protocol(object),
    }
}

fn port(item: &Item<'_>, object: &Object<'_>, kind: Type) -> Option<ServicePort> {
    let transport = transport(object, kind);
    let port: Option<u16> = object
        .need("port", "give its number")
        .and_then(|item| item.integer(PORTS));
    let target = match object.get("targetPort") {
        None => port.map(TargetPort::Number),
        Some(target) if target.scalar().is_some_and(|scalar| scalar.is_text()) => {
            target.parsed(ports::port_name).map(TargetPort::Name)
        }
        // The API uses zero for "not given".
        Some(target) => match target.integer(0..=*PORTS.end())? {
            0 => port.map(TargetPort::Number),
            number => Some(TargetPort::Number(number)),
        },
    };
    Some(ServicePort {
        spot: item.spot().clone(),
        node_port: object.integer("nodePort", 0..=*PORTS.end()).filter(|port| *port != 0),
        transport: transport?,
        target: target?,
    })
}
