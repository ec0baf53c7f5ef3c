//! IP options of the guest's datagrams (TTL, fragmentation, traffic class), copied to the host
//! sockets that forward them.

use crate::frame::GuestFrame;
use crate::nat::link::Link;
use crate::packet::EthernetHeader;
use crate::sys::datagram::{self, Fragmentation};
use crate::sys::traffic_class::set_traffic_class;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket};
use std::net::IpAddr;

/// The fields of a packet's network header that a host socket copies from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpOptions {
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether it may be fragmented on its path.
    pub fragmentation: Fragmentation,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

/// DSCP and ECN of the guest's packet in the frame that begins with `head`: the TOS of IPv4, the
/// traffic class of IPv6 (RFC 2474, RFC 3168).
pub fn traffic_class(head: &[u8]) -> u8 {
    let [first, second] = head
        .get(EthernetHeader::LEN..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or([0; 2]);
    match first >> 4 {
        4 => second,
        6 => first << 4 | second >> 4,
        _ => 0,
    }
}

/// TTL or hop limit of the guest's packet in the frame that begins with `head`.
pub fn ttl(head: &[u8]) -> Option<u8> {
    const IPV4_TTL: usize = 8;
    const IPV6_HOP_LIMIT: usize = 7;
    let packet = head.get(EthernetHeader::LEN..)?;
    match packet.first()? >> 4 {
        4 => packet.get(IPV4_TTL).copied(),
        6 => packet.get(IPV6_HOP_LIMIT).copied(),
        _ => None,
    }
}

impl IpOptions {
    /// The options of `frame`, a packet from `src` with this `ttl`. In IPv4 the don't-fragment bit
    /// decides. In IPv6 a packet that the guest sent in one piece must stay in one piece (RFC 8200
    /// 5); `segmented` frames consist of such packets.
    #[inline]
    pub fn of(frame: &GuestFrame<'_>, src: IpAddr, ttl: u8, segmented: bool, link: &Link) -> Self {
        /// Offset of the flags in an IPv4 header.
        const FLAGS_AT: usize = EthernetHeader::LEN + 6;
        const DONT_FRAGMENT: u8 = 0x40;
        let in_one_piece = match src {
            IpAddr::V4(_) => frame.head.get(FLAGS_AT).is_some_and(|b| b & DONT_FRAGMENT != 0),
            IpAddr::V6(_) => segmented || frame.len <= EthernetHeader::LEN + usize::from(link.mtu),
        };
        Self {
            ttl,
            fragmentation: if in_one_piece {
                Fragmentation::Refuse
            } else {
                Fragmentation::Allow
            },
            traffic_class: traffic_class(frame.head),
        }
    }
}

/// The options last set on a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketIpOptions {
    ttl: Option<u8>,
    fragmentation: Option<Fragmentation>,
    traffic_class: u8,
}

/// [`SocketIpOptions`] as a plain value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedIpOptions {
    ttl: Option<u8>,
    may_fragment: Option<bool>,
    traffic_class: u8,
}

impl SocketIpOptions {
    /// The options as a plain value.
    pub(super) fn save(&self) -> SavedIpOptions {
        let Self {
            ttl,
            fragmentation,
            traffic_class,
        } = *self;
        SavedIpOptions {
            ttl,
            may_fragment: fragmentation.map(|fragmentation| fragmentation == Fragmentation::Allow),
            traffic_class,
        }
    }

    /// The options of a saved flow, set on `socket`.
    pub(super) fn load(saved: &SavedIpOptions, socket: &Socket, domain: Domain) -> Self {
        let fragmentation = saved.may_fragment.map(|may_fragment| {
            if may_fragment {
                Fragmentation::Allow
            } else {
                Fragmentation::Refuse
            }
        });
        let has_class = set_traffic_class(socket, domain, saved.traffic_class).is_ok();
        // What cannot be set is set with the next datagram that wants it.
        Self {
            ttl: saved.ttl.filter(|ttl| datagram::set_ttl(socket, domain, *ttl).is_ok()),
            fragmentation: fragmentation.filter(|wanted| datagram::set_fragmentation(socket, domain, *wanted).is_ok()),
            traffic_class: if has_class { saved.traffic_class } else { 0 },
        }
    }

    /// Sets the options in which `wanted` differs. A socket that was once permitted to fragment
    /// stays so: datagrams within the path's MTU carry don't-fragment all the same.
    pub fn adapt(&mut self, socket: &Socket, domain: Domain, wanted: IpOptions) {
        // Each fails only for a value out of range or a socket of the other family.
        if self.ttl != Some(wanted.ttl) && datagram::set_ttl(socket, domain, wanted.ttl).is_ok() {
            self.ttl = Some(wanted.ttl);
        }
        if self.traffic_class != wanted.traffic_class && set_traffic_class(socket, domain, wanted.traffic_class).is_ok()
        {
            self.traffic_class = wanted.traffic_class;
        }
        let settled = self.fragmentation == Some(Fragmentation::Allow);
        if !settled
            && self.fragmentation != Some(wanted.fragmentation)
            && datagram::set_fragmentation(socket, domain, wanted.fragmentation).is_ok()
        {
            self.fragmentation = Some(wanted.fragmentation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::test_support::{ip, packet};
    use crate::packet::protocol;

    #[test]
    fn the_traffic_class_of_either_family_is_found() {
        let mut v4 = packet(ip("10.0.2.2"), ip("192.0.2.1"), protocol::UDP, 64, b"");
        v4[EthernetHeader::LEN + 1] = 0xb9;
        let mut v6 = packet(ip("fd10:0:2::2"), ip("2001:db8::1"), protocol::UDP, 64, b"");
        v6[EthernetHeader::LEN] |= 0x0b;
        v6[EthernetHeader::LEN + 1] = 0x9f;
        assert_eq!((traffic_class(&v4), traffic_class(&v6)), (0xb9, 0xb9));
        assert_eq!(traffic_class(&v4[..EthernetHeader::LEN + 1]), 0);
        assert_eq!((ttl(&v4), ttl(&v6)), (Some(64), Some(64)));
        assert_eq!(ttl(&v4[..EthernetHeader::LEN + 8]), None);
    }
}
