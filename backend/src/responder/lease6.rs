//! DHCPv6 alone, for a guest on a segment of others: one address for one guest.
//!
//! A guest asks for DHCPv6 when a router advertisement says that there is some. So whoever
//! asks for routers is told that by an advertisement that makes nobody a router: it says which
//! addresses are neighbours, and to ask. The question goes on to the segment, whose routers
//! answer it too; who is a router, and the way to other networks, the guest hears from them.

use super::names::{SearchList, Told};
use super::{Answer, HeldLeases, Packet, Replies, dhcp6, ndp, transport, udp_dst};
use crate::config::{GATEWAY_MAC, Ipv6Link, Lease6Config, NameConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{EthernetHeader, Headers, Ipv6Header, MacAddr, Network, icmp, protocol};
use crate::time::Instant;
use ipnet::Ipv6Net;
use std::sync::Arc;

/// Of a router that is none (RFC 4861 4.2).
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
    /// A server that gives away this lease, on a link with this MTU. Names that cannot be
    /// handed out are left out, with a warning in the log. Whether the guest holds it is noted in `held`.
    pub fn new(config: &Lease6Config, mtu: u16, held: Arc<HeldLeases>) -> Self {
        let link = Ipv6Link {
            network: config.address,
            gateway: GATEWAY_MAC.link_local(),
            guest: config.address.addr(),
        };
        // Names are DHCP's to tell: what an advertisement says of them runs out.
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

    /// Hands out other name servers and search domains from the next answer on.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        self.dhcp.tell(&Told::of(&self.names));
    }

    /// True for a frame of `len` bytes, beginning with `head`, that is for a DHCPv6 server,
    /// whichever. Cheap for everything that is no UDP of IPv6.
    pub fn wants(&self, head: &[u8], len: usize) -> bool {
        next_header(head) == Some(protocol::UDP) && parsed(head, len, is_request)
    }

    /// True for a frame that asks who is a router, which others are to hear too.
    pub fn hears(&self, head: &[u8], len: usize) -> bool {
        next_header(head) == Some(protocol::ICMPV6) && parsed(head, len, is_solicitation)
    }

    /// Deals with a whole frame of the guest that is wanted or heard.
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

/// The link with the network the advertisement is to name.
fn on_link(link: &Ipv6Link) -> Ipv6Link {
    Ipv6Link {
        network: Ipv6Net::trunc(&link.network),
        ..*link
    }
}

/// What follows the IPv6 header, in a frame without tags that has one.
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
