//! Reads address management as in the CNI plugins host-local, static, dhcp and whereabouts.
//!
//! In the end a guest always gets [`Ipam::Static`]: ranges become static once an address has been assigned
//! ([`Ranges::given`]).

mod host_local;
mod whereabouts;

use super::dns::{self, Dns};
use super::fields::cni as table;
use super::reader::{Item, Object};
use crate::nic::{Route, StaticAddress};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source of a guest's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Ipam {
    /// No source is known to hawser.
    #[default]
    None,
    /// The segment's own DHCP server assigns addresses.
    Dhcp,
    /// The addresses are fixed.
    Static {
        /// Addresses and their prefix lengths.
        addresses: Vec<StaticAddress>,
        /// Routes in addition to those of the networks.
        routes: Vec<Route>,
    },
    /// The guest gets a free address of each set.
    #[serde(rename = "host-local")]
    HostLocal(Ranges),
    /// The guest gets a free address of each set, by the rules of whereabouts.
    Whereabouts(Ranges),
}

/// Sets of ranges. The guest gets a free address of each set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ranges {
    /// Ranges of each set.
    pub ranges: Vec<Vec<Range>>,
    /// Additional fixed addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<StaticAddress>,
    /// Routes in addition to those of the networks.
    pub routes: Vec<Route>,
    /// Order in which free addresses are assigned.
    #[serde(skip)]
    pub choice: Choice,
}

/// The order in which free addresses are assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The next free address after the last one assigned (host-local).
    Next,
    /// The lowest free address (whereabouts).
    Lowest,
    /// The lowest address that is not assigned on any segment (whereabouts, whose pools avoid each other's addresses).
    LowestAnywhere,
}

/// Addresses of a network that may be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Network that contains the range.
    pub subnet: IpNet,
    /// First address of the range.
    pub first: IpAddr,
    /// Last address of the range.
    pub last: IpAddr,
    /// Router of the network, which is never assigned.
    pub gateway: Option<IpAddr>,
}

/// Settings for addresses outside of `ipam`: `args.cni` and `runtimeConfig`.
#[derive(Debug, Default)]
pub struct Requested<'a> {
    /// `ips` of `args.cni`, then those of `runtimeConfig`.
    pub ips: [Vec<Item<'a>>; 2],
    /// `runtimeConfig.ipRanges`
    pub ranges: Vec<Item<'a>>,
}

impl Requested<'_> {
    /// Warns about settings that no plugin reads.
    fn warn_of_unread(&self, kind: Option<&str>) {
        let (ips, ranges) = (
            matches!(kind, Some("static" | "host-local")),
            kind == Some("host-local"),
        );
        for item in self.ips.iter().flatten().filter(|_| !ips) {
            item.warn("ignored: only ipam of type static or host-local reads it");
        }
        for item in self.ranges.iter().filter(|_| !ranges) {
            item.warn("ignored: only ipam of type host-local reads it");
        }
    }
}

/// Longest prefixes with room for two hosts.
const MAX_PREFIX: (u8, u8) = (30, 126);
/// The default routes of IPv4 and of IPv6.
pub const DEFAULT_ROUTES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// Reads `ipam` of a configuration, and the DNS settings in it.
pub fn read(item: &Item<'_>, requested: &Requested<'_>) -> Option<(Ipam, Option<Dns>)> {
    let plain = |ipam| (ipam, None);
    let kind = item.field_text("type");
    requested.warn_of_unread(kind);
    match kind {
        None => item.object(&table::NO_IPAM).map(|_| plain(Ipam::None)),
        Some("host-local") => host_local::read(&item.object(&table::HOST_LOCAL)?, requested).map(plain),
        Some("static") => {
            let object = item.object(&table::STATIC)?;
            static_addresses(&object, requested).map(|ipam| (ipam, dns::read(&object)))
        }
        Some("dhcp") => item.object(&table::DHCP).map(|_| plain(Ipam::Dhcp)),
        Some("whereabouts") => {
            let object = item.object(&table::WHEREABOUTS)?;
            whereabouts::read(&object).map(|ipam| (ipam, dns::read(&object)))
        }
        Some(other) => {
            item.error(format!(
                "type {other:?} is not served: choose host-local, whereabouts, static or dhcp"
            ));
            None
        }
    }
}

impl Ipam {
    /// True if hawser's own DHCP server assigns the guest's addresses.
    pub const fn is_told(&self) -> bool {
        matches!(self, Self::Static { .. } | Self::HostLocal(_) | Self::Whereabouts(_))
    }

    /// Changes addresses and routes like the CNI plugin bridge with `isGateway` (`calcGateways` in its bridge.go).
    /// Addresses without a gateway get the first host of their network as gateway. Routes without a next hop use that
    /// gateway. With `isDefaultGateway` the default route uses it too, unless there is one with a next hop.
    pub fn behind_gateway(&mut self, is_default: bool) {
        match self {
            Self::None | Self::Dhcp => {}
            Self::Static { addresses, routes } => {
                for ipv4 in [true, false] {
                    let first = addresses.iter().find(|given| given.address.addr().is_ipv4() == ipv4);
                    let Some(first) = first else { continue };
                    let gateway = first.gateway.unwrap_or_else(|| hosts(first.address).0);
                    let of_family = routes.iter_mut().filter(|route| route.is_ipv4() == ipv4);
                    of_family.for_each(|route| route.via = route.via.or(Some(gateway)));
                    if is_default {
                        add_default(routes, ipv4, Some(gateway));
                    }
                }
            }
            Self::HostLocal(ranges) | Self::Whereabouts(ranges) => ranges.behind_gateway(is_default),
        }
    }
}

impl Ipam {
    /// An IPv4 gateway in the configuration that no route uses, so that the guest does not learn it.
    pub fn idle_gateway(&self) -> Option<IpAddr> {
        let gateway = match self {
            Self::None | Self::Dhcp => None,
            Self::Static { addresses, .. } => addresses.iter().find_map(|given| v4(given.gateway)),
            Self::HostLocal(ranges) | Self::Whereabouts(ranges) => {
                // The first host of the subnet may be the default gateway.
                let is_named = |range: &&Range| range.gateway != Some(hosts(range.subnet).0);
                let named = ranges.ranges.iter().flatten().filter(is_named);
                named.map(|range| range.gateway).find_map(v4)
            }
        }?;
        let goes_by = |route: &Route| route.is_ipv4() && route.via.is_none_or(|via| via == gateway);
        (!self.routes().iter().any(goes_by)).then_some(gateway)
    }

    /// True if there is an IPv4 default route.
    pub fn has_default_route(&self) -> bool {
        let leads = |route: &Route| route.is_ipv4() && route.is_default();
        self.routes().iter().any(leads)
    }

    fn routes(&self) -> &[Route] {
        match self {
            Self::None | Self::Dhcp => &[],
            Self::Static { routes, .. } => routes,
            Self::HostLocal(ranges) | Self::Whereabouts(ranges) => &ranges.routes,
        }
    }
}

fn v4(gateway: Option<IpAddr>) -> Option<IpAddr> {
    gateway.filter(IpAddr::is_ipv4)
}

/// Adds a default route to a family that has none.
fn add_default(routes: &mut Vec<Route>, ipv4: bool, via: Option<IpAddr>) {
    if !routes.iter().any(|route| route.is_default() && route.is_ipv4() == ipv4) {
        let destination = DEFAULT_ROUTES[usize::from(!ipv4)];
        routes.push(Route { destination, via });
    }
}

impl Route {
    const fn is_ipv4(&self) -> bool {
        matches!(self.destination, IpNet::V4(_))
    }

    fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

impl Range {
    /// True if the address is within the bounds.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

impl Ranges {
    /// The address management `static` with the addresses assigned from the ranges, and the fixed ones. A gateway is
    /// the guest's router only if a route uses it, because plugins add no routes of their own (`ConfigureIface` of the
    /// CNI plugins).
    pub fn given(&self, given: &[IpNet]) -> Ipam {
        // Routes without a next hop use the first gateway of their family.
        let gateway = |ipv4: bool| {
            let gateways = given.iter().filter_map(|address| self.gateway_of(address));
            gateways.into_iter().find(|gateway| gateway.is_ipv4() == ipv4)
        };
        let hop = |route: &Route| route.via.or_else(|| gateway(route.is_ipv4()));
        let routes: Vec<Route> = self
            .routes
            .iter()
            .map(|route| Route {
                via: hop(route),
                ..*route
            })
            .collect();
        let router = |address: &IpNet| {
            let ipv4 = address.addr().is_ipv4();
            let leads = |route: &&Route| route.is_default() && route.is_ipv4() == ipv4;
            routes.iter().find(leads).and_then(|route| route.via)
        };
        let address = |address: &IpNet| StaticAddress {
            address: *address,
            gateway: router(address),
        };
        Ipam::Static {
            addresses: given.iter().map(address).collect(),
            routes,
        }
    }

    /// Reduces the set that contains an address to that address.
    ///
    /// # Errors
    /// A description of the error if it cannot be assigned.
    pub fn ask_for(&mut self, asked: IpAddr) -> Result<(), String> {
        let of_set = |set: &Vec<Range>| set.iter().copied().find(|range| range.contains(asked));
        let mut sets = self.ranges.iter_mut();
        let Some((set, range)) = sets.find_map(|set| of_set(set).map(|range| (set, range))) else {
            return Err(format!(
                "{asked} is in no range of ipam: request one that is, or leave it out"
            ));
        };
        if range.gateway == Some(asked) {
            return Err(format!("{asked} is the gateway: request another, or leave it out"));
        }
        *set = vec![Range {
            first: asked,
            last: asked,
            ..range
        }];
        Ok(())
    }

    fn gateway_of(&self, address: &IpNet) -> Option<IpAddr> {
        if let Some(named) = self.addresses.iter().find(|named| named.address == *address) {
            return named.gateway;
        }
        let contains = |range: &&Range| range.subnet.contains(&address.addr());
        self.ranges.iter().flatten().find(contains)?.gateway
    }

    fn behind_gateway(&mut self, is_default: bool) {
        for range in self.ranges.iter_mut().flatten() {
            range.gateway = range.gateway.or(Some(hosts(range.subnet).0));
        }
        for named in &mut self.addresses {
            named.gateway = named.gateway.or(Some(hosts(named.address).0));
        }
        let subnets = self.ranges.iter().flatten().map(|range| range.subnet);
        let all: Vec<IpNet> = subnets
            .chain(self.addresses.iter().map(|named| named.address))
            .collect();
        for ipv4 in [true, false] {
            if is_default && all.iter().any(|net| net.addr().is_ipv4() == ipv4) {
                add_default(&mut self.routes, ipv4, None);
            }
        }
    }

    /// The first address of each set, and the fixed ones. They show the number of addresses per family.
    pub fn samples(&self) -> Vec<IpAddr> {
        let first = |set: &Vec<Range>| set.first().map(|range| range.first);
        let named = self.addresses.iter().map(|named| named.address.addr());
        self.ranges.iter().filter_map(first).chain(named).collect()
    }
}

fn address(item: &Item<'_>) -> Option<IpAddr> {
    item.parsed(|text| text.parse().map_err(|_| "give an IPv4 or IPv6 address".to_owned()))
}

/// Parses a network, with or without host bits, that has at least two hosts.
fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .map_err(|_| "give a network such as 10.10.0.0/16".to_owned())?;
    is_wide(net).map(|()| net)
}

/// Checks that a network has room for two hosts.
///
/// # Errors
/// A description of the error.
pub fn is_wide(net: IpNet) -> Result<(), String> {
    let most = if net.addr().is_ipv4() {
        MAX_PREFIX.0
    } else {
        MAX_PREFIX.1
    };
    if net.prefix_len() > most {
        return Err(format!("it is too narrow: give /{most} or wider"));
    }
    Ok(())
}

/// The parts of a range that remain without some networks.
pub fn without(range: Range, mut excluded: Vec<IpNet>) -> Vec<Range> {
    excluded.retain(|net| net.addr().is_ipv4() == range.first.is_ipv4());
    excluded.sort_unstable();
    let mut rest = Vec::new();
    let mut first = range.first;
    for net in excluded.iter().filter(|net| net.network() <= range.last) {
        let (from, to) = (net.network(), net.broadcast());
        if let Some(last) = step(from, false).filter(|_| first < from) {
            rest.push(Range { first, last, ..range });
        }
        match step(to, true) {
            Some(next) if next <= range.last => first = first.max(next),
            _ => return rest,
        }
    }
    rest.push(Range { first, ..range });
    rest
}

/// The next address if `up` is true, or the previous one.
fn step(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            let next = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            next.map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let next = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            next.map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// First and last host address of a network. A network of a single address has no hosts, and the pair has no meaning.
pub fn hosts(subnet: IpNet) -> (IpAddr, IpAddr) {
    match subnet {
        IpNet::V4(net) => {
            let (first, last) = (
                net.network().to_bits().saturating_add(1),
                net.broadcast().to_bits().saturating_sub(1),
            );
            (IpAddr::V4(first.into()), IpAddr::V4(last.into()))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits().saturating_add(1), net.broadcast().to_bits());
            (IpAddr::V6(first.into()), IpAddr::V6(last.into()))
        }
    }
}

/// Reads `static`
fn static_addresses(object: &Object<'_>, requested: &Requested<'_>) -> Option<Ipam> {
    // Requested addresses replace those of the configuration, and have no gateway.
    let asked = requested.ips.iter().rev().find(|ips| !ips.is_empty());
    let addresses = match asked {
        Some(ips) => {
            let read = |item: &Item<'_>| {
                let address = item.parsed(with_prefix)?;
                Some(StaticAddress { address, gateway: None })
            };
            ips.iter().filter_map(read).collect()
        }
        None => {
            let addresses = named_addresses(object);
            if object.list("addresses").is_empty() {
                object.error(
                    "addresses is missing or empty: give at least one, such as {address: \
                    192.0.2.5/24}",
                );
            }
            addresses
        }
    };
    Some(Ipam::Static {
        addresses,
        routes: routes(object),
    })
}

/// Parses an address with its prefix.
pub fn with_prefix(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "give an address with its prefix, such as 192.0.2.5/24".to_owned())
}

/// Reads `addresses`
fn named_addresses(object: &Object<'_>) -> Vec<StaticAddress> {
    let read = |item: &Item<'_>| {
        let object = item.object(&table::STATIC_ADDRESS)?;
        let gateway = object.get("gateway");
        let address: IpNet = object
            .need("address", "give it with its prefix: 192.0.2.5/24")?
            .parsed(with_prefix)?;
        let gateway = gateway.as_ref().and_then(|item| {
            let gateway = self::address(item)?;
            if !address.contains(&gateway) {
                item.error(format!("{gateway} is not in the network of {address}"));
            }
            Some(gateway)
        });
        Some(StaticAddress { address, gateway })
    };
    object.list("addresses").iter().filter_map(read).collect()
}

fn routes(object: &Object<'_>) -> Vec<Route> {
    let read = |item: &Item<'_>| {
        let object = item.object(&table::ROUTE)?;
        let via = object.get("gw").as_ref().and_then(address);
        let destination: IpNet = object.need("dst", "give a network such as 0.0.0.0/0")?.parsed(|text| {
            text.parse()
                .map(|net: IpNet| net.trunc())
                .map_err(|_| "give a network such as 0.0.0.0/0".to_owned())
        })?;
        Some(Route { destination, via })
    };
    object.list("routes").iter().filter_map(read).collect()
}
