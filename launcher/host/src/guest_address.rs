//! Addresses of a guest on an ipvtap. The kernel delivers a packet to the ipvtap that has the packet's destination
//! address. It would treat packets from a guest without an address as the host's.
//!
//! An address on a link is also the host's, because the kernel creates a route for it (table "local"). In IPv4 that
//! route is removed again, so that the host does not answer ARP or connections in place of the guest. In the routing
//! modes it is replaced by a route to the ipvtap, through which the host reaches its guest. In l3s, packets cross the
//! host's own IP stack before the ipvtap and also follow that route.

use super::netlink::Netlink;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, InetDevConf, IpVtapMode, LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// RT_TABLE_LOCAL
const LOCAL_TABLE: u8 = 255;

/// An ipvtap to which addresses of its guest are added.
#[derive(Clone, Copy, Debug)]
pub struct Ipvtap {
    /// Index of the ipvtap.
    pub index: u32,
    /// Mode of the ipvtap.
    pub mode: IpVtapMode,
    /// Index of its lower link.
    pub lower: u32,
}

/// A new address of the link `index`, as a host address without a network.
fn address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let (family, length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.family = family;
    message.header.prefix_len = length;
    message.header.index = index;
    // With this scope, the host never chooses the address as a source address.
    message.header.scope = AddressScope::Host;
    let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(flags),
    ];
    message
}

/// A route to a single address through the link `index`.
fn route(index: u32, to: Ipv4Addr, table: u8, kind: RouteType, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 32,
        table,
        kind,
        scope,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(to)),
        RouteAttribute::Oif(index),
    ];
    message
}

impl Netlink {
    /// Adds an address of its guest to an ipvtap, which must be up.
    ///
    /// # Errors
    /// The kernel's error: EADDRINUSE if another ipvtap on the same lower link has the address.
    pub fn add_guest_address(&mut self, ipvtap: Ipvtap, guest: IpAddr) -> io::Result<()> {
        let Ipvtap { index, mode, lower } = ipvtap;
        let new = RouteNetlinkMessage::NewAddress(address(index, guest));
        self.request(new, NLM_F_CREATE | NLM_F_EXCL)?;
        let IpAddr::V4(guest) = guest else { return Ok(()) };
        let own = route(index, guest, LOCAL_TABLE, RouteType::Local, RouteScope::Host);
        self.request(RouteNetlinkMessage::DelRoute(own), 0)?;
        if mode == IpVtapMode::L2 {
            return Ok(());
        }
        let mut there = route(
            index,
            guest,
            RouteHeader::RT_TABLE_MAIN,
            RouteType::Unicast,
            RouteScope::Link,
        );
        there.header.protocol = RouteProtocol::Static;
        if let Some(host) = self.own_ipv4(lower)? {
            there
                .attributes
                .push(RouteAttribute::PrefSource(RouteAddress::Inet(host)));
        }
        self.request(RouteNetlinkMessage::NewRoute(there), NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
    }

    /// The host's own address on a link.
    fn own_ipv4(&mut self, index: u32) -> io::Result<Option<Ipv4Addr>> {
        let addresses = self.addresses(index)?;
        let global = addresses.iter().filter(|address| address.is_global());
        Ok(global
            .map(|address| address.net.addr())
            .find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }))
    }

    /// Makes the host's IP stack forward packets from an ipvtap in mode l3s.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn forward_from(&mut self, index: u32) -> io::Result<()> {
        let mut conf = InetDevConf::default();
        conf.forwarding = 1;
        let ipv4 = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![ipv4]));
        self.request(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }
}
