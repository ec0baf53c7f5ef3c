//! Reads EndpointSlices: the endpoints of a Service.

use super::fields::network as table;
use super::metadata::Metadata;
use super::reader::Object;
use super::report::Report;
use hawser_config::Transport;
use std::net::IpAddr;

/// The label that names the Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The same label on slices that OVN-Kubernetes creates for a primary network.
const MIRRORED: &str = "k8s.ovn.org/service-name";
/// The annotation with the name of the primary network.
const NETWORK: &str = "k8s.ovn.org/endpointslice-network";

/// An EndpointSlice of a Service.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    /// Namespace of the slice.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Origin of the addresses.
    pub origin: Origin,
    /// Endpoints of the slice.
    pub endpoints: Vec<Endpoint>,
    /// Ports of the slice.
    pub ports: Vec<EndpointPort>,
    /// Errors of the slice. They concern only VMs that use the Service.
    pub problems: Report,
}

/// The origin of a slice's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Addresses on the cluster's default network, or addresses that the slice's author has chosen.
    Plain,
    /// Addresses on the primary network of this name, or on any primary network if there is no name.
    Mirrored(Option<String>),
}

/// `endpoints[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`
    pub addresses: Vec<IpAddr>,
    /// State of the endpoint.
    pub state: EndpointState,
}

/// State of an endpoint, derived from its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// The endpoint accepts connections.
    Ready,
    /// The endpoint accepts connections, but is about to end.
    Terminating,
    /// The endpoint accepts no connections.
    Off,
}

/// `ports[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`; empty for the only port.
    pub name: String,
    /// `protocol`
    pub transport: Transport,
    /// `port`
    pub port: u16,
}

const PORTS: std::ops::RangeInclusive<i64> = 1..=65_535;

/// Reads `kind: EndpointSlice`; `None` if no label names a Service, or the slice has no
/// addresses.
pub fn read(object: &Object<'_>, namespace: &str) -> Option<EndpointSlice> {
    let metadata = Metadata::read(object, namespace);
    let mirrored = metadata.labels.get(MIRRORED);
    let origin = match mirrored {
        Some(_) => Origin::Mirrored(metadata.annotations.get(NETWORK).cloned()),
        None => Origin::Plain,
    };
    let service = mirrored.or_else(|| metadata.labels.get(SERVICE))?.clone();
    let kind = object.need("addressType", "give IPv4 or IPv6")?;
    let is_ipv4 = kind.choice(&[("IPv4", Some(true)), ("IPv6", Some(false)), ("FQDN", None)])??;
    let endpoints = object.list("endpoints");
    let endpoints = endpoints.iter().filter_map(|item| {
        let object = item.object(&table::ENDPOINT)?;
        let addresses = object.list("addresses");
        let addresses = addresses
            .iter()
            .filter_map(|item| item.parsed(|text| address(text, is_ipv4)));
        Some(Endpoint {
            addresses: addresses.collect(),
            state: state(&object),
        })
    });
    let endpoints = endpoints.collect();
    let ports = object.list("ports");
    let ports = ports.iter().filter_map(|item| {
        let object = item.object(&table::ENDPOINT_PORT)?;
        let transport = match object.get("protocol") {
            None => Some(Transport::Tcp),
            Some(item) => item.choice(&[
                ("TCP", Some(Transport::Tcp)),
                ("UDP", Some(Transport::Udp)),
                ("SCTP", None),
            ])?,
        };
        Some(EndpointPort {
            name: object
                .get("name")
                .and_then(|item| Some(item.scalar()?.text.clone()))
                .unwrap_or_default(),
            transport: transport?,
            port: object.integer("port", PORTS)?,
        })
    });
    Some(EndpointSlice {
        namespace: metadata.namespace,
        service,
        origin,
        endpoints,
        ports: ports.collect(),
        problems: object.apart(),
    })
}

/// An address that the API accepts for an endpoint (`ValidateEndpointIP` in the API server's validation).
fn address(text: &str, is_ipv4: bool) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| "give an address such as 10.100.0.11".to_owned())?;
    if address.is_ipv4() != is_ipv4 {
        return Err("it is not of the family of addressType".into());
    }
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local {
        return Err("an endpoint cannot be at a loopback, link-local or multicast address".into());
    }
    Ok(address)
}

fn state(endpoint: &Object<'_>) -> EndpointState {
    let Some(conditions) = endpoint.object("conditions", &table::ENDPOINT_CONDITIONS) else {
        return EndpointState::Ready;
    };
    let is = |name| conditions.boolean(name);
    let ready = is("ready").unwrap_or(true);
    let serving = is("serving").unwrap_or(ready);
    let terminating = is("terminating").unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => EndpointState::Ready,
        (false, true) => EndpointState::Terminating,
        (false, false) => EndpointState::Off,
    }
}
