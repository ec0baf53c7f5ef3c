//! Version 1, which was curtin's: a list of devices with their subnets.

use super::super::fields::cloud_init as table;
use super::super::reader::{Item, Object};
use super::{Device, Given, Match, address, given, mac, mtu};
use ipnet::IpNet;
use std::net::IpAddr;

/// Reads `config`.
pub fn devices(config: &Item<'_>) -> Vec<Device> {
    // `config: disabled` leaves the network alone.
    if config.scalar().is_some() {
        return Vec::new();
    }
    config.items().iter().filter_map(device).collect()
}

fn device(item: &Item<'_>) -> Option<Device> {
    let config = item.object(&table::CONFIG)?;
    if config.text("type")? != "physical" {
        return None;
    }
    let by_mac = config.get("mac_address").and_then(|item| given(&item, mac));
    let is = match (by_mac, config.text("name")) {
        (Some(mac), _) => Match::Mac(mac),
        (None, Some(name)) => Match::Name(name.to_owned()),
        (None, None) => Match::Unknown,
    };
    let mut device = Device::new(item.spot().clone(), is);
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

/// An address with its prefix, or with that of `netmask` beside it. Without either it is the
/// address alone, as cloud-init has it.
fn network(item: &Item<'_>, beside: &Object<'_>) -> Option<Given<IpNet>> {
    let text = item.text()?.trim();
    let mask = beside.get("netmask").and_then(|item| mask(&item));
    let alone = |address: IpAddr| match mask {
        Some(prefix) => IpNet::new(address, prefix).ok(),
        None => Some(address.into()),
    };
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| text.parse::<IpAddr>().ok().and_then(alone));
    if network.is_none() {
        item.error(format!("{text:?}: this is no address"));
    }
    given(item, |_| network)
}

/// `255.255.255.0`, or a number.
fn mask(item: &Item<'_>) -> Option<u8> {
    let text = &item.scalar()?.text;
    let of_address = || ipnet::ip_mask_to_prefix(text.parse().ok()?).ok();
    let prefix = text.parse().ok().or_else(of_address);
    if prefix.is_none() {
        item.error(format!("{text:?}: this is no netmask"));
    }
    prefix
}
