//! Subnets of a network that spans nodes, with the addresses of the gateway and the guest.

use super::error::Layer2Error;
use hawser_config::{Families, Ipv4Link, Ipv6Link, SecondaryNetwork};
use hawser_manifest::nic::{GatewaySpec, Layer2Spec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A subnet, which is displayed together with its option, or with the field of the manifest that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    net: IpNet,
    is_of_manifest: bool,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.net {
            net if self.is_of_manifest => write!(f, "{net} of the network's subnets"),
            IpNet::V4(net) => write!(f, "--ipv4={net}"),
            IpNet::V6(net) => write!(f, "--ipv6={net}"),
        }
    }
}

/// The subnets of a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subnets {
    ipv4: Option<Ipv4Net>,
    ipv6: Option<Ipv6Net>,
    is_of_manifest: bool,
}

/// The subnets, with the addresses of the gateway and the guest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Addressing {
    /// Each subnet has a gateway.
    Gateway {
        ipv4: Option<Ipv4Link>,
        ipv6: Option<Ipv6Link>,
    },
    /// There is no gateway.
    NoGateway(SecondaryNetwork),
}

impl Subnets {
    pub(super) const fn of(spec: &Layer2Spec) -> Self {
        Self {
            ipv4: spec.ipv4,
            ipv6: spec.ipv6,
            is_of_manifest: spec.network.is_some(),
        }
    }

    pub(super) const fn families(self) -> Families {
        Families {
            ipv4: self.ipv4.is_some(),
            ipv6: self.ipv6.is_some(),
        }
    }

    /// The subnet that contains `address`.
    pub(super) fn covering(self, address: IpAddr) -> Option<Subnet> {
        self.all()
            .into_iter()
            .flatten()
            .find(|net| net.contains(&address))
            .map(|net| Subnet {
                net,
                is_of_manifest: self.is_of_manifest,
            })
    }

    fn all(self) -> [Option<IpNet>; 2] {
        [self.ipv4.map(IpNet::V4), self.ipv6.map(IpNet::V6)]
    }

    fn is_empty(self) -> bool {
        self.all() == [None; 2]
    }

    /// True for an address that a host of the network can have.
    fn is_host(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self
                .ipv4
                .is_some_and(|net| net.contains(&address) && ![net.network(), net.broadcast()].contains(&address)),
            IpAddr::V6(address) => self
                .ipv6
                .is_some_and(|net| net.contains(&address) && net.network() != address),
        }
    }
}

impl Addressing {
    /// Chooses addresses: those that the NIC requests, and the first free host addresses for those that it leaves open.
    pub(super) fn of(spec: &Layer2Spec) -> Result<Self, Layer2Error> {
        let subnets = Subnets::of(spec);
        let guests = Chosen::of(&spec.guests);
        if let Some(stray) = spec.guests.iter().find(|guest| !subnets.is_host(**guest)) {
            return Err(Layer2Error::GuestOutside(*stray));
        }
        let gateways = match &spec.gateway {
            GatewaySpec::Off => return Ok(Self::NoGateway(without_gateway(subnets, guests))),
            GatewaySpec::At(_) if subnets.is_empty() => return Err(Layer2Error::NoSubnet),
            GatewaySpec::At(addresses) => addresses,
        };
        if let Some(stray) = gateways.iter().find(|gateway| !subnets.is_host(**gateway)) {
            return Err(Layer2Error::GatewayOutside(*stray));
        }
        let addressing = with_gateway(subnets, guests, Chosen::of(gateways));
        if let Self::Gateway { ipv4, ipv6 } = addressing {
            let clash4 = ipv4
                .filter(|link| link.guest == link.gateway)
                .map(|link| link.guest.into());
            let clash6 = ipv6
                .filter(|link| link.guest == link.gateway)
                .map(|link| link.guest.into());
            if let Some(address) = clash4.or(clash6) {
                return Err(Layer2Error::GuestIsGateway(address));
            }
        }
        Ok(addressing)
    }

    /// The guest's addresses.
    pub(super) fn guests(self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match self {
            Self::Gateway { ipv4, ipv6 } => (ipv4.map(|link| link.guest), ipv6.map(|link| link.guest)),
            Self::NoGateway(network) => (network.ipv4.map(|net| net.addr()), network.ipv6.map(|net| net.addr())),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }

    /// The gateway's addresses.
    pub(super) fn gateways(self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match self {
            Self::Gateway { ipv4, ipv6 } => (ipv4.map(|link| link.gateway), ipv6.map(|link| link.gateway)),
            Self::NoGateway(_) => (None, None),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }
}

/// The requested address in each family.
#[derive(Clone, Copy)]
struct Chosen {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

impl Chosen {
    fn of(addresses: &[IpAddr]) -> Self {
        Self {
            ipv4: addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            }),
            ipv6: addresses.iter().find_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            }),
        }
    }
}

fn with_gateway(subnets: Subnets, guests: Chosen, gateways: Chosen) -> Addressing {
    Addressing::Gateway {
        ipv4: subnets.ipv4.map(|network| {
            let gateway = gateways.ipv4.unwrap_or_else(|| host4(network, None));
            Ipv4Link {
                network,
                gateway,
                guest: guests.ipv4.unwrap_or_else(|| host4(network, Some(gateway))),
            }
        }),
        ipv6: subnets.ipv6.map(|network| {
            let gateway = gateways.ipv6.unwrap_or_else(|| host6(network, None));
            Ipv6Link {
                network,
                gateway,
                guest: guests.ipv6.unwrap_or_else(|| host6(network, Some(gateway))),
            }
        }),
    }
}

fn without_gateway(subnets: Subnets, guests: Chosen) -> SecondaryNetwork {
    SecondaryNetwork {
        ipv4: subnets.ipv4.and_then(|net| {
            let guest = guests.ipv4.unwrap_or_else(|| host4(net, None));
            Ipv4Net::new(guest, net.prefix_len()).ok()
        }),
        ipv6: subnets.ipv6.and_then(|net| {
            let guest = guests.ipv6.unwrap_or_else(|| host6(net, None));
            Ipv6Net::new(guest, net.prefix_len()).ok()
        }),
    }
}

/// The first host address of a subnet other than `taken`. The parser of the options has checked that there are at least
/// two.
fn host4(network: Ipv4Net, taken: Option<Ipv4Addr>) -> Ipv4Addr {
    let first = Ipv4Addr::from_bits(network.network().to_bits() + 1);
    if taken == Some(first) {
        Ipv4Addr::from_bits(first.to_bits() + 1)
    } else {
        first
    }
}

/// Does the same for IPv6.
fn host6(network: Ipv6Net, taken: Option<Ipv6Addr>) -> Ipv6Addr {
    let first = Ipv6Addr::from_bits(network.network().to_bits() + 1);
    if taken == Some(first) {
        Ipv6Addr::from_bits(first.to_bits() + 1)
    } else {
        first
    }
}
