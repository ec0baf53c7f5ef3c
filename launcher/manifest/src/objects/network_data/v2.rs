//! Reads version 2, which is netplan's: devices by name.

use super::super::fields::cloud_init as table;
use super::super::reader::{Item, Object};
use super::{Device, Match, address, given, mac, mtu, name};
use ipnet::IpNet;

/// Reads the network data.
pub(super) fn devices(data: &Object<'_>) -> Vec<Device> {
    let kinds = ["bonds", "bridges", "vlans"];
    let made = kinds.iter().filter_map(|kind| data.get(kind));
    let members: Vec<String> = made.flat_map(|kind| members(&kind)).collect();
    let Some(ethernets) = data.get("ethernets") else {
        return Vec::new();
    };
    let read = |(key, item): (&str, Item<'_>)| {
        let mut device = device(key, &item)?;
        device.is_member = members.iter().any(|member| member == key);
        Some(device)
    };
    ethernets.texts().into_iter().filter_map(read).collect()
}

/// The devices of which the devices created in the guest consist.
fn members(kind: &Item<'_>) -> Vec<String> {
    let made = kind.texts();
    let made = made.iter().filter_map(|(_, item)| item.object(&table::MADE));
    let items = made.flat_map(|made| made.list("interfaces").into_iter().chain(made.get("link")));
    items.filter_map(|item| name(&item)).collect()
}

fn device(name: &str, item: &Item<'_>) -> Option<Device> {
    let ethernet = item.object(&table::ETHERNET)?;
    let is = match ethernet.object("match", &table::MATCH) {
        None => Match::Name(name.to_owned()),
        Some(wanted) => match (wanted.get("macaddress"), wanted.text("name")) {
            (Some(item), _) => given(&item, mac).map_or(Match::Unknown, Match::Mac),
            (None, Some(pattern)) => Match::Name(pattern.to_owned()),
            (None, None) => Match::Unknown,
        },
    };
    let mut device = Device::new(item.spot().clone(), is);
    device.own_mac = ethernet.get("macaddress").and_then(|item| given(&item, mac));
    device.mtu = ethernet.get("mtu").and_then(|item| given(&item, mtu));
    device.dhcp4 = ethernet.boolean("dhcp4") == Some(true);
    device.dhcp6 = ethernet.boolean("dhcp6") == Some(true);
    device.accept_ra = ethernet.boolean("accept-ra");
    let addresses = ethernet.list("addresses");
    device.addresses = addresses.iter().filter_map(|item| given(item, network)).collect();
    for field in ["gateway4", "gateway6"] {
        let gateway = ethernet.get(field).and_then(|item| given(&item, address));
        device.gateways.extend(gateway);
    }
    for item in ethernet.list("routes") {
        let Some(route) = item.object(&table::ROUTE) else {
            continue;
        };
        if matches!(route.text("to"), Some("default" | "0.0.0.0/0" | "::/0" | "0::0/0")) {
            let gateway = route.get("via").and_then(|item| given(&item, address));
            device.gateways.extend(gateway);
        }
    }
    Some(device)
}

/// Reads an address with its prefix. If it is a map with one address as key, the map contains the address's lifetime
/// and label.
fn network(item: &Item<'_>) -> Option<IpNet> {
    let read = |text: &str| text.trim().parse().ok();
    if item.is_map() {
        return item.texts().first().and_then(|(key, _)| read(key));
    }
    item.parsed(|text| {
        read(text).ok_or_else(|| {
            "this is not an address with a prefix such as \
        192.0.2.5/24"
                .to_owned()
        })
    })
}
