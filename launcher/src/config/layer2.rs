//! A port of a network that spans nodes.

mod error;
mod subnets;
mod vtep;

pub(crate) use error::Layer2Error;

use super::{ConfigError, FALLBACK_MTU, MIN_IPV6_MTU, check_forwards};
use crate::host::{self, Host};
use crate::names::NameSource;
use hawser_backend::packet::MacAddr;
use hawser_backend::packet::geneve::FrameOption;
use hawser_backend::packet::geneve::mtu::{Encapsulation, Family};
use hawser_config::{
    Families, Layer2Config, NameConfig, NetworkRole, PeerConfig, PrimaryNetwork, Resolvers, mac_of_address,
};
use hawser_manifest::links::Links;
use hawser_manifest::nic::{GatewaySpec, Layer2Spec, NameSpec, NicSpec};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use subnets::{Addressing, Subnets};

/// A layer2 NIC resolved on this host.
pub(super) struct Layer2 {
    pub(super) config: Layer2Config,
    /// MAC of the guest.
    pub(super) mac: MacAddr,
    /// MTU of the network.
    pub(super) mtu: u16,
    pub(super) names: NameSource,
    pub(super) notices: Vec<String>,
}

/// Checks a layer2 NIC and fills in the values that it leaves to the host.
pub(super) fn resolve(spec: &NicSpec, mode: &Layer2Spec, host: &Host) -> Result<Layer2, ConfigError> {
    let subnets = Subnets::of(mode);
    let addressing = Addressing::of(mode)?;
    let derived = addressing.guests().next().map(mac_of_address);
    let mac = spec.mac.or(derived).ok_or(Layer2Error::NoMac)?;
    let gateways = match mode.gateway {
        GatewaySpec::At(_) => subnets.families(),
        GatewaySpec::Off => Families::default(),
    };
    let address = vtep::address(mode.vtep.address, gateways, &mode.peers, host).map_err(Layer2Error::Vtep)?;
    let vtep = SocketAddr::new(address, mode.vtep.port);
    // All processes of a network can have one list of peers.
    let others: Vec<PeerConfig> = mode.peers.iter().filter(|peer| peer.vtep != vtep).cloned().collect();
    check_underlay(subnets, vtep, &others, host)?;
    check_peers(mac, subnets, addressing, &others)?;
    let mtu = mtu(spec.mtu, vtep, subnets, host)?;
    let (names, Resolvers { dns, search, forward }, notices) = names(spec, addressing, host);
    let role = match addressing {
        Addressing::Gateway { ipv4, ipv6 } => {
            check_forwards(&mode.forwards, &Links { ipv4, ipv6 })?;
            NetworkRole::Primary(PrimaryNetwork {
                ipv4,
                ipv6,
                dns_forward: forward,
                forwards: mode.forwards.clone(),
            })
        }
        Addressing::NoGateway(network) => NetworkRole::Secondary(network),
    };
    let config = Layer2Config {
        vni: mode.vni,
        vtep,
        role,
        names: NameConfig {
            hostname: spec.names.hostname.clone(),
            dns,
            search,
            domain: spec.names.domain.clone(),
            dhcp_options: spec.names.dhcp_options.clone(),
        },
        peers: others,
    };
    Ok(Layer2 {
        config,
        mac,
        mtu,
        names,
        notices,
    })
}

/// The names that the guest gets, their source, and notices. On a network without a gateway the
/// guest gets only those that were asked for: the pod's name servers are not reachable there.
fn names(spec: &NicSpec, addressing: Addressing, host: &Host) -> (NameSource, Resolvers, Vec<String>) {
    match addressing {
        Addressing::Gateway { ipv4, ipv6 } => {
            let names = NameSource::through_gateway(&spec.names, Links { ipv4, ipv6 });
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
/// for that address to a neighbour. Also checks that both ends of each tunnel are on a loopback, or neither is.
fn check_underlay(subnets: Subnets, own: SocketAddr, peers: &[PeerConfig], host: &Host) -> Result<(), Layer2Error> {
    let ends = peers.iter().map(|peer| peer.vtep.ip());
    let mut outside = std::iter::once(own.ip())
        .chain(ends)
        .chain(host.addresses.iter().copied());
    if let Some((address, subnet)) = outside.find_map(|address| Some((address, subnets.covering(address)?))) {
        return Err(Layer2Error::UnderlayInside { subnet, address });
    }
    let mut ends = peers.iter().map(|peer| peer.vtep);
    match ends.find(|peer| peer.ip().is_loopback() != own.ip().is_loopback()) {
        Some(peer) => Err(Layer2Error::Loopback { peer, own }),
        None => Ok(()),
    }
}

/// Checks that MACs and addresses are unique and that every address is in a subnet.
fn check_peers(mac: MacAddr, subnets: Subnets, own: Addressing, peers: &[PeerConfig]) -> Result<(), Layer2Error> {
    let mut macs = HashSet::from([mac]);
    let mut addresses: HashSet<IpAddr> = own.guests().chain(own.gateways()).collect();
    for peer in peers {
        if let Some(mac) = peer.macs.iter().find(|mac| !macs.insert(**mac)) {
            return Err(Layer2Error::MacTwice(*mac));
        }
        for address in &peer.addresses {
            if subnets.covering(*address).is_none() {
                return Err(Layer2Error::PeerOutside(*address));
            }
            if !addresses.insert(*address) {
                return Err(Layer2Error::AddressTwice(*address));
            }
        }
    }
    Ok(())
}

/// The MTU of the network: the configured MTU, which the route must support, or else the largest that the route
/// supports.
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
