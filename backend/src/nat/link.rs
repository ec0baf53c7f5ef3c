//! The guest's side of masquerade: its addresses, and headers written towards it.

use crate::config::{GATEWAY_MAC, Ipv4Link, Ipv6Link};
use crate::packet::{EtherType, EthernetHeader, FragmentInfo, Ipv4Header, Ipv6Header, MacAddr};
use std::net::{IpAddr, Ipv6Addr};

/// Hop limit of everything we send to the guest, and of what we quote.
const TTL: u8 = 64;

/// The guest's link.
#[derive(Clone, Debug)]
pub struct Link {
    /// The guest's MAC: configured, or learned from its first frame.
    pub guest_mac: MacAddr,
    /// MTU in bytes of IP packet.
    pub mtu: u16,
    /// IPv4 addresses, if on.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 addresses, if on.
    pub ipv6: Option<Ipv6Link>,
    /// The address the guest used last, where it makes up its own: what comes in goes there.
    pub chosen_ipv6: Option<Ipv6Addr>,
}

/// The network header of a packet towards the guest.
#[derive(Clone, Copy, Debug)]
pub struct PacketSpec {
    /// Source the guest sees.
    pub src: IpAddr,
    /// The guest's address; same family as `src`.
    pub dst: IpAddr,
    /// What follows ([`crate::packet::protocol`]).
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes after the network header.
    pub payload_len: usize,
    /// Set for a fragment.
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

/// A packet whose parts are not in one place: towards the guest, or one of the guest's made
/// again to be quoted.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source, as the guest sees it.
    pub src: IpAddr,
    /// Destination, as the guest sees it; same family.
    pub dst: IpAddr,
    /// What it carries ([`crate::packet::protocol`]).
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Header of the transport protocol.
    pub header: &'a [u8],
    /// What follows that header.
    pub body: &'a [u8],
}

impl Packet<'_> {
    /// Bytes after the network header.
    pub(super) const fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Its network header, in one piece.
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
    /// The guest's address of the family of `like`, if that family is on: of several the one
    /// it used last.
    pub fn guest_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(|l| IpAddr::V4(l.guest)),
            IpAddr::V6(_) => self.ipv6.map(|l| IpAddr::V6(self.chosen_ipv6.unwrap_or(l.guest))),
        }
    }

    /// The gateway's address of the family of `like`, if that family is on.
    pub fn gateway_address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(|l| IpAddr::V4(l.gateway)),
            IpAddr::V6(_) => self.ipv6.map(|l| IpAddr::V6(l.gateway)),
        }
    }

    /// True if `address` is one the guest may send from.
    pub fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.ipv4.is_some_and(|l| l.guest == a),
            IpAddr::V6(a) => self.ipv6.is_some_and(|l| l.may_be_guest(a)),
        }
    }

    /// Bytes of Ethernet and network header towards the guest for the family of `like`
    /// (without a fragment header).
    pub const fn header_len(like: IpAddr) -> usize {
        match like {
            IpAddr::V4(_) => EthernetHeader::LEN + Ipv4Header::LEN,
            IpAddr::V6(_) => EthernetHeader::LEN + Ipv6Header::LEN,
        }
    }

    /// Writes Ethernet and network header to the start of `out`; returns their length.
    pub fn emit(&self, spec: &PacketSpec, out: &mut [u8]) -> usize {
        let ethertype = match spec.src {
            IpAddr::V4(_) => EtherType::Ipv4,
            IpAddr::V6(_) => EtherType::Ipv6,
        };
        EthernetHeader {
            dst: self.guest_mac,
            src: GATEWAY_MAC,
            ethertype,
        }
        .emit(out);
        EthernetHeader::LEN + spec.emit(&mut out[EthernetHeader::LEN..])
    }
}
