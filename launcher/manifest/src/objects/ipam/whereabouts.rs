//! Reads address management as in whereabouts (k8snetworkplumbingwg/whereabouts: its README.md, pkg/config/config.go
//! and pkg/allocate/allocate.go).
//!
//! It is more lenient than host-local: it silently ignores bounds that are not hosts of the network. hawser assigns the
//! same addresses, and a warning gives the reason.

use super::{Choice, Ipam, Range, Ranges, address, hosts, named_addresses, network, routes, step, without};
use crate::objects::fields::cni as table;
use crate::objects::reader::{Item, Object};
use ipnet::IpNet;
use std::net::IpAddr;

/// Reads `ipam`.
pub(super) fn read(object: &Object<'_>) -> Option<Ipam> {
    let gateway = object.get("gateway").as_ref().and_then(address);
    let mut ranges: Vec<Vec<Range>> = Vec::new();
    if object.get("range").is_some() {
        ranges.extend(range(object, gateway));
    } else {
        for name in ["range_start", "range_end", "exclude"] {
            if let Some(item) = object.get(name) {
                item.warn("ignored: it belongs to range, which is not given");
            }
        }
    }
    for item in object.list("ipRanges") {
        let entry = item.object(&table::WHEREABOUTS_RANGE);
        ranges.extend(entry.and_then(|entry| range(&entry, gateway)));
    }
    if object.get("range").is_none() && object.list("ipRanges").is_empty() {
        object.error("it has no range: give range, such as 192.0.2.0/24, or ipRanges");
    }
    // A pool with its own network_name, or without enable_overlapping_ranges, does not take other pools into account.
    // Only addresses on its segment must differ.
    let alone = object.text("network_name").is_some_and(|name| !name.is_empty())
        || object.boolean("enable_overlapping_ranges") == Some(false);
    Some(Ipam::Whereabouts(Ranges {
        ranges,
        addresses: named_addresses(object),
        routes: routes(object),
        choice: if alone { Choice::Lowest } else { Choice::LowestAnywhere },
    }))
}

/// Reads `range` and the fields for it. Returns the parts that may be assigned, in the order of addresses.
fn range(object: &Object<'_>, gateway: Option<IpAddr>) -> Option<Vec<Range>> {
    let item = object.need("range", "give a network such as 192.0.2.0/24")?;
    let (start, net, end) = item.parsed(bounds)?;
    let (first, last) = usable(net);
    let [range_start, range_end] = ["range_start", "range_end"].map(|name| object.get(name));
    let (start, end) = if end.is_some() {
        for given in [&range_start, &range_end].into_iter().flatten() {
            given.warn("ignored: range itself has a first and a last address");
        }
        (start.map(|start| (start, &item)), end.map(|end| (end, &item)))
    } else {
        (range_start.as_ref().and_then(bound), range_end.as_ref().and_then(bound))
    };
    // This follows GetIPRange in its pkg/iphelpers.
    let within = |(bound, item): (IpAddr, &Item<'_>), least: IpAddr, what: &str| {
        let is_host = bound.is_ipv4() == least.is_ipv4() && least <= bound && bound <= last;
        if !is_host && !is_edge(net, bound) {
            item.warn(format!(
                "its {what} {bound} is ignored, as in whereabouts: it is not in {least} to {last}"
            ));
        }
        is_host.then_some(bound)
    };
    let first = start.and_then(|start| within(start, first, "start")).unwrap_or(first);
    let last = end.and_then(|end| within(end, first, "end")).unwrap_or(last);
    let exclude = object.list("exclude");
    let excluded: Vec<IpNet> = exclude.iter().filter_map(|item| item.parsed(excluded_net)).collect();
    let whole = Range {
        subnet: net.trunc(),
        first,
        last,
        gateway: gateway.filter(|gateway| gateway.is_ipv4() == first.is_ipv4()),
    };
    let rest = without(whole, excluded);
    if rest.is_empty() {
        object.error(format!("exclude leaves no address of {first} to {last}"));
    }
    Some(rest)
}

/// Parses `192.0.2.0/24`, whose host bits are ignored, or `192.0.2.10-192.0.2.20/24`.
fn bounds(text: &str) -> Result<(Option<IpAddr>, IpNet, Option<IpAddr>), String> {
    let Some((start, rest)) = text.split_once('-') else {
        return Ok((None, network(text)?, None));
    };
    let start: IpAddr = start
        .parse()
        .map_err(|_| "give FIRST-LAST/PREFIX, such as 192.0.2.10-192.0.2.20/24".to_owned())?;
    let net = network(rest)?;
    if !net.contains(&start) {
        return Err(format!("{start} is not in {}: give a first address in it", net.trunc()));
    }
    Ok((Some(start), net, Some(net.addr())))
}

/// Reads a bound. An invalid address is ignored, as in whereabouts.
fn bound<'a, 'b>(item: &'b Item<'a>) -> Option<(IpAddr, &'b Item<'a>)> {
    let text = item.text()?;
    if text.parse::<IpAddr>().is_err() {
        item.warn("ignored, as in whereabouts: it is not an address");
    }
    Some((text.parse().ok()?, item))
}

/// Parses an address or a network.
fn excluded_net(text: &str) -> Result<IpNet, String> {
    let one = |address: IpAddr| IpNet::from(address);
    let net = text.parse().or_else(|_| text.parse().map(one));
    net.map(|net| net.trunc())
        .map_err(|_: std::net::AddrParseError| "give a network or an address, such as 192.0.2.16/28".to_owned())
}

/// First and last address that whereabouts assigns. It excludes the network's first and last address even in IPv6.
fn usable(net: IpNet) -> (IpAddr, IpAddr) {
    let (first, _) = hosts(net.trunc());
    let last = step(net.broadcast(), false).unwrap_or(first);
    (first, last)
}

/// True for the network's first or last address. Such a bound means the whole network.
fn is_edge(net: IpNet, address: IpAddr) -> bool {
    address == net.network() || address == net.broadcast()
}
