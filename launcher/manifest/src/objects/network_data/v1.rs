//! Reads version 1, inherited from curtin: a list of devices with their subnets.

use super::super::fields::cloud_init as table;
use super::super::reader::{Item, Object};
use super::{Device, Given, Match, address, given, mac, mtu, name};
use ipnet::IpNet;
use std::net::IpAddr;

/// Reads `config`.
pub(super) fn devices(config: &Item<'_>) -> Vec<Device> {
    // `config: disabled` leaves the network unchanged.
    if config.scalar().is_some() {
        return Vec::new();
    }
    let items = config.items();
    let objects: Vec<Object<'_>> = items.iter().filter_map(|item| item.object(&table::CONFIG)).collect();
    let members: Vec<String> = objects.iter().flat_map(members).collect();
    objects.iter().filter_map(|config| device(config, &members)).collect()
}

/// The devices of which a device created in the guest consists.
fn members(config: &Object<'_>) -> Vec<String> {
    let lists = ["bond_interfaces", "bridge_interfaces"];
    let listed = lists.iter().flat_map(|field| config.list(field));
    listed
        .chain(config.get("vlan_link"))
        .filter_map(|item| name(&item))
        .collect()
}

fn device(config: &Object<'_>, members: &[String]) -> Option<Device> {
    if config.text("type")? != "physical" {
        return None;
    }
    let by_mac = config.get("mac_address").and_then(|item| given(&item, mac));
    let is = match (by_mac, config.text("name")) {
        (Some(mac), _) => Match::Mac(mac),
        (None, Some(name)) => Match::Name(name.to_owned()),
        (None, None) => Match::Unknown,
    };
    let mut device = Device::new(config.spot().clone(), is);
    device.is_member = config
        .text("name")
        .is_some_and(|name| members.iter().any(|m| m == name));
    device.mtu = config.get("mtu").and_then(|item| given(&item, mtu));
    device.accept_ra = config.boolean("accept-ra");
    for subnet in config.list("subnets") {
        if let Some(subnet) = subnet.object(&table::SUBNET) {
            add_subnet(&mut device, &subnet);
        }
    }
    Some(device)
}

fn add_subnet(device: &mut Device, subnet: &Object<'_>) {
    match subnet.text("type") {
        Some("dhcp" | "dhcp4") => device.dhcp4 = true,
        Some("dhcp6" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless") => device.dhcp6 = true,
        Some("ipv6_slaac") => device.accept_ra = Some(true),
        Some("static" | "static6") => {
            let address = subnet.get("address");
            device.addresses.extend(address.and_then(|item| network(&item, subnet)));
        }
        _ => {}
    }
    let gateway = subnet.get("gateway").and_then(|item| given(&item, address));
    device.gateways.extend(gateway);
    for item in subnet.list("routes") {
        let Some(route) = item.object(&table::SUBNET_ROUTE) else {
            continue;
        };
        let to = route.get("network").or_else(|| route.get("destination"));
        let to = to.and_then(|item| network(&item, &route));
        if to.is_some_and(|to| to.value.prefix_len() == 0) {
            let gateway = route.get("gateway").and_then(|item| given(&item, address));
            device.gateways.extend(gateway);
        }
    }
}

/// An address with its prefix length: its own, that of `prefix`, or that of `netmask`. Without any of these, the prefix
/// length is cloud-init's default (`_normalize_net_keys` in cloudinit/net/network_state.py).
fn network(item: &Item<'_>, beside: &Object<'_>) -> Option<Given<IpNet>> {
    let text = item.text()?.trim();
    let (alone, own) = match text.split_once('/') {
        Some((alone, own)) => (alone, Some(own)),
        None => (text, None),
    };
    let address = alone.parse::<IpAddr>();
    let by_default = if text.contains(':') { IPV6_PREFIX } else { IPV4_PREFIX };
    let prefix = match own {
        Some(own) => prefix(own),
        None => match beside.get("prefix").or_else(|| beside.get("netmask")) {
            Some(item) => Some(mask(&item)?),
            None => Some(by_default),
        },
    };
    let network = address
        .ok()
        .zip(prefix)
        .and_then(|(a, width)| IpNet::new(a, width).ok());
    if network.is_none() {
        item.error(format!("{text:?}: this is not an address"));
    }
    given(item, |_| network)
}

/// Reads the prefix length in an item.
fn mask(item: &Item<'_>) -> Option<u8> {
    let text = &item.scalar()?.text;
    let prefix = prefix(text);
    if prefix.is_none() {
        item.error(format!("{text:?}: this is not a netmask"));
    }
    prefix
}

/// Parses a netmask such as `255.255.255.0`, or a number.
fn prefix(text: &str) -> Option<u8> {
    let of_address = || ipnet::ip_mask_to_prefix(text.parse().ok()?).ok();
    text.parse().ok().or_else(of_address)
}

/// cloud-init's default prefix length for an IPv4 address.
const IPV4_PREFIX: u8 = 24;
/// cloud-init's default prefix length for an IPv6 address.
const IPV6_PREFIX: u8 = 64;
