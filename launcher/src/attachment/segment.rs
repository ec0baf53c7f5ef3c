//! A segment the guest is attached to: how queues to it are opened, once at the start and
//! again whenever the device has come back.

use super::AttachError;
use hawser_backend::packet::MacAddr;
use hawser_backend::sys::tap::TapQueue;
use hawser_host::bridge_vlan::PortVlans;
use hawser_host::guest_address::Ipvtap;
use hawser_host::journal::{Journal, Undo};
use hawser_host::link::{Link, NewKind, NewLink, PortManner};
use hawser_host::netlink::Netlink;
use hawser_host::tap_node;
use netlink_packet_route::link::IpVtapMode;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// First byte of the MAC of a TAP device: the highest there is that is no group's, so that
/// a bridge, which takes the lowest MAC of its ports for its own, never takes this one.
const TAP_MAC_PREFIX: u8 = 0xfe;

/// The way to a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// A TAP device made here, as a port of a bridge.
    BridgePort(BridgePort),
    /// A TAP device that may be there already.
    Tap {
        /// Its name.
        name: String,
        /// MTU to be set if it is made.
        mtu: Option<u32>,
    },
    /// A macvtap or ipvtap made here.
    Stacked(Stacked),
    /// A macvtap or ipvtap that is there already.
    Adopted {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// Queues somebody else opened; they cannot be opened again.
    Descriptors,
}

/// A TAP device as a port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// The bridge.
    pub bridge: String,
    /// The TAP device.
    pub tap: String,
    /// Its MAC, which may become the bridge's if it has no other port.
    pub mac: MacAddr,
    /// MTU of the bridge.
    pub mtu: u32,
    /// How the port behaves.
    pub manner: PortManner,
    /// The bridge is put into promiscuous mode.
    pub promiscuous: bool,
    /// VLANs the guest is in, for a bridge that filters; `None`: nothing is said of VLANs.
    pub vlans: Option<PortVlans>,
}

/// A macvtap or ipvtap above another link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stacked {
    /// The link below.
    pub lower: String,
    /// Its own name.
    pub name: String,
    /// What it is, and its mode.
    pub kind: NewKind,
    /// Its MAC; `None`: that of the link below.
    pub mac: Option<MacAddr>,
    /// Of an ipvtap: addresses of the guest, put on it.
    pub guests: Vec<IpAddr>,
}

/// Whether frames get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Up,
    /// The device is there, and down or without a segment.
    Down,
    /// The device is gone.
    Gone,
}

impl Segment {
    /// Makes what is to be made and opens `count` queues.
    ///
    /// # Errors
    /// [`AttachError`]; what was made by then is in the journal, or goes with its queues.
    pub fn open(
        &self,
        netlink: &mut Netlink,
        journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        match self {
            Self::BridgePort(port) => port.open(netlink, journal, count),
            Self::Tap { name, mtu } => open_tap(netlink, name, *mtu, count),
            Self::Stacked(stacked) => stacked.open(netlink, journal, count),
            Self::Adopted { name, kind } => {
                let link = netlink.link_named(name)?.filter(|link| link.is(kind));
                let link = link.ok_or_else(|| AttachError::Vanished(name.clone()))?;
                adopt(tap_node::open_queues(name, link.index, count)?)
            }
            Self::Descriptors => Ok(Vec::new()),
        }
    }

    /// Looks at the device, and brings back together what belongs together: a port whose
    /// bridge has been made anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn check(&self, netlink: &mut Netlink, device: u32) -> io::Result<State> {
        let Some(link) = netlink.link(device)? else {
            return Ok(State::Gone);
        };
        let carries = match self {
            Self::BridgePort(port) => port.check(netlink, &link)?,
            Self::Tap { .. } | Self::Descriptors => link.is_up,
            Self::Stacked(_) | Self::Adopted { .. } => link.is_up && link.has_carrier,
        };
        Ok(if carries { State::Up } else { State::Down })
    }

    /// True once what the device is made on, or the device itself, is there (again).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn can_return(&self, netlink: &mut Netlink) -> io::Result<bool> {
        let found = match self {
            Self::BridgePort(port) => netlink.link_named(&port.bridge)?.is_some_and(|link| link.is("bridge")),
            Self::Tap { name, .. } => netlink.link_named(name)?.is_some_and(|link| link.is("tun")),
            Self::Stacked(stacked) => netlink.link_named(&stacked.lower)?.is_some_and(|link| link.is_up),
            Self::Adopted { name, kind } => netlink.link_named(name)?.is_some_and(|link| link.is(kind)),
            Self::Descriptors => false,
        };
        Ok(found)
    }

    /// Name of the device the queues are of.
    pub fn device<'a>(&'a self, queues: &'a [TapQueue]) -> Option<String> {
        match self {
            Self::BridgePort(port) => Some(port.tap.clone()),
            Self::Tap { name, .. } | Self::Adopted { name, .. } => Some(name.clone()),
            Self::Stacked(stacked) => Some(stacked.name.clone()),
            Self::Descriptors => queues.first().map(TapQueue::name),
        }
    }
}

impl BridgePort {
    fn open(
        &self,
        netlink: &mut Netlink,
        journal: Option<&mut Journal>,
        count: usize,
    ) -> Result<Vec<TapQueue>, AttachError> {
        let bridge = self.find(netlink)?;
        let queues = TapQueue::open(&self.tap, count)?;
        let tap = netlink.link_named(&self.tap)?;
        let tap = tap.ok_or_else(|| AttachError::Vanished(self.tap.clone()))?.index;
        netlink.set_mac(tap, self.mac)?;
        netlink.set_mtu(tap, self.mtu)?;
        netlink.silence(tap)?;
        netlink.set_master(tap, Some(bridge.index))?;
        netlink.set_port_manner(tap, self.manner)?;
        self.join_vlans(netlink, &bridge, tap)?;
        if self.promiscuous && !bridge.is_promiscuous {
            if let Some(journal) = journal {
                journal.note(Undo::ClearPromiscuous {
                    index: bridge.index,
                    name: bridge.name.clone(),
                })?;
            }
            netlink.set_promiscuous(bridge.index, true)?;
        }
        netlink.set_up(tap, true)?;
        Ok(queues)
    }

    fn find(&self, netlink: &mut Netlink) -> Result<Link, AttachError> {
        let bridge = netlink.link_named(&self.bridge)?.filter(|link| link.is("bridge"));
        bridge.ok_or_else(|| AttachError::Vanished(self.bridge.clone()))
    }

    /// Has a bridge that filters VLANs let those of the guest through.
    fn join_vlans(&self, netlink: &mut Netlink, bridge: &Link, tap: u32) -> io::Result<()> {
        match (&self.vlans, bridge.default_vlan) {
            (Some(vlans), Some(default)) => netlink.set_port_vlans(tap, vlans, default),
            _ => Ok(()),
        }
    }

    /// True if frames get through the port. A port that has lost its bridge is given to the
    /// one that has its name now.
    fn check(&self, netlink: &mut Netlink, tap: &Link) -> io::Result<bool> {
        let bridge = match tap.master {
            Some(master) => netlink.link(master)?,
            None => {
                let bridge = netlink.link_named(&self.bridge)?.filter(|link| link.is("bridge"));
                if let Some(bridge) = &bridge {
                    netlink.set_master(tap.index, Some(bridge.index))?;
                    netlink.set_port_manner(tap.index, self.manner)?;
                    self.join_vlans(netlink, bridge, tap.index)?;
                }
                bridge
            }
        };
        Ok(tap.is_up && bridge.is_some_and(|bridge| bridge.is_up))
    }
}

impl Stacked {
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

fn make_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "this kernel has no such kind of link: load its module",
        Some(libc::EBUSY) => "the link is somebody else's already, or a passthru is on it: free it, or name another",
        Some(libc::EINVAL) => "it cannot be in that mode beside the others on the link: choose another mode or link",
        _ => "see that the link can have it",
    }
}

fn open_tap(netlink: &mut Netlink, name: &str, mtu: Option<u32>, count: usize) -> Result<Vec<TapQueue>, AttachError> {
    let is_new = netlink.link_named(name)?.is_none();
    let queues = TapQueue::open(name, count)?;
    if is_new {
        let link = netlink.link_named(name)?;
        let index = link.ok_or_else(|| AttachError::Vanished(name.to_owned()))?.index;
        if let Some(mtu) = mtu {
            netlink.set_mtu(index, mtu)?;
        }
        netlink.set_up(index, true)?;
    }
    Ok(queues)
}

fn adopt(descriptors: Vec<OwnedFd>) -> Result<Vec<TapQueue>, AttachError> {
    let queues = descriptors.into_iter().map(TapQueue::adopt);
    Ok(queues.collect::<Result<_, _>>()?)
}

/// A MAC nobody has: locally administered, and for one station.
///
/// # Errors
/// The system gives no random numbers.
pub fn random_mac() -> io::Result<MacAddr> {
    const LOCAL: u8 = 0x02;
    let mut mac = [0; 6];
    getrandom::fill(&mut mac).map_err(io::Error::other)?;
    mac[0] = LOCAL;
    Ok(MacAddr(mac))
}

/// A MAC for a port of a bridge.
///
/// # Errors
/// The system gives no random numbers.
pub fn port_mac() -> io::Result<MacAddr> {
    let mut mac = random_mac()?;
    mac.0[0] = TAP_MAC_PREFIX;
    Ok(mac)
}

/// A name for a device that is made here and seen by nobody who would have to know it.
///
/// # Errors
/// The system gives no random numbers.
pub fn random_name(prefix: &str) -> io::Result<String> {
    let mac = random_mac()?.0;
    Ok(format!(
        "{prefix}{:02x}{:02x}{:02x}{:02x}",
        mac[2], mac[3], mac[4], mac[5]
    ))
}
