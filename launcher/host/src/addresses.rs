//! Addresses and routes of a link, recorded so that they can be restored.
//!
//! A record is the kernel's own message. It keeps properties for which this program has no type: labels, lifetimes,
//! metrics, preferred sources, next hops.

use super::netlink::Netlink;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Table of the kernel's own entries (RT_TABLE_LOCAL).
const LOCAL_TABLE: u32 = 255;
/// Table of ordinary routes (RT_TABLE_MAIN).
const MAIN_TABLE: u32 = 254;

/// A message of the kernel, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recorded(String);

impl Recorded {
    fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let pair = |at: usize| {
            self.0
                .get(at..at + 2)
                .and_then(|text| u8::from_str_radix(text, 16).ok())
        };
        let bytes: Option<Vec<u8>> = (0..self.0.len()).step_by(2).map(pair).collect();
        bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not hexadecimal"))
    }
}

/// An address that is assigned to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address and its prefix length.
    pub net: IpNet,
    message: AddressMessage,
}

/// A route that leads through a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    message: RouteMessage,
}

/// An IPv4 route in the form of DHCP option 121.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Route {
    /// Destination network.
    pub destination: Ipv4Net,
    /// Next hop. If it is unspecified, the destination is on the link.
    pub gateway: Ipv4Addr,
}

impl Ipv4Route {
    /// True for the default route.
    pub const fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

impl Address {
    fn from_message(mut message: AddressMessage) -> Option<Self> {
        let (mut address, mut local) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                _ => {}
            }
        }
        // IFA_ADDRESS is the address of the other end on point-to-point links.
        let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
        if net.addr().is_ipv6() {
            // Duplicate address detection has already run.
            let mut flags = AddressFlags::Nodad;
            message.attributes.retain_mut(|attribute| match attribute {
                AddressAttribute::Flags(known) => {
                    flags |= known.difference(AddressFlags::Tentative | AddressFlags::Dadfailed);
                    false
                }
                _ => true,
            });
            message.attributes.push(AddressAttribute::Flags(flags));
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        Some(Self { net, message })
    }

    /// An address that link `index` can get.
    pub fn new(net: IpNet, index: u32) -> Self {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.header.family = match net {
            IpNet::V4(_) => netlink_packet_route::AddressFamily::Inet,
            IpNet::V6(_) => netlink_packet_route::AddressFamily::Inet6,
        };
        message.attributes = vec![
            AddressAttribute::Local(net.addr()),
            AddressAttribute::Address(net.addr()),
        ];
        Self { net, message }
    }

    /// True for addresses that are valid beyond the link.
    pub fn is_global(&self) -> bool {
        self.message.header.scope == AddressScope::Universe
    }

    /// The record from which the address can be restored.
    pub fn record(&self) -> Recorded {
        record(&self.message)
    }

    /// The same address for another link.
    pub fn moved_to(&self, index: u32) -> Self {
        let mut moved = self.clone();
        moved.message.header.index = index;
        // An IPv4 label begins with the name of its link.
        moved
            .message
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
        moved
    }
}

impl Route {
    fn table(&self) -> u32 {
        let attribute = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        attribute.unwrap_or_else(|| self.message.header.table.into())
    }

    /// Index of the link that the route leads to, if there is only one.
    fn link(&self) -> Option<u32> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }

    /// The lower, the more preferred.
    fn metric(&self) -> u32 {
        let attribute = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        attribute.unwrap_or_default()
    }

    fn leaves_by(&self, index: u32) -> bool {
        self.message.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Oif(oif) => *oif == index,
            RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
            _ => false,
        })
    }

    /// True for routes that the kernel adds and removes with an address.
    fn is_of_an_address(&self) -> bool {
        self.message.header.protocol == RouteProtocol::Kernel || self.table() == LOCAL_TABLE
    }

    fn gateway(&self) -> Option<IpAddr> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        })
    }

    /// The route as DHCP carries it, if it is an ordinary IPv4 route.
    pub fn ipv4(&self) -> Option<Ipv4Route> {
        let header = &self.message.header;
        if u8::from(header.address_family) != u8::from(netlink_packet_route::AddressFamily::Inet)
            || header.kind != RouteType::Unicast
            || self.table() != u32::from(netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN)
        {
            return None;
        }
        let to = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
            _ => None,
        });
        let to = to.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let gateway = match self.gateway() {
            Some(IpAddr::V4(gateway)) => gateway,
            Some(IpAddr::V6(_)) => return None,
            None => Ipv4Addr::UNSPECIFIED,
        };
        Some(Ipv4Route {
            destination: Ipv4Net::new(to, header.destination_prefix_length).ok()?,
            gateway,
        })
    }

    /// Next hop, if this is a default route.
    pub fn default_gateway(&self) -> Option<IpAddr> {
        self.gateway()
            .filter(|_| self.message.header.destination_prefix_length == 0)
    }

    /// The record from which the route can be restored.
    pub fn record(&self) -> Recorded {
        record(&self.message)
    }
}

fn record(message: &impl netlink_packet_core::Emitable) -> Recorded {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    Recorded::new(&bytes)
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl Netlink {
    /// The addresses of a link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let all = self.all_addresses()?.into_iter();
        Ok(all.filter(|(of, _)| *of == index).map(|(_, address)| address).collect())
    }

    /// The addresses of all links, each with the index of its link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn all_addresses(&mut self) -> io::Result<Vec<(u32, Address)>> {
        let all = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let addresses = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => Some(message.header.index).zip(Address::from_message(message)),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// The next hops of all default routes of the main table, each with the index of the link it leads to. The
    /// preferred route of a link comes first.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn default_gateways(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let all = self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        let routes = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => Some(Route { message }),
            _ => None,
        });
        let mut found: Vec<(u32, u32, IpAddr)> = routes
            .filter(|route| route.table() == MAIN_TABLE)
            .filter_map(|route| Some((route.metric(), route.link()?, route.default_gateway()?)))
            .collect();
        found.sort_by_key(|(metric, ..)| *metric);
        Ok(found.into_iter().map(|(_, link, gateway)| (link, gateway)).collect())
    }

    /// The routes through a link, without those that the kernel creates for an address. Routes to neighbours come
    /// before routes through these neighbours.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn routes(&mut self, index: u32) -> io::Result<Vec<Route>> {
        let all = self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        let routes = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => Some(Route { message }),
            _ => None,
        });
        let mut routes: Vec<Route> = routes
            .filter(|route| route.leaves_by(index) && !route.is_of_an_address())
            .collect();
        for route in &mut routes {
            // The kernel reports flags here that it does not accept in a request.
            route.message.header.flags &= RouteFlags::Onlink;
            route
                .message
                .attributes
                .retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
        }
        routes.sort_by_key(|route| {
            (
                route.gateway().is_some(),
                route.message.header.scope == RouteScope::Universe,
            )
        });
        Ok(routes)
    }

    /// Adds an address to a link, unless the link already has it.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn add_address(&mut self, address: &Address) -> io::Result<()> {
        self.add(RouteNetlinkMessage::NewAddress(address.message.clone()))
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn delete_address(&mut self, address: &Address) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelAddress(address.message.clone());
        self.request(request, 0).map(drop)
    }

    /// Restores an address.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn restore_address(&mut self, recorded: &Recorded) -> io::Result<()> {
        let message = AddressMessage::parse(&recorded.bytes()?).map_err(malformed)?;
        self.add(RouteNetlinkMessage::NewAddress(message))
    }

    /// Restores a route.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn restore_route(&mut self, recorded: &Recorded) -> io::Result<()> {
        let message = RouteMessage::parse(&recorded.bytes()?).map_err(malformed)?;
        self.add(RouteNetlinkMessage::NewRoute(message))
    }

    /// Adds an address or route, unless the kernel has added it in the meantime.
    fn add(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }
}
