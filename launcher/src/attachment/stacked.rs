//! A macvtap or ipvtap on another link, either created by hawser or already existing.

use super::AttachError;
use super::device::{Device, DeviceRecord, adopt, random_mac, random_name};
use super::survey::{Finding, MacOwner, article, check_lower, find, require_privilege};
use crate::sandbox::Needs;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_config::{Forwarding, VlanConfig};
use hawser_host::claim::Claim;
use hawser_host::guest_address::Ipvtap;
use hawser_host::journal::{Journal, Undo};
use hawser_host::link::{Link, NewKind, NewLink};
use hawser_host::netlink::Netlink;
use hawser_host::tap_node;
use hawser_manifest::nic::{IpvtapMode, MacvtapMode, NicSpec, Stack};
use netlink_packet_route::link::{IpVtapMode, MacVtapMode};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;

/// A macvtap or ipvtap that hawser creates above another link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stacked {
    /// Name of the lower link.
    lower: String,
    /// Name of the new link.
    name: String,
    /// Kind and mode of the new link.
    kind: NewKind,
    /// MAC of the new link. `None`: that of the lower link.
    mac: Option<MacAddr>,
    /// Addresses of the guest to assign to an ipvtap.
    guests: Vec<IpAddr>,
}

/// An existing macvtap or ipvtap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    name: String,
    kind: String,
}

/// Surveys the lower link of a macvtap.
pub(super) fn look_at_macvtap(netlink: &mut Netlink, stack: &Stack<MacvtapMode>) -> Result<Finding, AttachError> {
    let lower = find(netlink, &stack.lower, "")?;
    if lower.is("macvtap") {
        return match stack.mode {
            Some(_) => Err(mode_of_adopted(&lower)),
            None => adopted(lower),
        };
    }
    let lower_mac = check_lower(netlink, &lower)?;
    require_privilege(netlink, "creating a macvtap")?;
    let mode = stack.mode.map_or(MacVtapMode::Bridge, macvtap_mode);
    // Only a passthru macvtap may have the MAC of its lower link. The MAC of the spec takes precedence.
    let mac = match mode {
        MacVtapMode::Passthrough => lower_mac,
        _ => random_mac()?,
    };
    let device = Stacked {
        name: random_name("hwm")?,
        kind: NewKind::Macvtap(mode),
        mac: Some(mac),
        lower: stack.lower.clone(),
        guests: Vec::new(),
    };
    Ok(Finding {
        mac: Some(mac),
        ..Finding::of(device, Some(&lower))
    })
}

/// Surveys the lower link of an ipvtap.
pub(super) fn look_at_ipvtap(
    netlink: &mut Netlink,
    stack: &Stack<IpvtapMode>,
    guests: &[IpAddr],
    spec: &NicSpec,
) -> Result<Finding, AttachError> {
    let lower = find(netlink, &stack.lower, "")?;
    if lower.is("ipvtap") {
        if stack.mode.is_some() {
            return Err(mode_of_adopted(&lower));
        }
        if !guests.is_empty() {
            return Err(AttachError::GuestsOfAdopted(lower.name));
        }
        let forwarding = forwarding(lower.ipvtap_mode, lower.mac, &lower.name, spec)?;
        return Ok(Finding {
            forwarding,
            ..adopted(lower)?
        });
    }
    let mac = check_lower(netlink, &lower)?;
    require_privilege(netlink, "creating an ipvtap")?;
    let mode = stack.mode.map_or(IpVtapMode::L2, ipvtap_mode);
    let forwarding = forwarding(Some(mode), Some(mac), &lower.name, spec)?;
    let device = Stacked {
        name: random_name("hwi")?,
        kind: NewKind::Ipvtap(mode),
        mac: None,
        lower: stack.lower.clone(),
        guests: guests.to_vec(),
    };
    Ok(Finding {
        mac: Some(mac),
        mac_owner: Some(MacOwner {
            name: lower.name.clone(),
            remedy: "leave it out, or attach the guest by macvtap (--macvtap, CNI macvlan)",
        }),
        forwarding,
        ..Finding::of(device, Some(&lower))
    })
}

/// How frames find their receiver on an ipvtap with that mode and MAC.
fn forwarding(
    mode: Option<IpVtapMode>,
    mac: Option<MacAddr>,
    name: &str,
    spec: &NicSpec,
) -> Result<Forwarding, AttachError> {
    let (Some(IpVtapMode::L3 | IpVtapMode::L3S), Some(device)) = (mode, mac) else {
        return Ok(Forwarding::Switched);
    };
    if spec.policy.vlan != VlanConfig::Transparent {
        return Err(AttachError::Untaggable(name.to_owned()));
    }
    Ok(Forwarding::Routed { device })
}

fn adopted(link: Link) -> Result<Finding, AttachError> {
    let claim = Claim::on(&link.name).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => AttachError::InUse(link.name.clone()),
        _ => error.into(),
    })?;
    let device = Adopted {
        name: link.name.clone(),
        kind: link.kind.clone(),
    };
    Ok(Finding {
        mac: link.mac,
        mac_owner: Some(MacOwner {
            name: link.name.clone(),
            remedy: "leave it out, or give the link that MAC (ip link set … address …)",
        }),
        claim: Some(claim),
        ..Finding::of(device, Some(&link))
    })
}

fn mode_of_adopted(link: &Link) -> AttachError {
    AttachError::Kind {
        name: link.name.clone(),
        found: format!("{} that has its mode", article(&link.kind)),
        wanted: "a link to create one on",
        remedy: "leave the mode out".into(),
    }
}

/// Converts a mode of macvtap to the kernel's word for it.
const fn macvtap_mode(mode: MacvtapMode) -> MacVtapMode {
    match mode {
        MacvtapMode::Bridge => MacVtapMode::Bridge,
        MacvtapMode::Private => MacVtapMode::Private,
        MacvtapMode::Vepa => MacVtapMode::Vepa,
        MacvtapMode::Passthru => MacVtapMode::Passthrough,
    }
}

/// Converts a mode of ipvtap to the kernel's word for it.
const fn ipvtap_mode(mode: IpvtapMode) -> IpVtapMode {
    match mode {
        IpvtapMode::L2 => IpVtapMode::L2,
        IpvtapMode::L3 => IpVtapMode::L3,
        IpvtapMode::L3s => IpVtapMode::L3S,
    }
}

impl Device for Stacked {
    fn record(&self) -> DeviceRecord {
        DeviceRecord::Stacked(self.clone())
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn add_needs(&self, needs: &mut Needs) {
        (needs.links, needs.devices) = (true, true);
    }

    fn needs_journal(&self) -> bool {
        true
    }

    fn settle(&mut self, mac: Option<MacAddr>, guests: &[IpAddr]) -> Result<(), AttachError> {
        match self.kind {
            NewKind::Ipvtap(mode) => {
                if let (IpVtapMode::L3S, Some(guest)) = (mode, guests.iter().find(|guest| guest.is_ipv6())) {
                    return Err(AttachError::Ipv6InL3s(*guest));
                }
                guests.clone_into(&mut self.guests);
            }
            _ => self.mac = mac.or(self.mac),
        }
        Ok(())
    }

    fn open(
        &self,
        netlink: &mut Netlink,
        journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        let lower = netlink.link_named(&self.lower)?;
        let lower = lower.ok_or_else(|| AttachError::Vanished(self.lower.clone()))?;
        if let Some(journal) = journal {
            journal.note(Undo::DeleteLink {
                name: self.name.clone(),
                kind: self.kind.name().to_owned(),
                mac: self.mac.map(|mac| mac.to_string()),
            })?;
        }
        let made = netlink.make_link(&NewLink {
            name: &self.name,
            kind: self.kind,
            mac: self.mac,
            mtu: None,
            lower: Some(lower.index),
        });
        made.map_err(|source| AttachError::Make {
            kind: match self.kind {
                NewKind::Ipvtap(_) => "an ipvtap",
                _ => "a macvtap",
            },
            lower: self.lower.clone(),
            remedy: make_remedy(&source),
            source,
        })?;
        let link = netlink.link_named(&self.name)?;
        let index = link.ok_or_else(|| AttachError::Vanished(self.name.clone()))?.index;
        netlink.silence(index)?;
        netlink.set_up(index, true)?;
        if let NewKind::Ipvtap(mode) = self.kind {
            let lower = lower.index;
            self.add_guests(netlink, Ipvtap { index, mode, lower })?;
        }
        adopt(tap_node::open_queues(&self.name, index, count)?)
    }

    fn is_up(&self, _netlink: &mut Netlink, link: &Link) -> io::Result<bool> {
        Ok(link.is_up && link.has_carrier)
    }

    fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let lower = netlink.link_named(&self.lower)?;
        Ok(lower.is_some_and(|link| link.is_up))
    }
}

impl Stacked {
    fn add_guests(&self, netlink: &mut Netlink, ipvtap: Ipvtap) -> Result<(), AttachError> {
        if ipvtap.mode == IpVtapMode::L3S {
            netlink.forward_from(ipvtap.index)?;
        }
        for &guest in &self.guests {
            let added = netlink.add_guest_address(ipvtap, guest);
            added.map_err(|source| AttachError::GuestAddress {
                guest,
                lower: self.lower.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

impl Device for Adopted {
    fn record(&self) -> DeviceRecord {
        DeviceRecord::Adopted(self.clone())
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn add_needs(&self, needs: &mut Needs) {
        needs.devices = true;
    }

    fn open(
        &self,
        netlink: &mut Netlink,
        _journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        let link = netlink.link_named(&self.name)?.filter(|link| link.is(&self.kind));
        let link = link.ok_or_else(|| AttachError::Vanished(self.name.clone()))?;
        adopt(tap_node::open_queues(&self.name, link.index, count)?)
    }

    fn is_up(&self, _netlink: &mut Netlink, link: &Link) -> io::Result<bool> {
        Ok(link.is_up && link.has_carrier)
    }

    fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let link = netlink.link_named(&self.name)?;
        Ok(link.is_some_and(|link| link.is(&self.kind)))
    }
}

fn make_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "this kernel has no such kind of link: load its module",
        Some(libc::EBUSY) => "another process or a passthru already uses the link: release it, or name another",
        Some(libc::EINVAL) => "the mode does not fit the other devices on the link: choose another mode or link",
        _ => "check that the link can have it",
    }
}
