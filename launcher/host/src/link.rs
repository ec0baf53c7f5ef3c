//! Network interfaces ("links"): their state, and changes to them.

use super::netlink::Netlink;
use hawser_packet::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InetDevConf, InfoBridge, InfoBridgePort,
    InfoData, InfoIpVtap, InfoKind, InfoMacVtap, InfoPortData, InfoPortKind, InfoVlan, IpVtapMode, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, MacVtapMode,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io;

/// A snapshot of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index, fixed while the link exists.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Link-layer address; `None` for links without Ethernet.
    pub mac: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Kind of the link: `bridge`, `tun`, `veth`, …; empty for hardware.
    pub kind: String,
    /// Index of the bridge (or bond, …) of which the link is a port.
    pub master: Option<u32>,
    /// Index of the link on which it is stacked, such as that of a macvtap.
    pub lower: Option<u32>,
    /// True if the link is switched on (IFF_UP).
    pub is_up: bool,
    /// True if the layer below is up (IFF_LOWER_UP).
    pub has_carrier: bool,
    /// True if the administrator has put the link into promiscuous mode (IFF_PROMISC).
    pub is_promiscuous: bool,
    /// VLAN of new ports, for a VLAN-filtering bridge; 0: none.
    pub default_vlan: Option<u16>,
    /// True if a bridge takes part in the spanning tree; `None` for other links.
    pub stp: Option<bool>,
    /// Mode, for an ipvtap.
    pub ipvtap_mode: Option<IpVtapMode>,
    /// VLAN of a VLAN interface; `None` for other links.
    pub vlan: Option<u16>,
    /// The device of which it is an interface, such as a PCI address. Kernels before 5.14 do not state it.
    pub device: Option<String>,
}

impl Link {
    /// The link of a device, such as a PCI address, among `links`.
    pub fn of_device<'a>(links: &'a [Self], device: &str) -> Option<&'a Self> {
        links.iter().find(|link| link.device.as_deref() == Some(device))
    }

    fn from_message(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            kind: String::new(),
            master: None,
            lower: None,
            is_up: flags.contains(LinkFlags::Up),
            has_carrier: flags.contains(LinkFlags::LowerUp),
            is_promiscuous: flags.contains(LinkFlags::Promisc),
            default_vlan: None,
            stp: None,
            ipvtap_mode: None,
            vlan: None,
            device: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(MacAddr),
                LinkAttribute::ParentDevName(device) => link.device = Some(device.clone()),
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                LinkAttribute::Link(index) => link.lower = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.kind = kind.unwrap_or_default();
                    link.default_vlan = infos.iter().find_map(filtering_vlan);
                    link.stp = infos.iter().find_map(spanning_tree);
                    link.ipvtap_mode = infos.iter().find_map(ipvtap_mode);
                    link.vlan = infos.iter().find_map(vlan);
                }
                _ => {}
            }
        }
        link
    }

    /// True for links of this kind (`bridge`, `macvtap`, …).
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }
}

/// Describes a link to create.
#[derive(Clone, Debug)]
pub struct NewLink<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Kind, and the settings that only links of this kind have.
    pub kind: NewKind,
    /// MAC of the link, unless the kernel chooses it.
    pub mac: Option<MacAddr>,
    /// MTU in bytes, unless the kernel chooses it.
    pub mtu: Option<u32>,
    /// Index of the lower link.
    pub lower: Option<u32>,
}

/// Kinds of links that can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewKind {
    /// A bridge without spanning tree, which forwards immediately.
    Bridge,
    /// A device that discards all frames.
    Dummy,
    /// The frames of a link that have the tag of this VLAN (802.1Q).
    Vlan(u16),
    /// A macvtap.
    Macvtap(
        #[serde(
            serialize_with = "save_mode::<_, u32, _>",
            deserialize_with = "load_mode::<_, u32, _>"
        )]
        MacVtapMode,
    ),
    /// An ipvtap.
    Ipvtap(
        #[serde(
            serialize_with = "save_mode::<_, u16, _>",
            deserialize_with = "load_mode::<_, u16, _>"
        )]
        IpVtapMode,
    ),
}

/// Serialises a mode, whose type does not support serde, as the kernel's number for it.
fn save_mode<M: Copy, N: From<M> + Serialize, S: Serializer>(mode: &M, serializer: S) -> Result<S::Ok, S::Error> {
    N::from(*mode).serialize(serializer)
}

fn load_mode<'de, M: From<N>, N: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<M, D::Error> {
    N::deserialize(deserializer).map(M::from)
}

impl NewKind {
    /// The kernel's name for the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Dummy => "dummy",
            Self::Vlan(_) => "vlan",
            Self::Macvtap(_) => "macvtap",
            Self::Ipvtap(_) => "ipvtap",
        }
    }

    fn info(self) -> Vec<LinkInfo> {
        let (kind, data) = match self {
            Self::Bridge => (InfoKind::Bridge, None),
            Self::Dummy => (InfoKind::Dummy, None),
            Self::Vlan(id) => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(id)]))),
            Self::Macvtap(mode) => (
                InfoKind::MacVtap,
                Some(InfoData::MacVtap(vec![InfoMacVtap::Mode(mode)])),
            ),
            Self::Ipvtap(mode) => (InfoKind::IpVtap, Some(InfoData::IpVtap(vec![InfoIpVtap::Mode(mode)]))),
        };
        let data = data.map(LinkInfo::Data);
        std::iter::once(LinkInfo::Kind(kind)).chain(data).collect()
    }
}

/// Behaviour of a bridge port that differs from the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortManner {
    /// True if frames may leave through the port by which they arrived.
    pub hairpin: bool,
    /// True if the port reaches only ports that are not isolated.
    pub isolated: bool,
    /// True if the bridge does not learn addresses behind the port.
    pub no_learning: bool,
}

impl Netlink {
    /// All links.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(messages.iter().filter_map(link_of).collect())
    }

    /// The link of a device, such as a PCI address, if this network namespace has one.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn link_of_device(&mut self, device: &str) -> io::Result<Option<Link>> {
        Ok(Link::of_device(&self.links()?, device).cloned())
    }

    /// The link with this name, if there is one.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn link_named(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.look_up(message)
    }

    /// The link with this index, if there is one.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.look_up(message(index, vec![]))
    }

    fn look_up(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(found) => Ok(found.iter().find_map(link_of)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// True if this process may change the links of its network namespace.
    pub fn may_change(&mut self) -> bool {
        // No link has this index, and the kernel checks the permission before it looks for the link.
        let no_link = i32::MAX.unsigned_abs();
        let refused = self.request(RouteNetlinkMessage::DelLink(message(no_link, vec![])), 0);
        !matches!(refused, Err(error) if error.raw_os_error() == Some(libc::EPERM))
    }

    /// Creates a link, switched off.
    ///
    /// # Errors
    /// The kernel's error: EEXIST if the name is taken, EOPNOTSUPP for an unknown kind.
    pub fn make_link(&mut self, new: &NewLink<'_>) -> io::Result<()> {
        let mut attributes = vec![LinkAttribute::IfName(new.name.to_owned())];
        attributes.extend(new.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(new.mtu.map(LinkAttribute::Mtu));
        attributes.extend(new.lower.map(LinkAttribute::Link));
        attributes.push(LinkAttribute::LinkInfo(new.kind.info()));
        let request = RouteNetlinkMessage::NewLink(message(0, attributes));
        self.request(request, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Removes a link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelLink(message(index, vec![])), 0)
            .map(drop)
    }

    /// Switches a link on or off.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        self.set_flag(index, LinkFlags::Up, up)
    }

    /// Switches promiscuous mode of a link on or off.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_promiscuous(&mut self, index: u32, on: bool) -> io::Result<()> {
        self.set_flag(index, LinkFlags::Promisc, on)
    }

    fn set_flag(&mut self, index: u32, flag: LinkFlags, on: bool) -> io::Result<()> {
        let mut change = message(index, vec![]);
        change.header.change_mask = flag;
        change.header.flags = if on { flag } else { LinkFlags::empty() };
        self.change(change)
    }

    /// Renames a link. On kernels before 6.2 it must be switched off.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        self.change(message(index, vec![LinkAttribute::IfName(name.to_owned())]))
    }

    /// Sets a link's MAC.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> io::Result<()> {
        self.change(message(index, vec![LinkAttribute::Address(mac.0.to_vec())]))
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.change(message(index, vec![LinkAttribute::Mtu(mtu)]))
    }

    /// Makes a link a port of a bridge; `None` removes it from its bridge.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_master(&mut self, index: u32, bridge: Option<u32>) -> io::Result<()> {
        self.change(message(index, vec![LinkAttribute::Controller(bridge.unwrap_or(0))]))
    }

    /// Switches the spanning tree of a bridge on or off.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_stp(&mut self, index: u32, on: bool) -> io::Result<()> {
        let state = if on {
            BridgeStpState::KernelStp
        } else {
            BridgeStpState::Disabled
        };
        let info = vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::StpState(state)])),
        ];
        let request = RouteNetlinkMessage::NewLink(message(index, vec![LinkAttribute::LinkInfo(info)]));
        self.request(request, 0).map(drop)
    }

    /// Sets the behaviour of a bridge port.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn set_port_manner(&mut self, index: u32, manner: PortManner) -> io::Result<()> {
        let data = vec![
            InfoBridgePort::HairpinMode(manner.hairpin),
            InfoBridgePort::Isolated(manner.isolated),
            InfoBridgePort::Learning(!manner.no_learning),
        ];
        let info = vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ];
        self.request(
            RouteNetlinkMessage::NewLink(message(index, vec![LinkAttribute::LinkInfo(info)])),
            0,
        )
        .map(drop)
    }

    /// Silences the kernel's own IP stack on a link: it gets no IPv6 address and sends no ARP replies.
    ///
    /// # Errors
    /// The kernel's error. A kernel without IPv6 is not an error.
    pub fn silence(&mut self, index: u32) -> io::Result<()> {
        /// Value of arp_ignore: reply for no local address (Documentation/networking/ip-sysctl.rst).
        const ARP_IGNORE_ALL: i32 = 8;
        let mut conf = InetDevConf::default();
        conf.arp_ignore = ARP_IGNORE_ALL;
        let ipv4 = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
        let ipv6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        self.change(message(index, vec![LinkAttribute::AfSpecUnspec(vec![ipv4])]))?;
        match self.change(message(index, vec![LinkAttribute::AfSpecUnspec(vec![ipv6])])) {
            Err(error) if error.raw_os_error() != Some(libc::EAFNOSUPPORT) => Err(error),
            _ => Ok(()),
        }
    }

    fn change(&mut self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }
}

/// The default VLAN of a VLAN-filtering bridge.
fn filtering_vlan(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Bridge(infos)) = info else {
        return None;
    };
    let filters = infos.contains(&InfoBridge::VlanFiltering(true));
    let default = infos.iter().find_map(|info| match info {
        InfoBridge::VlanDefaultPvid(id) => Some(*id),
        _ => None,
    });
    filters.then(|| default.unwrap_or(0))
}

fn spanning_tree(info: &LinkInfo) -> Option<bool> {
    let LinkInfo::Data(InfoData::Bridge(infos)) = info else {
        return None;
    };
    infos.iter().find_map(|info| match info {
        InfoBridge::StpState(state) => Some(*state != BridgeStpState::Disabled),
        _ => None,
    })
}

fn ipvtap_mode(info: &LinkInfo) -> Option<IpVtapMode> {
    let LinkInfo::Data(InfoData::IpVtap(infos)) = info else {
        return None;
    };
    infos.iter().find_map(|info| match info {
        InfoIpVtap::Mode(mode) => Some(*mode),
        _ => None,
    })
}

fn vlan(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(infos)) = info else {
        return None;
    };
    infos.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(link)),
        _ => None,
    }
}
