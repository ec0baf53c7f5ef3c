//! Finds the address of the local end of the tunnel.
//!
//! It is given by an option, or else it is the source address of the default route. In that case the default routes
//! must be unambiguous: each family that the network needs has one, and all are on the same link. OVN-Kubernetes
//! requires the same of a node.

use super::error::VtepError;
use super::peers::Placed;
use crate::host::Host;
use hawser_config::Families;
use hawser_host::system::DefaultRoute;
use hawser_manifest::nic::{Underlay, UnderlaySpec};
use std::net::IpAddr;

/// The address of the local end of the tunnel to `peers`, for a network whose gateway serves `gateways`.
pub(super) fn address(
    spec: UnderlaySpec,
    gateways: Families,
    peers: &[Placed],
    host: &Host,
) -> Result<IpAddr, VtepError> {
    let asked = match spec {
        UnderlaySpec::Address(address) => return Ok(address),
        UnderlaySpec::DefaultRoute(family) => family,
    };
    let underlay = asked.or_else(|| family_of(peers));
    let needed = needed(underlay, gateways, host);
    let [ipv4, ipv6] = &host.default_routes;
    match (needed.ipv4, needed.ipv6) {
        (true, true) => {
            let (ipv4, ipv6) = both(ipv4.as_ref(), ipv6.as_ref())?;
            Ok(match underlay {
                Some(Underlay::Ipv6) => ipv6.source,
                Some(Underlay::Ipv4) | None => ipv4.source,
            })
        }
        (true, false) => one(ipv4.as_ref(), ipv6.as_ref(), ["IPv4", "IPv6"]),
        (false, true) => one(ipv6.as_ref(), ipv4.as_ref(), ["IPv6", "IPv4"]),
        (false, false) => Err(VtepError::NoRoutes),
    }
}

/// The family of all peers, if they have the same one.
fn family_of(peers: &[Placed]) -> Option<Underlay> {
    let first = peers.first()?.peer.vtep;
    let is_one = peers.iter().all(|placed| placed.peer.vtep.is_ipv4() == first.is_ipv4());
    let family = if first.is_ipv4() {
        Underlay::Ipv4
    } else {
        Underlay::Ipv6
    };
    is_one.then_some(family)
}

/// Families whose default routes matter: those of the gateway and of the tunnel. If there are none, all families that
/// have a default route.
fn needed(underlay: Option<Underlay>, gateways: Families, host: &Host) -> Families {
    let needed = Families {
        ipv4: gateways.ipv4 || underlay == Some(Underlay::Ipv4),
        ipv6: gateways.ipv6 || underlay == Some(Underlay::Ipv6),
    };
    if needed.ipv4 || needed.ipv6 {
        return needed;
    }
    let [ipv4, ipv6] = host.default_routes.each_ref().map(Option::is_some);
    Families { ipv4, ipv6 }
}

/// Returns both routes, which must be on the same link.
fn both<'a>(
    ipv4: Option<&'a DefaultRoute>,
    ipv6: Option<&'a DefaultRoute>,
) -> Result<(&'a DefaultRoute, &'a DefaultRoute), VtepError> {
    match (ipv4, ipv6) {
        (Some(ipv4), Some(ipv6)) if ipv4.link == ipv6.link => Ok((ipv4, ipv6)),
        (Some(ipv4), Some(ipv6)) => Err(VtepError::TwoLinks {
            ipv4: Box::new(ipv4.clone()),
            ipv6: Box::new(ipv6.clone()),
        }),
        (Some(ipv4), None) => Err(missing(["IPv6", "IPv4"], ipv4)),
        (None, Some(ipv6)) => Err(missing(["IPv4", "IPv6"], ipv6)),
        (None, None) => Err(VtepError::NoRoutes),
    }
}

/// The source address of the only route that is needed. `names` are its family and the other family.
fn one(
    needed: Option<&DefaultRoute>,
    other: Option<&DefaultRoute>,
    names: [&'static str; 2],
) -> Result<IpAddr, VtepError> {
    match (needed, other) {
        (Some(route), _) => Ok(route.source),
        (None, Some(other)) => Err(missing(names, other)),
        (None, None) => Err(VtepError::NoRoutes),
    }
}

fn missing([family, other]: [&'static str; 2], route: &DefaultRoute) -> VtepError {
    VtepError::NoRoute {
        family,
        other,
        route: Box::new(route.clone()),
    }
}
