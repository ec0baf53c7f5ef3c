//! Address management as the CNI plugins host-local, static and dhcp describe it.

use super::dns::{self, Dns};
use super::fields::cni as table;
use super::reader::{Item, Object};
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;

/// Where a guest's addresses come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Ipam {
    /// From nowhere hawser knows of.
    #[default]
    None,
    /// From the segment's own DHCP server.
    Dhcp,
    /// These.
    Static {
        /// Addresses with their networks.
        addresses: Vec<StaticAddress>,
        /// Routes besides that of the networks.
        routes: Vec<Route>,
    },
    /// A free one of each set.
    #[serde(rename = "host-local")]
    HostLocal {
        /// Sets of ranges.
        ranges: Vec<Vec<Range>>,
        /// Routes besides that of the networks.
        routes: Vec<Route>,
    },
}

/// `static`: one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StaticAddress {
    /// The address, with the length of its network's prefix.
    pub address: IpNet,
    /// The network's router.
    pub gateway: Option<IpAddr>,
}

/// `host-local`: addresses of a network that may be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The network.
    pub subnet: IpNet,
    /// The first of them.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
    /// The network's router, never given out.
    pub gateway: IpAddr,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Next hop; the gateway if it is not given.
    pub via: Option<IpAddr>,
}

/// Longest prefixes that leave a network two hosts.
const MAX_PREFIX: (u8, u8) = (30, 126);

/// Reads `ipam` of a configuration, and the names that come with it.
pub fn read(item: &Item<'_>) -> Option<(Ipam, Option<Dns>)> {
    let plain = |ipam| (ipam, None);
    match item.field_text("type") {
        None => item.object(&table::NO_IPAM).map(|_| plain(Ipam::None)),
        Some("host-local") => host_local(&item.object(&table::HOST_LOCAL)?).map(plain),
        Some("static") => {
            let object = item.object(&table::STATIC)?;
            fixed(&object).map(|ipam| (ipam, dns::read(&object)))
        }
        Some("dhcp") => item.object(&table::DHCP).map(|_| plain(Ipam::Dhcp)),
        Some(other) => {
            item.error(format!(
                "type {other:?} is not served: choose host-local, static or dhcp"
            ));
            None
        }
    }
}

fn address(item: &Item<'_>) -> Option<IpAddr> {
    item.parsed(|text| text.parse().map_err(|_| "give an IPv4 or IPv6 address".to_owned()))
}

fn host_local(object: &Object<'_>) -> Option<Ipam> {
    let routes = routes(object);
    let sets = object.list("ranges");
    let mut ranges: Vec<Vec<Range>> = Vec::new();
    if object.get("subnet").is_some() {
        ranges.push(range(object).into_iter().collect());
    }
    for set in sets {
        let read = |item: &Item<'_>| range(&item.object(&table::HOST_LOCAL_RANGE)?);
        ranges.push(set.items().iter().filter_map(read).collect());
    }
    if ranges.is_empty() {
        object.error("it has no range: give ranges: [[{subnet: …}]]");
    }
    let flat: Vec<&Range> = ranges.iter().flatten().collect();
    for (n, range) in flat.iter().enumerate() {
        let overlaps = |b: &&&Range| b.first <= range.last && range.first <= b.last;
        if let Some(other) = flat[..n].iter().find(overlaps) {
            object.error(format!(
                "ranges of {} and {} overlap: keep them apart",
                other.subnet, range.subnet
            ));
        }
    }
    Some(Ipam::HostLocal { ranges, routes })
}

fn range(object: &Object<'_>) -> Option<Range> {
    let item = object.need("subnet", "give a network such as 10.10.0.0/16")?;
    let bounds = ["rangeStart", "rangeEnd", "gateway"].map(|name| {
        let item = object.get(name);
        (item.as_ref().and_then(address), item)
    });
    let subnet: IpNet = item.parsed(|text| {
        let net: IpNet = text
            .parse()
            .map_err(|_| "give a network such as 10.10.0.0/16".to_owned())?;
        let most = if net.addr().is_ipv4() {
            MAX_PREFIX.0
        } else {
            MAX_PREFIX.1
        };
        match net {
            _ if net.prefix_len() > most => Err(format!("it is too narrow: give /{most} or wider")),
            _ if net.trunc() != net => Err(format!("it has host bits: give {}", net.trunc())),
            _ => Ok(net),
        }
    })?;
    let (first_host, last_host) = hosts(subnet);
    let mut inside = true;
    for (value, item) in &bounds {
        if let (Some(value), Some(item)) = (value, item)
            && !(first_host <= *value && *value <= last_host && value.is_ipv4() == first_host.is_ipv4())
        {
            item.error(format!(
                "{value} is no host of {subnet}: give {first_host} to {last_host}"
            ));
            inside = false;
        }
    }
    let [(start, _), (end, _), (gateway, _)] = bounds;
    let (first, last) = (start.unwrap_or(first_host), end.unwrap_or(last_host));
    if inside && first > last {
        object.error(format!("rangeEnd {last} is below rangeStart {first}"));
        inside = false;
    }
    let gateway = gateway.unwrap_or(first_host);
    inside.then_some(Range {
        subnet,
        first,
        last,
        gateway,
    })
}

/// First and last address of a network that a host can have.
fn hosts(subnet: IpNet) -> (IpAddr, IpAddr) {
    match subnet {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits() + 1, net.broadcast().to_bits() - 1);
            (IpAddr::V4(first.into()), IpAddr::V4(last.into()))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits() + 1, net.broadcast().to_bits());
            (IpAddr::V6(first.into()), IpAddr::V6(last.into()))
        }
    }
}

fn fixed(object: &Object<'_>) -> Option<Ipam> {
    let items = object.list("addresses");
    if items.is_empty() {
        object.error("addresses is missing or empty: give one at least, such as {address: 192.0.2.5/24}");
    }
    let read = |item: &Item<'_>| {
        let object = item.object(&table::STATIC_ADDRESS)?;
        let gateway = object.get("gateway");
        let address: IpNet = object
            .need("address", "give it with its prefix: 192.0.2.5/24")?
            .parsed(|text| {
                text.parse()
                    .map_err(|_| "give an address with its prefix, such as 192.0.2.5/24".to_owned())
            })?;
        let gateway = gateway.as_ref().and_then(|item| {
            let gateway = self::address(item)?;
            if !address.contains(&gateway) {
                item.error(format!("{gateway} is not in the network of {address}"));
            }
            Some(gateway)
        });
        Some(StaticAddress { address, gateway })
    };
    Some(Ipam::Static {
        addresses: items.iter().filter_map(read).collect(),
        routes: routes(object),
    })
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
