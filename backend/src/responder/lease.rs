//! DHCPv4 only, for a guest on a shared segment: one address for one guest. All requests of the
//! guest to a DHCP server are answered here, or not at all.

use super::names::Told;
use super::{Answer, HeldLeases, Packet, Replies, dhcp4, transport, udp_dst};
use crate::config::{LeaseConfig, NameConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{EthernetHeader, Headers, Ipv4Header, Network, protocol};
use std::sync::Arc;

/// The server.
#[derive(Debug)]
pub struct LeaseServer {
    names: NameConfig,
    dhcp: dhcp4::Server,
}

impl LeaseServer {
    /// A server for this lease, on a link with this MTU. Invalid names are left out, with a warning
    /// in the log. `held` records whether the guest holds the lease.
    pub fn new(config: &LeaseConfig, mtu: u16, held: Arc<HeldLeases>) -> Self {
        let terms = dhcp4::Terms {
            network: config.address,
            server: config.server,
            guest: config.address.addr(),
            client: Some(config.client),
            router: config.router,
            routes: config.routes.clone(),
            mtu,
        };
        Self {
            dhcp: dhcp4::Server::new(terms, &Told::of(&config.names), held),
            names: config.names.clone(),
        }
    }

    /// Replaces name servers and search domains from the next answer on.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        self.dhcp.tell(&Told::of(&self.names));
    }

    /// True for a frame of `len` bytes, beginning with `head`, to any DHCP server. Cheap for every
    /// frame that is not UDP over IPv4.
    pub fn wants(&self, head: &[u8], len: usize) -> bool {
        /// Offset of the protocol in an untagged frame.
        const PROTOCOL: usize = EthernetHeader::LEN + 9;
        if head.get(PROTOCOL) != Some(&protocol::UDP) {
            return false;
        }
        Headers::parse(head, len).is_ok_and(|headers| request(&headers, head).is_some())
    }

    /// Handles a whole frame of the guest for which [`wants`](Self::wants) is true.
    pub fn answer(&self, frame: &[u8], counters: &Counters, replies: &mut Replies) -> Answer {
        let headers = match Headers::parse(frame, frame.len()) {
            Ok(headers) => headers,
            Err(why) => return Answer::Refused(why.into()),
        };
        let Some(header) = request(&headers, frame) else {
            return Answer::NotMine;
        };
        if !self.dhcp.is_for_us(header.dst) {
            return Answer::Refused(DropReason::BadService);
        }
        let packet = Packet {
            guest_mac: headers.ethernet.src,
            src: header.src,
            dst: header.dst,
            hop_limit: header.ttl,
            payload: transport(&headers, frame),
        };
        self.dhcp.answer(&packet, counters, replies)
    }
}

/// The IP header of a message to a DHCP server.
fn request<'a>(headers: &'a Headers, bytes: &[u8]) -> Option<&'a Ipv4Header> {
    let Network::Ipv4(header) = &headers.network else {
        return None;
    };
    let is_udp = header.protocol == protocol::UDP && header.fragment.is_none();
    (is_udp && udp_dst(transport(headers, bytes)) == Some(dhcproto::v4::SERVER_PORT)).then_some(header)
}
