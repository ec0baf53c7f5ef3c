//! DHCPv6 server for a guest on a shared segment: one address for one guest.
//!
//! A guest uses DHCPv6 when a router advertisement announces it. A router solicitation is therefore
//! answered with an advertisement that names no router: it contains the on-link prefix and
//! announces DHCPv6. The solicitation also goes to the segment, whose routers answer it as well;
//! the guest learns routers and routes from them.

use super::names::{SearchList, Told};
use super::{Answer, HeldLeases, Packet, Replies, dhcp6, ndp, transport, udp_dst};
use crate::config::{GATEWAY_MAC, Ipv6Link, Lease6Config, NameConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{EthernetHeader, Headers, Ipv6Header, MacAddr, Network, icmp, protocol};
use crate::time::Instant;
use ipnet::Ipv6Net;
use std::sync::Arc;

/// Router lifetime of an advertiser that is not a router (RFC 4861 4.2).
const NO_ROUTER: u16 = 0;

/// The server.
#[derive(Debug)]
pub struct Lease6Server {
    client: MacAddr,
    names: NameConfig,
    held: Arc<HeldLeases>,
    dhcp: dhcp6::Server,
    router: ndp::Router,
}

impl Lease6Server {
    /// A server for this lease, on a link with this MTU. Invalid names are left out, with a warning
    /// in the log. `held` records whether the guest holds the lease.
    pub fn new(config: &Lease6Config, mtu: u16, held: Arc<HeldLeases>) -> Self {
        let link = Ipv6Link {
            network: config.address,
            gateway: GATEWAY_MAC.link_local(),
            guest: config.address.addr(),
        };
        // DHCP gives out the names: those of an advertisement would expire.
        let advertisement = ndp::advertisement(
            &on_link(&link),
            ndp::Prefix::OnLink,
            NO_ROUTER,
            mtu,
            &[],
            &SearchList::default(),
        );
        Self {
            client: config.client,
            dhcp: dhcp6::Server::new(link, &Told::of(&config.names), Arc::clone(&held)),
            held,
            names: config.names.clone(),
            router: ndp::Router::new(link, Vec::new(), advertisement, false),
        }
    }

    /// Replaces name servers and search domains from the next answer on.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        self.dhcp.tell(&Told::of(&self.names));
    }

    /// True for a frame of `len` bytes, beginning with `head`, to any DHCPv6 server. Cheap for all
    /// other frames.
    pub fn wants(&self, head: &[u8], len: usize) -> bool {
        next_header(head) == Some(protocol::UDP) && parsed(head, len, is_request)
    }

    /// True for a router solicitation, which also goes to the segment.
    pub fn hears(&self, head: &[u8], len: usize) -> bool {
        next_header(head) == Some(protocol::ICMPV6) && parsed(head, len, is_solicitation)
    }

    /// Handles a frame for which one of the two tests above is true.
    pub fn answer(&mut self, now: Instant, frame: &[u8], counters: &Counters, replies: &mut Replies) -> Answer {
        let headers = match Headers::parse(frame, frame.len()) {
            Ok(headers) => headers,
            Err(why) => return Answer::Refused(why.into()),
        };
        let Network::Ipv6(header) = &headers.network else {
            return Answer::NotMine;
        };
        if headers.ethernet.src != self.client {
            self.held.refuse(self.client, headers.ethernet.src);
            return Answer::Refused(DropReason::LeaseOfOtherMac);
        }
        let payload = transport(&headers, frame);
        let packet = Packet {
            guest_mac: headers.ethernet.src,
            src: header.src,
            dst: header.dst,
            hop_limit: header.hop_limit,
            payload,
        };
        if is_solicitation(header, payload) {
            self.router.answer(now, &packet, counters, replies)
        } else if !is_request(header, payload) {
            Answer::NotMine
        } else if self.dhcp.is_for_us(header.dst) {
            self.dhcp.answer(&packet, counters, replies)
        } else {
            Answer::Refused(DropReason::BadService)
        }
    }
}

/// The link, with the prefix of the advertisement.
fn on_link(link: &Ipv6Link) -> Ipv6Link {
    Ipv6Link {
        network: Ipv6Net::trunc(&link.network),
        ..*link
    }
}

/// The bytes behind the IPv6 header of an untagged frame.
fn next_header(head: &[u8]) -> Option<u8> {
    const ETHERTYPE: std::ops::Range<usize> = EthernetHeader::LEN - 2..EthernetHeader::LEN;
    const IPV6: [u8; 2] = [0x86, 0xdd];
    let next_header = head.get(EthernetHeader::LEN + 6)?;
    (head[ETHERTYPE] == IPV6).then_some(*next_header)
}

fn parsed(head: &[u8], len: usize, is: impl Fn(&Ipv6Header, &[u8]) -> bool) -> bool {
    Headers::parse(head, len).is_ok_and(|headers| match &headers.network {
        Network::Ipv6(header) => is(header, transport(&headers, head)),
        _ => false,
    })
}

fn is_request(header: &Ipv6Header, transport: &[u8]) -> bool {
    let is_udp = header.protocol == protocol::UDP && header.fragment.is_none();
    is_udp && udp_dst(transport) == Some(dhcproto::v6::SERVER_PORT)
}

fn is_solicitation(header: &Ipv6Header, transport: &[u8]) -> bool {
    let is_icmp = header.protocol == protocol::ICMPV6 && header.fragment.is_none();
    is_icmp && transport.first() == Some(&icmp::v6::ROUTER_SOLICITATION)
}
