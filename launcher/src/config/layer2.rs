//! A port of a network that spans nodes.

use super::{ConfigError, FALLBACK_MTU, MIN_IPV6_MTU, check_forwards};
use crate::host::Host;
use crate::names::NameSource;
use hawser_backend::packet::geneve::FrameOption;
use hawser_backend::packet::geneve::mtu::{Encapsulation, Family};
use hawser_config::{Ipv4Link, Ipv6Link, Layer2Config, NameConfig, PeerConfig, Resolvers};
use hawser_manifest::links::{Links, ipv4_link, ipv6_link};
use hawser_manifest::nic::{Layer2Spec, NicSpec};
use std::collections::HashMap;
use std::net::IpAddr;

/// A layer2 NIC resolved on this host.
pub(super) struct Layer2 {
    pub(super) config: Layer2Config,
    /// MTU of the network.
    pub(super) mtu: u16,
    pub(super) names: NameSource,
    pub(super) notices: Vec<String>,
}

/// Checks a layer2 NIC and fills in the values that it leaves to the host.
pub(super) fn resolve(spec: &NicSpec, mode: &Layer2Spec, host: &Host) -> Result<Layer2, ConfigError> {
    if spec.mac.is_none() {
        return Err(ConfigError::PortWithoutMac);
    }
    let links = links(mode)?;
    check_underlay(&links, mode, host)?;
    check_peers(spec, &links, &mode.peers)?;
    check_forwards(&mode.forwards, &links)?;
    let mtu = mtu(spec.mtu, mode, &links, host)?;
    let names = NameSource::through_gateway(&spec.names, links);
    let Resolvers { dns, search, forward } = names.resolve(&host.resolv);
    let notices = names.notices(&host.resolv);
    let config = Layer2Config {
        vni: mode.vni,
        vtep: mode.vtep,
        ipv4: links.ipv4,
        ipv6: links.ipv6,
        names: NameConfig {
            hostname: spec.names.hostname.clone(),
            dns,
            search,
            domain: spec.names.domain.clone(),
            dhcp_options: spec.names.dhcp_options.clone(),
        },
        dns_forward: forward,
        forwards: mode.forwards.clone(),
        peers: mode.peers.clone(),
    };
    Ok(Layer2 {
        config,
        mtu,
        names,
        notices,
    })
}

/// The subnets, with the gateway at the first host address and the guest at its configured address.
fn links(mode: &Layer2Spec) -> Result<Links, ConfigError> {
    let mut links = Links {
        ipv4: mode.ipv4.map(ipv4_link),
        ipv6: mode.ipv6.map(ipv6_link),
    };
    for address in &mode.guests {
        match (address, &mut links.ipv4, &mut links.ipv6) {
            (IpAddr::V4(guest), Some(link), _) if is_host4(link, *guest) => link.guest = *guest,
            (IpAddr::V6(guest), _, Some(link)) if is_host6(link, *guest) => link.guest = *guest,
            _ => return Err(ConfigError::GuestOutside(*address)),
        }
    }
    if links.ipv4.is_none() && links.ipv6.is_none() {
        return Err(ConfigError::NoSubnet);
    }
    Ok(links)
}

fn is_host4(link: &Ipv4Link, guest: std::net::Ipv4Addr) -> bool {
    let network = link.network;
    network.contains(&guest) && ![network.network(), network.broadcast(), link.gateway].contains(&guest)
}

fn is_host6(link: &Ipv6Link, guest: std::net::Ipv6Addr) -> bool {
    link.network.contains(&guest) && ![link.network.network(), link.gateway].contains(&guest)
}

/// Checks that the subnets contain no address of the underlay or of this system. Otherwise the guest would send packets
/// for that address to a neighbour.
fn check_underlay(links: &Links, mode: &Layer2Spec, host: &Host) -> Result<(), ConfigError> {
    let ends = mode.peers.iter().map(|peer| peer.vtep.ip());
    let mut outside = std::iter::once(mode.vtep.ip())
        .chain(ends)
        .chain(host.addresses.iter().copied());
    match outside.find_map(|address| Some((address, links.covering(address)?))) {
        Some((address, (option, network))) => Err(ConfigError::UnderlayInside {
            option,
            network: network.to_string(),
            address,
        }),
        None => Ok(()),
    }
}

/// Checks that MACs and addresses are unique and that every address is in a subnet.
fn check_peers(spec: &NicSpec, links: &Links, peers: &[PeerConfig]) -> Result<(), ConfigError> {
    let mut macs: HashMap<_, _> = spec.mac.map(|mac| (mac, ())).into_iter().collect();
    let own = [
        links.ipv4.map(|link| [link.guest.into(), link.gateway.into()]),
        links.ipv6.map(|link| [IpAddr::from(link.guest), link.gateway.into()]),
    ];
    let mut addresses: HashMap<IpAddr, ()> = own.into_iter().flatten().flatten().map(|ip| (ip, ())).collect();
    for peer in peers {
        if let Some(mac) = peer.macs.iter().find(|mac| macs.insert(**mac, ()).is_some()) {
            return Err(ConfigError::MacTwice(*mac));
        }
        for address in &peer.addresses {
            if !links.covers(*address) {
                return Err(ConfigError::PeerOutside(*address));
            }
            if addresses.insert(*address, ()).is_some() {
                return Err(ConfigError::AddressTwice(*address));
            }
        }
    }
    Ok(())
}

/// The MTU of the network: the configured MTU, which the route must support, or else the largest that the route
/// supports.
fn mtu(asked: Option<u16>, mode: &Layer2Spec, links: &Links, host: &Host) -> Result<u16, ConfigError> {
    let encapsulation = Encapsulation {
        family: Family::from(mode.vtep.ip()),
        options_len: FrameOption::LEN,
    };
    let route = usize::from(host.mtu.unwrap_or(FALLBACK_MTU));
    let least = if links.ipv6.is_some() { MIN_IPV6_MTU } else { 0 };
    let mtu = match asked {
        Some(mtu) => {
            encapsulation.check(mtu.into(), route).map_err(ConfigError::TunnelMtu)?;
            mtu
        }
        None => u16::try_from(encapsulation.inner_mtu(route)).unwrap_or(u16::MAX),
    };
    if mtu < least {
        return Err(ConfigError::MtuBelowIpv6(mtu));
    }
    Ok(mtu)
}

#[cfg(test)]
#[path = "layer2_tests.rs"]
mod tests;
