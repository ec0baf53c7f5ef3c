//! Configures a port of a network that spans nodes.

mod error;
mod file;
mod peers;
mod services;
mod subnets;
mod vtep;

pub(crate) use error::Layer2Error;
pub(crate) use peers::{PeerSource, PeersError};
pub(crate) use services::ServiceSource;

use super::{ConfigError, FALLBACK_MTU, MIN_IPV6_MTU, check_forwards};
use crate::host::{self, Host};
use crate::names::NameSource;
use hawser_backend::packet::MacAddr;
use hawser_backend::packet::geneve::FrameOption;
use hawser_backend::packet::geneve::mtu::{Encapsulation, Family};
use hawser_config::{
    AddressCheck, Families, Layer2Config, MacCheck, NameConfig, NetworkRole, PolicyConfig, PrimaryNetwork, Resolvers,
    mac_of_address,
};
use hawser_manifest::links::Links;
use hawser_manifest::nic::{GatewaySpec, Layer2Spec, NameSpec, NicSpec, SourceSpec};
use ipnet::Ipv6Net;
use peers::{PeerList, PeerRules};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use subnets::{Addressing, Subnets};

/// All link-local addresses.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// A layer2 NIC after it was resolved on this host.
pub(super) struct Layer2 {
    pub(super) config: Layer2Config,
    /// MAC that the guest gets.
    pub(super) mac: MacAddr,
    /// MTU of the network in bytes.
    pub(super) mtu: u16,
    pub(super) names: NameSource,
    pub(super) peers: PeerSource,
    /// Rules for the guest's frames.
    pub(super) policy: PolicyConfig,
    /// `None` without a gateway.
    pub(super) services: Option<ServiceSource>,
    pub(super) notices: Vec<String>,
}

/// Checks a layer2 NIC and fills in the values that it leaves to the host.
pub(super) fn resolve(spec: &NicSpec, mode: &Layer2Spec, host: &Host) -> Result<Layer2, ConfigError> {
    let vni = mode.vni.ok_or(Layer2Error::NoVni)?;
    let subnets = Subnets::of(mode);
    let addressing = Addressing::of(mode)?;
    let derived = addressing.guests().next().map(mac_of_address);
    let mac = spec.mac.or(derived).ok_or(Layer2Error::NoMac)?;
    let gateways = match mode.gateway {
        GatewaySpec::At(_) => subnets.families(),
        GatewaySpec::Off => Families::default(),
    };
    let mut list = PeerList::of(mode);
    let placed = list
        .text()
        .and_then(|text| list.parse(&text))
        .map_err(Layer2Error::Peers)?;
    let address = vtep::address(mode.vtep.address, gateways, &placed, host).map_err(Layer2Error::Vtep)?;
    let vtep = SocketAddr::new(address, mode.vtep.port);
    check_underlay(subnets, vtep, host)?;
    let rules = PeerRules {
        own: vtep,
        mac,
        subnets,
        addressing,
    };
    let peers = list.check(placed, &rules).map_err(Layer2Error::Peers)?;
    let mtu = mtu(spec.mtu, vtep, subnets, host)?;
    let (names, Resolvers { dns, search, forward }, notices) = names(spec, addressing, host);
    let mut services = ServiceSource::of(mode);
    let text = services.text();
    let listed = text
        .and_then(|text| services.services(&text))
        .map_err(Layer2Error::Services)?;
    let has_gateway = matches!(addressing, Addressing::Gateway { .. });
    let role = match addressing {
        Addressing::Gateway { ipv4, ipv6 } => {
            check_forwards(&mode.forwards, &Links::private(ipv4, ipv6))?;
            NetworkRole::Primary(PrimaryNetwork {
                ipv4,
                ipv6,
                dns_forward: forward,
                forwards: mode.forwards.clone(),
                services: listed,
            })
        }
        Addressing::NoGateway(network) => NetworkRole::Secondary(network),
    };
    let config = Layer2Config {
        vni,
        vtep,
        role,
        names: NameConfig {
            hostname: spec.names.hostname.clone(),
            dns,
            search,
            domain: spec.names.domain.clone(),
            dhcp_options: spec.names.dhcp_options.clone(),
        },
        peers,
    };
    Ok(Layer2 {
        config,
        mac,
        mtu,
        names,
        peers: PeerSource::new(vni, list, rules),
        policy: policy(&spec.policy, mode, addressing),
        services: has_gateway.then_some(services),
        notices,
    })
}

/// The rules for the guest's frames. They are those of OVN's port security for a network with subnets: the guest sends
/// only from its assigned addresses, and a family without a subnet is closed if the other one has a subnet.
///
/// Two rules differ from OVN's. The guest chooses its link-local addresses, because many guests do not make them from
/// the MAC. And the guest cannot be a DHCP server, nor a router if the network has one.
fn policy(asked: &PolicyConfig, mode: &Layer2Spec, addressing: Addressing) -> PolicyConfig {
    let base = PolicyConfig {
        mac_check: if mode.any_mac { MacCheck::Off } else { asked.mac_check },
        ..asked.clone()
    };
    let SourceSpec::Assigned(more) = &mode.sources else {
        return base;
    };
    let mut allowed = more.clone();
    let mut is_assigned = false;
    for guest in addressing.guests() {
        is_assigned = true;
        match guest {
            IpAddr::V4(guest) => allowed.ipv4.push(guest.into()),
            IpAddr::V6(guest) => allowed.ipv6.push(guest.into()),
        }
    }
    if !allowed.ipv6.is_empty() {
        allowed.ipv6.push(LINK_LOCAL);
    }
    PolicyConfig {
        addresses: (allowed != AddressCheck::default()).then_some(allowed),
        dhcp_guard: is_assigned,
        router_guard: matches!(addressing, Addressing::Gateway { .. }),
        ..base
    }
}

/// The names that the guest gets, their source, and notices. On a network without a gateway the
/// guest gets only those that were asked for: the pod's name servers are not reachable there.
fn names(spec: &NicSpec, addressing: Addressing, host: &Host) -> (NameSource, Resolvers, Vec<String>) {
    match addressing {
        Addressing::Gateway { ipv4, ipv6 } => {
            let names = NameSource::of_network(&spec.names, Links::private(ipv4, ipv6));
            let (resolvers, notices) = (names.resolve(&host.resolv), names.notices(&host.resolv));
            (names, resolvers, notices)
        }
        Addressing::NoGateway(_) => {
            let own = NameSpec {
                servers: Some(spec.names.servers.clone().unwrap_or_default()),
                search: Some(spec.names.search.clone().unwrap_or_default()),
                ..NameSpec::default()
            };
            let names = NameSource::on_segment(&own);
            let resolvers = names.resolve(&host.resolv);
            (names, resolvers, Vec::new())
        }
    }
}

/// Checks that the subnets contain no address of the underlay or of this system. Otherwise the guest would send packets
/// for that address to a neighbour.
fn check_underlay(subnets: Subnets, own: SocketAddr, host: &Host) -> Result<(), Layer2Error> {
    let mut outside = std::iter::once(own.ip()).chain(host.addresses.iter().copied());
    match outside.find_map(|address| Some((address, subnets.covering(address)?))) {
        Some((address, subnet)) => Err(Layer2Error::UnderlayInside { subnet, address }),
        None => Ok(()),
    }
}

/// The MTU of the network. It is the configured MTU, which the route must support, or else the largest MTU that the
/// route supports.
fn mtu(asked: Option<u16>, vtep: SocketAddr, subnets: Subnets, host: &Host) -> Result<u16, Layer2Error> {
    let encapsulation = Encapsulation {
        family: Family::from(vtep.ip()),
        options_len: FrameOption::LEN,
    };
    let of_family = host.default_route(vtep.ip()).map(|route| host::guest_mtu(route.mtu));
    let route = usize::from(of_family.or(host.mtu).unwrap_or(FALLBACK_MTU));
    let least = if subnets.families().ipv6 { MIN_IPV6_MTU } else { 0 };
    let mtu = match asked {
        Some(mtu) => {
            encapsulation.check(mtu.into(), route).map_err(Layer2Error::TunnelMtu)?;
            mtu
        }
        None => u16::try_from(encapsulation.inner_mtu(route)).unwrap_or(u16::MAX),
    };
    if mtu < least {
        return Err(Layer2Error::MtuBelowIpv6(mtu));
    }
    Ok(mtu)
}

#[cfg(test)]
mod tests;
