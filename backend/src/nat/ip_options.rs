//! IP options of the guest's datagrams (TTL, fragmentation, traffic class), copied to the host
//! sockets that forward them.

use crate::frame::GuestFrame;
use crate::nat::link::Link;
use crate::packet::{EtherType, EthernetHeader};
use crate::sys::datagram::{self, Fragmentation};
use crate::sys::traffic_class::set_traffic_class;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket};

/// The fields of a packet's network header that a host socket copies from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IpOptions {
    /// TTL or hop limit of the packet.
    pub ttl: u8,
    /// Whether the packet may be fragmented on its path.
    pub fragmentation: Fragmentation,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

impl IpOptions {
    /// The options of the packet in `frame`. In IPv4 the don't-fragment bit decides whether the packet may be
    /// fragmented. In IPv6 a packet that the guest sent in one piece must stay in one piece (RFC 8200 5). Frames with
    /// `segmented` set consist of such packets.
    #[inline]
    pub(super) fn of(frame: &GuestFrame<'_>, segmented: bool, link: &Link) -> Self {
        let (head, bytes) = (&frame.parsed, frame.head);
        let in_one_piece = match head.ethertype() {
            EtherType::Ipv6 => segmented || frame.len <= EthernetHeader::LEN + usize::from(link.mtu),
            _ => head.is_unfragmentable(bytes),
        };
        Self {
            ttl: head.ttl(bytes).unwrap_or_default(),
            fragmentation: if in_one_piece {
                Fragmentation::Refuse
            } else {
                Fragmentation::Allow
            },
            traffic_class: head.traffic_class(bytes),
        }
    }
}

/// The options last set on a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SocketIpOptions {
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
        // An option that cannot be set now is set when the next datagram needs it.
        Self {
            ttl: saved.ttl.filter(|ttl| datagram::set_ttl(socket, domain, *ttl).is_ok()),
            fragmentation: fragmentation.filter(|wanted| datagram::set_fragmentation(socket, domain, *wanted).is_ok()),
            traffic_class: if has_class { saved.traffic_class } else { 0 },
        }
    }

    /// Sets the options in which `wanted` differs. Once a socket is permitted to fragment, it keeps this permission:
    /// datagrams within the path's MTU carry don't-fragment anyway.
    pub(super) fn adapt(&mut self, socket: &Socket, domain: Domain, wanted: IpOptions) {
        // Each call fails only for a value out of range or a socket of the other family.
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
