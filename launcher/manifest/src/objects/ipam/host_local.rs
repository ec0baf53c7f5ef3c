//! Reads address management as in the CNI plugin host-local.

use super::{Choice, Ipam, Range, Ranges, Requested, address, hosts, network, routes};
use crate::objects::fields::cni as table;
use crate::objects::reader::{Item, Object};
use std::net::IpAddr;

pub(super) fn read(object: &Object<'_>, requested: &Requested<'_>) -> Option<Ipam> {
    let routes = routes(object);
    let sets = object.list("ranges");
    let set = |set: &Item<'_>| -> Vec<Range> {
        let read = |item: &Item<'_>| range(&item.object(&table::HOST_LOCAL_RANGE)?);
        let items = set.items();
        if items.is_empty() {
            set.error("this set is empty: give a range such as {subnet: 10.10.0.0/16}, or leave it out");
        }
        let ranges: Vec<Range> = items.iter().filter_map(read).collect();
        if ranges
            .iter()
            .any(|range| range.first.is_ipv4() != ranges[0].first.is_ipv4())
        {
            set.error("this set has ranges of both families: give each family a set of its own");
        }
        ranges
    };
    let mut ranges: Vec<Vec<Range>> = requested.ranges.iter().map(set).collect();
    if object.get("subnet").is_some() {
        ranges.push(range(object).into_iter().collect());
    }
    ranges.extend(sets.iter().map(set));
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
    let mut ranges = Ranges {
        ranges,
        addresses: Vec::new(),
        routes,
        choice: Choice::Next,
    };
    for item in requested.ips.iter().flatten() {
        ask_for(&mut ranges, item);
    }
    Some(Ipam::HostLocal(ranges))
}

fn range(object: &Object<'_>) -> Option<Range> {
    let item = object.need("subnet", "give a network such as 10.10.0.0/16")?;
    let bounds = ["rangeStart", "rangeEnd", "gateway"].map(|name| {
        let item = object.get(name);
        (item.as_ref().and_then(address), item)
    });
    let subnet = item.parsed(|text| match network(text)? {
        net if net.trunc() != net => Err(format!("it has host bits: give {}", net.trunc())),
        net => Ok(net),
    })?;
    let (first_host, last_host) = hosts(subnet);
    let mut inside = true;
    for (value, item) in &bounds {
        if let (Some(value), Some(item)) = (value, item)
            && !(first_host <= *value && *value <= last_host && value.is_ipv4() == first_host.is_ipv4())
        {
            item.error(format!(
                "{value} is not a host of {subnet}: give {first_host} to {last_host}"
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
        gateway: Some(gateway),
    })
}

/// Reduces the set that contains the requested address to that address.
fn ask_for(ranges: &mut Ranges, item: &Item<'_>) {
    let parse = |text: &str| text.split('/').next().unwrap_or(text).parse::<IpAddr>();
    let asked = item.parsed(|text| parse(text).map_err(|_| "give an IPv4 or IPv6 address".to_owned()));
    if let Some(Err(why)) = asked.map(|asked| ranges.ask_for(asked)) {
        item.error(why);
    }
}
