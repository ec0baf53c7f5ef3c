//! The addresses of a guest in masquerade: those of a private network, or those of an interface of the host.

use super::ConfigError;
use crate::host::Host;
use hawser_config::{GATEWAY_MAC, Ipv4Link, Ipv6Link, Neighbourhood};
use hawser_host::interfaces::Interface;
use hawser_manifest::links::{DEFAULT_IPV4, DEFAULT_IPV6, Links};
use hawser_manifest::nic::{Family, NetworkSpec, SharedAddress, SharedSpec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reason why a guest cannot share the addresses of an interface.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SharedError {
    /// The interface does not exist.
    #[error("this network namespace has no interface {0}{1}")]
    NoInterface(String, String),
    /// Neither the interface nor the default route has an address.
    #[error(
        "{0} has no address that reaches beyond its link, so the guest can have none: give {0} an address, or name another interface"
    )]
    NoAddress(String),
    /// No default route leads to an interface.
    #[error(
        "this network namespace has no default route, so its interface is not known: name the interface, or give the guest's address"
    )]
    NoRoute,
    /// A prefix length is longer than the address.
    #[error("a prefix of {0} bits is longer than the address {1}")]
    Prefix(u8, IpAddr),
    /// A network has no place for a gateway besides the guest.
    #[error("{0} is both the guest's address and the gateway's: give another gateway")]
    GatewayIsGuest(IpAddr),
}

/// Resolves the guest's addresses on this host.
pub(super) fn links(spec: &NetworkSpec, host: &Host) -> Result<Links, ConfigError> {
    match spec {
        NetworkSpec::Private { ipv4, ipv6 } => private(*ipv4, *ipv6, host),
        NetworkSpec::Shared(spec) => Ok(shared(spec, host)?),
    }
}

fn private(
    asked4: Option<Family<Ipv4Net>>,
    asked6: Option<Family<Ipv6Net>>,
    host: &Host,
) -> Result<Links, ConfigError> {
    let ipv4 = family(asked4, DEFAULT_IPV4, host.addresses.iter().any(IpAddr::is_ipv4));
    let ipv6 = family(asked6, DEFAULT_IPV6, host.addresses.iter().any(IpAddr::is_ipv6));
    if ipv4.is_none() && ipv6.is_none() {
        let asked = asked4 == Some(Family::Off) && asked6 == Some(Family::Off);
        return Err(if asked {
            ConfigError::NoFamily
        } else {
            ConfigError::NoAddress
        });
    }
    Ok(Links::new(ipv4, ipv6))
}

fn family<N>(asked: Option<Family<N>>, default: N, namespace_has_it: bool) -> Option<N> {
    match asked {
        Some(Family::On(net)) => Some(net),
        Some(Family::Off) => None,
        None => namespace_has_it.then_some(default),
    }
}

/// An address of the guest, and its router if there is one.
type Place = (IpNet, Option<IpAddr>);

fn shared(spec: &SharedSpec, host: &Host) -> Result<Links, SharedError> {
    let place = |asked: &Family<SharedAddress>, is_family: fn(&IpAddr) -> bool| match asked {
        Family::Off => Ok(None),
        Family::On(given) => place(spec.interface.as_deref(), given, is_family, host),
    };
    let ipv4 = place(&spec.ipv4, IpAddr::is_ipv4)?;
    let ipv6 = place(&spec.ipv6, IpAddr::is_ipv6)?;
    let links = Links {
        ipv4: ipv4.map(ipv4_link).transpose()?,
        ipv6: ipv6.map(ipv6_link).transpose()?,
        neighbourhood: Neighbourhood::Shared,
    };
    match (links.ipv4, links.ipv6, &spec.interface) {
        (None, None, Some(interface)) => Err(SharedError::NoAddress(interface.clone())),
        (None, None, None) => Err(SharedError::NoRoute),
        _ => Ok(links),
    }
}

/// The guest's address in one family: what was given, completed by the interface. `None` if there is no address.
fn place(
    interface: Option<&str>,
    given: &SharedAddress,
    is_family: fn(&IpAddr) -> bool,
    host: &Host,
) -> Result<Option<Place>, SharedError> {
    let interface = match interface {
        Some(name) => Some(named(name, host)?),
        None => by_route(host, is_family),
    };
    let own = interface.and_then(|interface| interface.addresses.iter().find(|net| is_family(&net.addr())));
    let Some(address) = given.address.or_else(|| own.map(IpNet::addr)) else {
        return Ok(None);
    };
    let whole = match address {
        IpAddr::V4(_) => Ipv4Net::default().max_prefix_len(),
        IpAddr::V6(_) => Ipv6Net::default().max_prefix_len(),
    };
    // A given address may lie in the interface's network.
    let around = own.filter(|own| own.contains(&address)).map(IpNet::prefix_len);
    let prefix_len = given.prefix_len.or(around).unwrap_or(whole);
    let net = IpNet::new(address, prefix_len).map_err(|_| SharedError::Prefix(prefix_len, address))?;
    let routers = interface.map(|interface| &interface.gateways[..]).unwrap_or_default();
    let router = given.gateway.or_else(|| routers.iter().copied().find(is_family));
    Ok(Some((net, router)))
}

fn named<'a>(name: &str, host: &'a Host) -> Result<&'a Interface, SharedError> {
    let found = host.interfaces.iter().find(|interface| interface.name == name);
    found.ok_or_else(|| {
        let usable = host
            .interfaces
            .iter()
            .filter(|interface| !interface.addresses.is_empty());
        let names: Vec<&str> = usable.map(|interface| &*interface.name).collect();
        let others = match &names[..] {
            [] => String::new(),
            names => format!("; it has {}", names.join(", ")),
        };
        SharedError::NoInterface(name.to_owned(), others)
    })
}

/// The interface that the default route of a family leads to.
fn by_route(host: &Host, is_family: fn(&IpAddr) -> bool) -> Option<&Interface> {
    let route = host
        .default_routes
        .iter()
        .flatten()
        .find(|route| is_family(&route.source))?;
    host.interfaces.iter().find(|interface| interface.name == route.link)
}

fn ipv4_link((net, router): Place) -> Result<Ipv4Link, SharedError> {
    /// Stands for the router of a network without one, as in KubeVirt's bridge binding. No host has this address.
    const NO_ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);
    let (IpNet::V4(net), router) = (net, router) else {
        return Err(SharedError::NoRoute);
    };
    let gateway = match router {
        Some(IpAddr::V4(router)) => router,
        _ => NO_ROUTER,
    };
    if gateway == net.addr() {
        return Err(SharedError::GatewayIsGuest(gateway.into()));
    }
    Ok(Ipv4Link {
        network: net.trunc(),
        gateway,
        guest: net.addr(),
    })
}

fn ipv6_link((net, router): Place) -> Result<Ipv6Link, SharedError> {
    let IpNet::V6(net) = net else {
        return Err(SharedError::NoRoute);
    };
    let gateway: Ipv6Addr = match router {
        Some(IpAddr::V6(router)) => router,
        _ => GATEWAY_MAC.link_local(),
    };
    if gateway == net.addr() {
        return Err(SharedError::GatewayIsGuest(gateway.into()));
    }
    Ok(Ipv6Link {
        network: net.trunc(),
        gateway,
        guest: net.addr(),
    })
}
