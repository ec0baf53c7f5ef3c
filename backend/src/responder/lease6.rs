//! DHCPv6 server for a guest on a shared segment, with one address for one guest.
//!
//! A guest uses DHCPv6 when a router advertisement announces it. A router solicitation is therefore
//! answered with an advertisement that names no router: it contains the on-link prefix and
//! announces DHCPv6. The solicitation also goes to the segment, whose routers answer it as well;
//! the guest learns routers and routes from them.

use super::names::{OfferedNames, SearchList};
use super::{Answer, Convention, HeldLeases, NoNeighbours, Packet, Replies, Station, dhcp6, ndp, udp_dst};
use crate::config::{GATEWAY_MAC, Ipv6Link, Lease6Config, NameConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{Head, MacAddr, protocol};
use crate::time::Instant;
use ipnet::Ipv6Net;
use std::sync::Arc;

/// The DHCPv6 server of one guest.
#[derive(Debug)]
pub struct Lease6Server {
    client: MacAddr,
    names: NameConfig,
    held: Arc<HeldLeases>,
    link: Ipv6Link,
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
        Self {
            link,
            client: config.client,
            dhcp: dhcp6::Server::new(
                GATEWAY_MAC,
                link,
                dhcp6::Terms::new(Convention::KubeVirt, GATEWAY_MAC),
                &OfferedNames::of(&config.names),
                Arc::clone(&held),
            ),
            held,
            names: config.names.clone(),
            router: ndp::Router::new(
                vec![link.gateway],
                Station::AddressServer,
                advertisement(&link, mtu),
                None,
            ),
        }
    }

    /// Replaces name servers and search domains, starting with the next answer.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        self.dhcp.tell(&OfferedNames::of(&self.names));
    }

    /// Replaces the MTU of the link, starting with the next answer.
    pub fn set_mtu(&mut self, now: Instant, mtu: u16) {
        self.router.set_advertisement(now, advertisement(&self.link, mtu));
    }

    /// True for a frame to any DHCPv6 server. `head` is the parsed form of `bytes`. The check is cheap for all other
    /// frames.
    pub fn wants(&self, bytes: &[u8], head: &Head) -> bool {
        ndp::is_ipv6(head, protocol::UDP) && udp_dst(bytes, head) == Some(dhcproto::v6::SERVER_PORT)
    }

    /// True for a router solicitation, which also goes to the segment.
    pub fn hears(&self, bytes: &[u8], head: &Head) -> bool {
        ndp::is_router_solicitation(bytes, head)
    }

    /// Handles a frame for which [`wants`](Self::wants) or [`hears`](Self::hears) is true.
    pub fn answer(
        &mut self,
        now: Instant,
        frame: &[u8],
        head: &Head,
        counters: &Counters,
        replies: &mut Replies,
    ) -> Answer {
        let Some(packet) = Packet::v6(frame, head) else {
            return Answer::NotMine;
        };
        if packet.guest_mac != self.client {
            self.held.refuse(self.client, packet.guest_mac);
            return Answer::Refused(DropReason::LeaseOfOtherMac);
        }
        if self.hears(frame, head) {
            self.router.answer(now, &packet, &NoNeighbours, counters, replies)
        } else if !self.wants(frame, head) {
            Answer::NotMine
        } else if self.dhcp.is_for_us(packet.dst) {
            self.dhcp.answer(&packet, counters, replies)
        } else {
            Answer::Refused(DropReason::BadService)
        }
    }
}

/// The advertisement of the link. DHCP hands out the names, because those in an advertisement would expire.
fn advertisement(link: &Ipv6Link, mtu: u16) -> Vec<u8> {
    let advertised = ndp::Advertised {
        gateway: GATEWAY_MAC,
        link: on_link(link),
        prefix: ndp::Prefix {
            on_link: true,
            autonomous: false,
        },
        announcement: ndp::Announcement::of(Convention::KubeVirt, Station::AddressServer),
        mtu,
    };
    ndp::advertisement(advertised, &[], &SearchList::default())
}

/// The link, with the prefix of the advertisement.
fn on_link(link: &Ipv6Link) -> Ipv6Link {
    Ipv6Link {
        network: Ipv6Net::trunc(&link.network),
        ..*link
    }
}
