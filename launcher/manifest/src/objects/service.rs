//! Service: ports of nodes that are forwarded to a VM, and virtual addresses that a VM reaches.

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
use std::num::NonZeroU32;

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Position in the manifest.
    pub spot: Spot,
    /// Name of the Service.
    pub name: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// Labels of the selected pods. Empty if labels do not select the pods.
    pub selector: BTreeMap<String, String>,
    /// True if nodes listen on ports for the Service.
    pub on_nodes: bool,
    /// Address on which nodes listen, if the Service has a single family.
    pub bind: Option<IpAddr>,
    /// Its virtual addresses; empty if it has none.
    pub cluster_ips: Vec<IpAddr>,
    /// Seconds for which a client keeps its endpoint; `None` without affinity.
    pub affinity_secs: Option<NonZeroU32>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Errors of the Service. They concern only the VM that it selects.
    pub problems: Report,
}

/// An entry of `spec.ports[]`
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Position in the manifest.
    pub spot: Spot,
    /// `name`; empty for the only port.
    pub name: String,
    /// TCP or UDP.
    pub transport: Transport,
    /// `port`
    pub port: u16,
    /// `nodePort`
    pub node_port: Option<u16>,
    /// Port of the guest.
    pub target: TargetPort,
}

/// The guest's port that a port of a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The port is given by its number.
    Number(u16),
    /// The port is given by its name in the interface.
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
        cluster_ips: spec.as_ref().map(cluster_ips).unwrap_or_default(),
        affinity_secs: spec.as_ref().and_then(affinity),
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

/// `sessionAffinity`: seconds for which a client keeps its endpoint.
fn affinity(spec: &Object<'_>) -> Option<NonZeroU32> {
    /// The API's default.
    const DEFAULT: NonZeroU32 = NonZeroU32::new(10_800).unwrap();
    const SECONDS: std::ops::RangeInclusive<i64> = 1..=86_400;
    let is_by_client = spec
        .get("sessionAffinity")
        .and_then(|item| item.choice(&[("None", false), ("ClientIP", true)]));
    let config = spec.object("sessionAffinityConfig", &table::SERVICE_AFFINITY);
    let client = config.and_then(|config| config.object("clientIP", &table::SERVICE_CLIENT_IP));
    let secs: Option<u32> = client.and_then(|client| client.integer("timeoutSeconds", SECONDS));
    let secs = secs.and_then(NonZeroU32::new).unwrap_or(DEFAULT);
    is_by_client.unwrap_or(false).then_some(secs)
}

/// `clusterIPs`, or `clusterIP` alone. A headless Service has none.
fn cluster_ips(spec: &Object<'_>) -> Vec<IpAddr> {
    const NONE: [&str; 2] = ["None", ""];
    let several = spec.get("clusterIPs").map(|item| item.items()).unwrap_or_default();
    let given = if several.is_empty() {
        spec.get("clusterIP").into_iter().collect()
    } else {
        several
    };
    let address = |text: &str| {
        text.parse()
            .map_err(|_| "give an address such as 10.96.0.10, or None".to_owned())
    };
    let is_given = |item: &Item<'_>| item.scalar().is_none_or(|scalar| !NONE.contains(&&*scalar.text));
    let given = given.into_iter().filter(is_given);
    given.filter_map(|item| item.parsed(address)).collect()
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
            item.error("two families contradict ipFamilyPolicy SingleStack: keep one of them");
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
        let mut name = String::new();
        match object.get("name") {
            None if items.len() > 1 => object.error("name is missing: each of several ports needs one"),
            None => {}
            Some(item) => {
                name = item.parsed(names::dns_label).unwrap_or_default();
                if !name.is_empty() && !names.insert(name.clone()) {
                    item.error("another port has the same name: give each its own");
                }
            }
        }
        ports.extend(port(item, &object, kind, name));
    }
    ports
}

/// Reads `protocol`. If nodes listen on the port, hawser must serve it. The cluster handles other Services.
fn transport(object: &Object<'_>, kind: Type) -> Option<Transport> {
    let on_nodes = matches!(kind, Type::NodePort | Type::LoadBalancer);
    match object.get("protocol") {
        Some(item) if !on_nodes && item.scalar().is_some_and(|scalar| scalar.text == "SCTP") => {
            item.warn("not served: hawser carries TCP and UDP");
            None
        }
        _ => ports::protocol(object),
    }
}

fn port(item: &Item<'_>, object: &Object<'_>, kind: Type, name: String) -> Option<ServicePort> {
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
        name,
        port: port?,
        node_port: object.integer("nodePort", 0..=*PORTS.end()).filter(|port| *port != 0),
        transport: transport?,
        target: target?,
    })
}
