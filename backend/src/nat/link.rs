//! The guest's link: MACs and addresses of guest and gateway, and headers of frames to the guest.

use crate::config::{Ipv4Link, Ipv6Link};
use crate::packet::{EtherType, EthernetHeader, FragmentInfo, Ipv4Header, Ipv6Header, MacAddr};
use ipnet::Ipv6Net;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hop limit of all packets to the guest, and of the packets quoted in errors.
const TTL: u8 = 64;

/// The link between guest and gateway.
#[derive(Clone, Debug)]
pub struct Link {
    /// Source MAC of all frames to the guest.
    pub gateway_mac: MacAddr,
    /// The guest's MAC: configured, or learned from its first frame.
    pub guest_mac: MacAddr,
    /// MTU of the link, in bytes.
    pub mtu: u16,
    /// The gateway's IPv4 address, if IPv4 is enabled.
    pub gateway_ipv4: Option<Ipv4Addr>,
    /// The gateway's IPv6 address, if IPv6 is enabled.
    pub gateway_ipv6: Option<Ipv6Addr>,
    /// Addresses from which the guest sends.
    pub guest: GuestAddresses,
}

/// The addresses that a guest may send from, and for each family the address for connections to the guest.
#[derive(Clone, Debug, Default)]
pub struct GuestAddresses {
    /// The guest's IPv4 address, if IPv4 is enabled.
    pub ipv4: Option<Ipv4Addr>,
    /// The guest's IPv6 address, if IPv6 is enabled.
    pub ipv6: Option<Ipv6Addr>,
    /// Set if the guest may form further addresses (RFC 4862).
    pub autoconfigured: Option<Autoconfigured>,
}

/// Addresses that the guest forms itself.
#[derive(Clone, Copy, Debug)]
pub struct Autoconfigured {
    /// Prefix of 64 bits from which the guest forms its addresses.
    pub prefix: Ipv6Net,
    /// The gateway's address in the prefix, in addition to the routers' anycast address.
    pub gateway: Ipv6Addr,
    /// The address that the guest used last, to which clients are connected.
    pub last_used: Option<Ipv6Addr>,
}

impl Autoconfigured {
    fn may_be_guest(&self, address: Ipv6Addr) -> bool {
        self.prefix.contains(&address) && ![self.gateway, self.prefix.network()].contains(&address)
    }
}

impl GuestAddresses {
    /// The addresses of a guest on links with fixed addresses.
    pub fn of_links(ipv4: Option<Ipv4Link>, ipv6: Option<Ipv6Link>) -> Self {
        let autoconfigured = ipv6.filter(Ipv6Link::autoconfigures).map(|link| Autoconfigured {
            prefix: link.network,
            gateway: link.gateway,
            last_used: None,
        });
        Self {
            ipv4: ipv4.map(|link| link.guest),
            ipv6: ipv6.map(|link| link.guest),
            autoconfigured,
        }
    }

    /// True if the guest may send from `address`.
    pub fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4 == Some(address),
            IpAddr::V6(address) => self.ipv6 == Some(address) || self.is_autoconfigured(address),
        }
    }

    fn is_autoconfigured(&self, address: Ipv6Addr) -> bool {
        self.autoconfigured.is_some_and(|own| own.may_be_guest(address))
    }

    /// Records that the guest has used or claimed `address`; true if that changes the address for
    /// connections to it.
    pub fn learn(&mut self, address: Ipv6Addr) -> bool {
        let is_own = self.ipv6 == Some(address);
        match &mut self.autoconfigured {
            Some(own) if own.last_used != Some(address) && (is_own || own.may_be_guest(address)) => {
                own.last_used = Some(address);
                true
            }
            _ => false,
        }
    }
}

/// Describes the network header of a packet to the guest.
#[derive(Clone, Copy, Debug)]
pub struct PacketSpec {
    /// Source address that the guest sees.
    pub src: IpAddr,
    /// The guest's address, of the same family as `src`.
    pub dst: IpAddr,
    /// Transport protocol ([`crate::packet::protocol`]).
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Number of bytes after the network header.
    pub payload_len: usize,
    /// Position in the datagram, for a fragment.
    pub fragment: Option<FragmentInfo>,
}

impl PacketSpec {
    /// Writes the network header to the start of `out`; returns its length.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Ipv4Header {
                    src,
                    dst,
                    protocol: self.protocol,
                    ttl: TTL,
                    tos: self.traffic_class,
                    dont_fragment: self.fragment.is_none(),
                    fragment: self.fragment,
                    header_len: Ipv4Header::LEN,
                    payload_len: self.payload_len,
                }
                .emit(out);
                Ipv4Header::LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let extra = if self.fragment.is_some() {
                    Ipv6Header::FRAGMENT_LEN
                } else {
                    0
                };
                Ipv6Header {
                    src,
                    dst,
                    protocol: self.protocol,
                    hop_limit: TTL,
                    traffic_class: self.traffic_class,
                    fragment: self.fragment,
                    header_len: Ipv6Header::LEN + extra,
                    payload_len: self.payload_len,
                }
                .emit(out);
                Ipv6Header::LEN + extra
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                debug_assert!(false, "families differ: {} -> {}", self.src, self.dst);
                0
            }
        }
    }
}

/// A packet in several parts. It is either for the guest, or rebuilt from the guest's flow to be quoted.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source address as the guest sees it.
    pub src: IpAddr,
    /// Destination address as the guest sees it, of the same family.
    pub dst: IpAddr,
    /// Transport protocol ([`crate::packet::protocol`]).
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Transport header.
    pub header: &'a [u8],
    /// Transport payload.
    pub body: &'a [u8],
}

impl Packet<'_> {
    /// Bytes after the network header.
    pub(super) const fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// The network header of the whole, unfragmented packet.
    pub const fn spec(&self) -> PacketSpec {
        PacketSpec {
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            traffic_class: self.traffic_class,
            payload_len: self.len(),
            fragment: None,
        }
    }
}

impl Link {
    /// The guest's address in the family of `like`, if that family is enabled. If there are several, the most recently
    /// used one.
    pub fn guest_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.guest.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => {
                let last_used = self.guest.autoconfigured.and_then(|own| own.last_used);
                self.guest.ipv6.map(|fixed| IpAddr::V6(last_used.unwrap_or(fixed)))
            }
        }
    }

    /// The gateway's address in the family of `like`, if that family is enabled.
    pub fn gateway_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.gateway_ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.gateway_ipv6.map(IpAddr::V6),
        }
    }

    /// Length of the Ethernet and network headers of a frame to the guest in the family of `like`, without a fragment
    /// header.
    pub const fn header_len(like: IpAddr) -> usize {
        match like {
            IpAddr::V4(_) => EthernetHeader::LEN + Ipv4Header::LEN,
            IpAddr::V6(_) => EthernetHeader::LEN + Ipv6Header::LEN,
        }
    }

    /// Writes the Ethernet and network headers to the start of `out`, and returns their length.
    pub fn emit(&self, spec: &PacketSpec, out: &mut [u8]) -> usize {
        let ethertype = match spec.src {
            IpAddr::V4(_) => EtherType::Ipv4,
            IpAddr::V6(_) => EtherType::Ipv6,
        };
        EthernetHeader {
            dst: self.guest_mac,
            src: self.gateway_mac,
            ethertype,
        }
        .emit(out);
        EthernetHeader::LEN + spec.emit(&mut out[EthernetHeader::LEN..])
    }
}
