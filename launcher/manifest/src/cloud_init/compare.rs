//! Compares a VM's network data with the addresses that its NICs' guests receive.
//!
//! A contradiction is a warning, because most guests work despite it. It is an error if the guest would be without a
//! network. Only in masquerade is that certain, because NAT has one gateway, and one guest address per family. A device
//! is matched to its NIC with certainty by its MAC, or if there is only one of each. If only the device's name decides,
//! the guest's kernel may count in another order, so every contradiction is a warning. The same applies to a family
//! whose network the manifest does not name, because the pod may lack it.

use super::offer::{FamilyAddresses, Lease, Offer, is_ipv4};
use crate::objects::ipam::Range;
use crate::objects::network_data::{Device, Given, Match};
use crate::objects::report::{Report, Spot};
use crate::plan::{NicPlan, VmPlan};
use ipnet::IpNet;
use std::net::IpAddr;

/// Reports network data of a VM that contradict its plan.
pub fn check(devices: &[Device], plan: &VmPlan, report: &Report) {
    let alone = devices.len() == 1 && plan.nics.len() == 1;
    for device in devices {
        let Some((nic, certain)) = find(device, alone, plan, report) else {
            continue;
        };
        let comparison = Comparison {
            device,
            nic,
            certain,
            report,
        };
        comparison.check(&Offer::of(nic));
    }
}

/// The NIC of a device, and whether the match is certain.
fn find<'a>(device: &Device, alone: bool, plan: &'a VmPlan, report: &Report) -> Option<(&'a NicPlan, bool)> {
    let nics = &plan.nics;
    match &device.is {
        Match::Mac(mac) => {
            let found = nics.iter().find(|nic| nic.mac == Some(mac.value));
            if found.is_none() {
                let message = format!("no interface has this MAC, so cloud-init finds none: {}", macs(plan));
                report.warn(&mac.spot, message);
            }
            Some((found?, true))
        }
        Match::Name(name) => {
            if ethernet(name).is_some_and(|number| number >= nics.len()) {
                let names: Vec<String> = nics.iter().map(|nic| format!("{:?}", nic.name)).collect();
                let message = format!("a guest with {} NICs ({}) has no {name}", nics.len(), names.join(", "));
                report.warn(&device.spot, message);
            }
            if alone {
                return Some((nics.first()?, true));
            }
            Some((nics.get(position(name)?)?, false))
        }
        Match::Unknown => Some((nics.first().filter(|_| alone)?, true)),
    }
}

/// Index of the NIC with a device name: `eth0`, or `enp1s0` if each NIC has its own PCIe port, as in KubeVirt's
/// machines.
fn position(name: &str) -> Option<usize> {
    let bus = || {
        name.strip_prefix("enp")?
            .strip_suffix("s0")?
            .parse::<usize>()
            .ok()?
            .checked_sub(1)
    };
    ethernet(name).or_else(bus)
}

fn ethernet(name: &str) -> Option<usize> {
    name.strip_prefix("eth")?.parse().ok()
}

/// The MACs of all NICs, with their position in the manifests.
fn macs(plan: &VmPlan) -> String {
    let of_nic = |nic: &NicPlan| match nic.mac {
        Some(mac) => format!("{mac} is that of {:?} ({})", nic.name, nic.places.mac),
        None => format!("the MAC of {:?} is not given ({})", nic.name, nic.places.interface),
    };
    plan.nics.iter().map(of_nic).collect::<Vec<_>>().join(", ")
}

/// A device and the NIC that it is compared with.
struct Comparison<'a> {
    device: &'a Device,
    nic: &'a NicPlan,
    certain: bool,
    report: &'a Report,
}

impl Comparison<'_> {
    fn check(&self, offer: &Offer) {
        self.card(offer);
        for ipv4 in [true, false] {
            self.family(offer.family(ipv4), ipv4);
        }
    }

    /// Compares MAC and MTU.
    fn card(&self, offer: &Offer) {
        if let (Some(own), Some(mac)) = (&self.device.own_mac, self.nic.mac)
            && own.value != mac
        {
            let message = format!(
                "interface {:?} has {mac} ({}), which identifies the guest on its network",
                self.nic.name, self.nic.places.mac
            );
            self.report.warn(&own.spot, message);
        }
        if let (Some(mtu), Some(most)) = (&self.device.mtu, offer.mtu)
            && mtu.value > u32::from(most)
        {
            let message = format!(
                "{} is above the MTU {most} of its network ({}): larger frames are lost",
                mtu.value, self.nic.places.mtu
            );
            self.report.warn(&mtu.spot, message);
        }
    }

    fn family(&self, told: &FamilyAddresses, ipv4: bool) {
        let of_family = |given: &&Given<IpNet>| is_ipv4(&given.value) == ipv4 && !is_link_local(given.value.addr());
        let addresses: Vec<&Given<IpNet>> = self.device.addresses.iter().filter(of_family).collect();
        let of_family = |given: &&Given<IpAddr>| given.value.is_ipv4() == ipv4 && !is_link_local(given.value);
        let gateways: Vec<&Given<IpAddr>> = self.device.gateways.iter().filter(of_family).collect();
        let family = family_name(ipv4);
        let missing = told.may_be_missing().then_some(family);
        match told {
            FamilyAddresses::Nothing | FamilyAddresses::ByTheSegment => {}
            FamilyAddresses::ThePods => self.pods(&addresses),
            FamilyAddresses::Private { lease, .. } => self.private(lease, missing, &addresses, &gateways),
            FamilyAddresses::Addresses(leases) => self.leased(leases, &addresses, &gateways),
            FamilyAddresses::OneOf(ranges) => self.free(ranges, &addresses),
        }
        if told.is_told() && addresses.is_empty() && !self.asks(ipv4) && !self.device.is_member {
            let field = if ipv4 {
                "dhcp4: true"
            } else {
                "dhcp6: true, or leave out accept-ra: false"
            };
            let only = missing.map_or_else(String::new, |family| format!(", if the pod has {family}"));
            let message = format!(
                "the guest has no address of {family} and does not request the one that interface \
                 {:?} ({}) offers{only}: give {field}",
                self.nic.name, self.nic.places.ipam
            );
            self.report.warn(&self.device.spot, message);
        }
    }

    /// True if the guest requests an address. For IPv6 it does so when a router advertisement announces DHCPv6, unless
    /// it ignores advertisements.
    fn asks(&self, ipv4: bool) -> bool {
        if ipv4 {
            self.device.dhcp4
        } else {
            self.device.dhcp6 || self.device.accept_ra != Some(false)
        }
    }

    /// Reports a contradiction that leaves the guest without a network. It is an error if the NIC is certain and the
    /// pod is known to have the family.
    fn cut_off(&self, spot: &Spot, missing: Option<&str>, message: String) {
        let nic = (!self.certain).then(|| format!("this is interface {:?}", self.nic.name));
        let family = missing.map(|family| format!("the pod has {family}"));
        let conditions: Vec<String> = nic.into_iter().chain(family).collect();
        if conditions.is_empty() {
            self.report.error(spot, message);
        } else {
            let message = format!("if {}: {message}", conditions.join(" and "));
            self.report.warn(spot, message);
        }
    }

    fn private(&self, lease: &Lease, missing: Option<&str>, addresses: &[&Given<IpNet>], gateways: &[&Given<IpAddr>]) {
        for given in addresses {
            self.private_address(lease, missing, given);
        }
        let ipv4 = is_ipv4(&lease.address);
        let (name, place) = (&self.nic.name, &self.nic.places.ipam);
        let Some(gateway) = lease.gateway else {
            return;
        };
        for given in gateways.iter().filter(|given| given.value != gateway) {
            let message = format!(
                "the gateway of interface {name:?} is {gateway} ({place}); the guest reaches \
                 nothing through {}: give {gateway}, or none",
                given.value
            );
            self.cut_off(&given.spot, missing, message);
        }
        if let (Some(given), true, false) = (addresses.first(), gateways.is_empty(), self.asks(ipv4)) {
            let message = format!(
                "no gateway is given or requested, so the guest of interface {name:?} ({place}) \
                 reaches no network but its own: give {gateway}"
            );
            self.report.warn(&given.spot, message);
        }
    }

    fn private_address(&self, lease: &Lease, missing: Option<&str>, given: &Given<IpNet>) {
        let address = given.value;
        let (name, place) = (&self.nic.name, &self.nic.places.ipam);
        let reaches = lease.gateway.is_some_and(|gateway| address.contains(&gateway));
        if reaches && lease.address.addr() == address.addr() {
            return;
        }
        if reaches && lease.address.contains(&address.addr()) {
            let message = format!(
                "the guest of interface {name:?} is {} ({place}): incoming traffic goes there, not \
                 to {}",
                lease.address,
                address.addr()
            );
            self.report.warn(&given.spot, message);
            return;
        }
        let ipv4 = is_ipv4(&lease.address);
        let message = format!(
            "the network of interface {name:?} is {} ({place}); the guest reaches nothing from \
             {address}: give {}, or {} alone",
            lease.address.trunc(),
            lease.address,
            if ipv4 { "dhcp4: true" } else { "dhcp6: true" }
        );
        if self.asks(ipv4) {
            self.report.warn(&given.spot, message);
        } else {
            self.cut_off(&given.spot, missing, message);
        }
    }

    fn pods(&self, addresses: &[&Given<IpNet>]) {
        for given in addresses {
            let message = format!(
                "the guest of interface {:?} takes over the pod's address and receives it by DHCP \
                 ({}): {} is the guest's own choice",
                self.nic.name,
                self.nic.places.ipam,
                given.value.addr()
            );
            self.report.warn(&given.spot, message);
        }
    }

    fn leased(&self, leases: &[Lease], addresses: &[&Given<IpNet>], gateways: &[&Given<IpAddr>]) {
        let (name, place) = (&self.nic.name, &self.nic.places.ipam);
        let is_leased = |given: &&&Given<IpNet>| leases.iter().any(|lease| lease.address.addr() == given.value.addr());
        for given in addresses.iter().filter(|given| !is_leased(given)) {
            let own: Vec<String> = leases.iter().map(|lease| lease.address.to_string()).collect();
            let message = format!(
                "the guest of interface {name:?} gets {} ({place}), and another VM may get {}",
                own.join(", "),
                given.value.addr()
            );
            self.report.warn(&given.spot, message);
        }
        let known: Vec<IpAddr> = leases.iter().filter_map(|lease| lease.gateway).collect();
        for given in gateways.iter().filter(|given| !known.contains(&given.value)) {
            let own: Vec<String> = known.iter().map(ToString::to_string).collect();
            let own = if own.is_empty() { "none".into() } else { own.join(", ") };
            let message = format!("the network of interface {name:?} has the gateway {own} ({place})");
            self.report.warn(&given.spot, message);
        }
    }

    fn free(&self, ranges: &[Range], addresses: &[&Given<IpNet>]) {
        for given in addresses {
            let own: Vec<String> = ranges.iter().map(|r| format!("{} to {}", r.first, r.last)).collect();
            let message = format!(
                "the guest of interface {:?} gets one of {} ({}), which may differ from {}: an \
                 ipam of type static keeps it",
                self.nic.name,
                own.join(", "),
                self.nic.places.ipam,
                given.value.addr()
            );
            self.report.warn(&given.spot, message);
        }
    }
}

const fn family_name(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

/// True for link-local addresses. Every NIC also has one, and no router forwards it.
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
