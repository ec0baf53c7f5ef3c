//! Writes network data that match a plan, in version 2.
//!
//! NICs are identified by their MACs, which do not depend on the guest's order. Addresses that hawser's own servers
//! hand out are requested by DHCP, so they are configured in one place. Addresses of `static` are written out: DHCPv6
//! announces no router, and the servers hand out only the first of several addresses.

use super::offer::{FamilyAddresses, Offer, is_ipv4};
use crate::nic::Route;
use crate::objects::dns::Dns;
use crate::objects::ipam::Ipam;
use crate::plan::{NicPlan, VmPlan};
use hawser_packet::MacAddr;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Writes the network data. `macs` are the MACs of the NICs, if they are known.
///
/// # Errors
/// Several NICs cannot be distinguished.
pub fn network_data(plan: &VmPlan, macs: &[Option<MacAddr>]) -> Result<String, String> {
    let mut text = format!(
        "# For VM {}/{}: spec.volumes[].cloudInitNoCloud.networkData\nversion: 2\nethernets:\n",
        plan.namespace, plan.name
    );
    for (number, nic) in plan.nics.iter().enumerate() {
        let mac = macs.get(number).copied().flatten();
        if mac.is_none() && plan.nics.len() > 1 {
            return Err(format!(
                "interface {:?}: its MAC is only known when it is served, and a guest \
                 distinguishes several NICs by their MACs: give it a macAddress",
                nic.name
            ));
        }
        ethernet(&mut text, number, nic, mac);
    }
    Ok(text)
}

fn ethernet(text: &mut String, number: usize, nic: &NicPlan, mac: Option<MacAddr>) {
    let mut line = |indent: usize, what: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:indent$}{what}", "");
    };
    // Without netplan, cloud-init renames the NIC to this key, so the key is a name that every kernel accepts.
    line(2, &format!("eth{number}: # interface {:?}", nic.name));
    line(4, "match:");
    match mac {
        Some(mac) => line(6, &format!("macaddress: \"{mac}\"")),
        None => line(6, "name: \"e*\""),
    }
    let offer = Offer::of(nic);
    let written = is_written(nic);
    if matches!(
        (&offer.ipv4, &offer.ipv6),
        (FamilyAddresses::Nothing, FamilyAddresses::Nothing)
    ) {
        line(
            4,
            "# hawser does not know what addresses are handed out here: give addresses, or dhcp4: true.",
        );
    }
    let asks4 = !written && !matches!(offer.ipv4, FamilyAddresses::Nothing);
    line(4, &format!("dhcp4: {asks4}"));
    line(4, &format!("dhcp6: {}", !written && offer.ipv6.is_told()));
    line(4, &format!("accept-ra: {}", accepts_routers(nic, &offer)));
    if let Some(mtu) = offer.mtu {
        line(4, &format!("mtu: {mtu}"));
    }
    if let (true, Some(segment)) = (written, nic.mode.segment()) {
        if let Ipam::Static { routes, .. } = &segment.ipam {
            fixed(&mut line, &offer, routes);
        }
        if let Some(dns) = &segment.dns {
            names(&mut line, dns);
        }
    }
}

/// True if the addresses are written out instead of requested.
fn is_written(nic: &NicPlan) -> bool {
    let segment = nic.mode.segment();
    segment.is_some_and(|segment| matches!(segment.ipam, Ipam::Static { .. }))
}

/// The router of the guest. It is hawser, the pod's, or the segment's own. If the manifest names an IPv6 router, that
/// one is used.
fn accepts_routers(nic: &NicPlan, offer: &Offer) -> bool {
    let named = |told: &FamilyAddresses| matches!(told, FamilyAddresses::Addresses(leases) if leases.iter().any(|l| l.gateway.is_some()));
    !(is_written(nic) && named(&offer.ipv6))
}

/// Writes addresses and routes.
fn fixed(line: &mut impl FnMut(usize, &str), offer: &Offer, routes: &[Route]) {
    line(4, "addresses:");
    let mut hops: Vec<(String, IpAddr)> = Vec::new();
    for told in [&offer.ipv4, &offer.ipv6] {
        let FamilyAddresses::Addresses(leases) = told else {
            continue;
        };
        for lease in leases {
            line(6, &format!("- \"{}\"", lease.address));
        }
        let ipv4 = leases.first().is_some_and(|lease| is_ipv4(&lease.address));
        let gateway = leases.iter().find_map(|lease| lease.gateway);
        let of_family = routes.iter().filter(|route| is_ipv4(&route.destination) == ipv4);
        hops.extend(of_family.filter_map(|route| Some((route.destination.to_string(), route.via.or(gateway)?))));
        let default = if ipv4 { "0.0.0.0/0" } else { "::/0" };
        let gateway = gateway.filter(|_| hops.iter().all(|(to, _)| to != default));
        hops.extend(gateway.map(|gateway| (default.to_owned(), gateway)));
    }
    if !hops.is_empty() {
        line(4, "routes:");
    }
    for (to, via) in hops {
        line(6, &format!("- to: \"{to}\""));
        line(6, &format!("  via: \"{via}\""));
    }
}

fn names(line: &mut impl FnMut(usize, &str), dns: &Dns) {
    let search = if dns.search.is_empty() {
        dns.domain.as_slice()
    } else {
        &dns.search
    };
    if dns.nameservers.is_empty() && search.is_empty() {
        return;
    }
    line(4, "nameservers:");
    if !dns.nameservers.is_empty() {
        line(6, &format!("addresses: [{}]", quoted(&dns.nameservers)));
    }
    if !search.is_empty() {
        line(6, &format!("search: [{}]", quoted(search)));
    }
}

fn quoted<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{:?}", item.to_string())).collect();
    items.join(", ")
}
