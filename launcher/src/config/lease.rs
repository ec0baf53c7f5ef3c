//! Converts the addresses of a manifest to leases of hawser's DHCP servers.

use super::ConfigError;
use crate::attachment::DHCP_SERVER;
use hawser_config::{Lease6Config, LeaseConfig, NameConfig};
use hawser_manifest::nic::{BridgeSpec, Route, StaticAddress};
use hawser_packet::MacAddr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr};

/// The leases of both families.
type Leases = (Option<LeaseConfig>, Option<Lease6Config>);

/// The leases of a guest with fixed addresses. `None` for each family without one.
///
/// # Errors
/// The guest has addresses but no MAC to which they can be leased.
pub(super) fn fixed(bridge: &BridgeSpec, mac: Option<MacAddr>, names: &NameConfig) -> Result<Leases, ConfigError> {
    let client = || mac.ok_or(ConfigError::AddressWithoutMac);
    let lease6 = match ipv6(&bridge.addresses) {
        Some(address) => Some(Lease6Config {
            client: client()?,
            address,
            names: names.clone(),
        }),
        None => None,
    };
    let lease = match ipv4(&bridge.addresses, &bridge.routes) {
        Some((address, router, routes)) => Some(LeaseConfig {
            client: client()?,
            address,
            server: DHCP_SERVER,
            router,
            routes,
            names: names.clone(),
        }),
        None => None,
    };
    Ok((lease, lease6))
}

/// The DHCPv6 lease of fixed addresses, which is the first IPv6 address.
fn ipv6(addresses: &[StaticAddress]) -> Option<Ipv6Net> {
    addresses.iter().find_map(|given| match given.address {
        IpNet::V6(address) => Some(address),
        IpNet::V4(_) => None,
    })
}

type StaticIpv4 = (Ipv4Net, Option<Ipv4Addr>, Vec<(Ipv4Net, Ipv4Addr)>);

/// The fixed address in the form that DHCPv4 can hand out: the first IPv4 address, its router, and the IPv4 routes with
/// the default route last (RFC 3442 lets a client ignore the router option if there are routes). A gateway becomes a
/// router only through a default route, as in a pod (`ConfigureIface` of the CNI plugins).
fn ipv4(addresses: &[StaticAddress], routes: &[Route]) -> Option<StaticIpv4> {
    let ipv4 = |given: &StaticAddress| match (given.address, given.gateway) {
        (IpNet::V4(address), Some(IpAddr::V4(gateway))) => Some((address, Some(gateway))),
        (IpNet::V4(address), _) => Some((address, None)),
        _ => None,
    };
    let (address, gateway) = addresses.iter().find_map(ipv4)?;
    let route = |route: &Route| match (route.destination, route.via) {
        (IpNet::V4(net), Some(IpAddr::V4(via))) => Some((net, via)),
        (IpNet::V4(net), None) => Some((net, gateway.unwrap_or(Ipv4Addr::UNSPECIFIED))),
        _ => None,
    };
    let mut routes: Vec<(Ipv4Net, Ipv4Addr)> = routes.iter().filter_map(route).collect();
    let is_default = |net: &Ipv4Net| net.prefix_len() == 0;
    routes.sort_by_key(|(net, _)| is_default(net));
    let default = routes.iter().find(|(net, _)| is_default(net)).map(|(_, via)| *via);
    Some((address, default.filter(|via| !via.is_unspecified()), routes))
}
