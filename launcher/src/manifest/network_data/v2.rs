//! Version 2, which is netplan's: devices by their names.

use super::super::fields::cloud_init as table;
use super::super::reader::Item;
use super::{Device, Match, address, given, mac, mtu};
use ipnet::IpNet;

/// Reads `ethernets`.
pub fn devices(ethernets: &Item<'_>) -> Vec<Device> {
    let pairs = ethernets.texts();
    pairs.iter().filter_map(|(name, item)| device(name, item)).collect()
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

/// An address with its prefix; a map of one has its lifetime and label within.
fn network(item: &Item<'_>) -> Option<IpNet> {
    let read = |text: &str| text.trim().parse().ok();
    if item.is_map() {
        return item.texts().first().and_then(|(key, _)| read(key));
    }
    item.parsed(|text| read(text).ok_or_else(|| "this is no address with a prefix such as 192.0.2.5/24".to_owned()))
}
