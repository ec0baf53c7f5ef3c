//! Service: ports of nodes that lead to a VM.

use super::fields::network as table;
use super::ports;
use super::reader::{Item, Object};
use super::report::Spot;
use super::vm::{DEFAULT_NAMESPACE, Metadata, texts};
use hawser_backend::config::Transport;
use std::collections::BTreeMap;

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Where it is.
    pub spot: Spot,
    /// Its namespace.
    pub namespace: String,
    /// Labels of what it leads to.
    pub selector: BTreeMap<String, String>,
    /// True if nodes listen for it.
    pub on_nodes: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// `spec.ports[]`
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Where it is.
    pub spot: Spot,
    /// TCP or UDP.
    pub transport: Transport,
    /// `nodePort`
    pub node_port: Option<u16>,
    /// The guest's port.
    pub target: TargetPort,
}

/// The guest's port of a Service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By its number.
    Number(u16),
    /// By the name the interface has for it.
    Name(String),
}

const PORTS: std::ops::RangeInclusive<i64> = 1..=65_535;

/// Reads `kind: Service`.
pub fn read(object: &Object<'_>) -> Option<Service> {
    let metadata = Metadata::read(object);
    let spec = object
        .need("spec", "give selector and ports")?
        .object(&table::SERVICE_SPEC)?;
    let kinds = [
        ("ClusterIP", false),
        ("NodePort", true),
        ("LoadBalancer", true),
        ("ExternalName", false),
    ];
    let on_nodes = match spec.get("type") {
        Some(item) => item.choice(&kinds)?,
        None => false,
    };
    Some(Service {
        spot: object.spot().clone(),
        namespace: metadata.namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        selector: texts(spec.get("selector")),
        on_nodes,
        ports: spec.list("ports").iter().filter_map(port).collect(),
    })
}

fn port(item: &Item<'_>) -> Option<ServicePort> {
    let object = item.object(&table::SERVICE_PORT)?;
    let transport = ports::protocol(&object);
    let port: Option<u16> = object
        .need("port", "give its number")
        .and_then(|item| item.integer(PORTS));
    let target = match object.get("targetPort") {
        None => port.map(TargetPort::Number),
        Some(target) if target.scalar().is_some_and(|scalar| scalar.is_text()) => {
            target.text().map(|name| TargetPort::Name(name.to_owned()))
        }
        Some(target) => target.integer(PORTS).map(TargetPort::Number),
    };
    Some(ServicePort {
        spot: item.spot().clone(),
        node_port: object.integer("nodePort", PORTS),
        transport: transport?,
        target: target?,
    })
}
