//! DHCPv4 server for a guest on a shared segment, with one address for one guest. The guest's requests to any DHCP
//! server are answered here or not at all.

use super::names::OfferedNames;
use super::{Answer, Convention, HeldLeases, Packet, Replies, dhcp4, udp_dst};
use crate::config::{LeaseConfig, NameConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::packet::{EtherType, Head, protocol};
use std::sync::Arc;

/// The DHCPv4 server of one guest.
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
            station: None,
            lease_secs: Convention::KubeVirt.lease4_secs(),
            guest: config.address.addr(),
            client: Some(config.client),
            router: config.router,
            routes: config.routes.clone(),
            mtu,
        };
        Self {
            dhcp: dhcp4::Server::new(terms, &OfferedNames::of(&config.names), held),
            names: config.names.clone(),
        }
    }

    /// Replaces name servers and search domains, starting with the next answer.
    pub fn set_resolvers(&mut self, resolvers: &Resolvers) {
        self.names.follow(resolvers);
        self.dhcp.tell(&OfferedNames::of(&self.names));
    }

    /// Replaces the MTU of the link, starting with the next answer.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.dhcp.set_mtu(mtu, &OfferedNames::of(&self.names));
    }

    /// True for a frame to any DHCP server. `head` is the parsed form of `bytes`. The check is cheap for every frame
    /// that is not UDP over IPv4.
    pub fn wants(&self, bytes: &[u8], head: &Head) -> bool {
        let is_udp = head.transport().is_some_and(|at| at.protocol == protocol::UDP);
        is_udp
            && head.ethertype() == EtherType::Ipv4
            && head.tags() == 0
            && head.fault().is_none()
            && !head.is_fragment()
            && udp_dst(bytes, head) == Some(dhcproto::v4::SERVER_PORT)
    }

    /// Handles a whole frame of the guest for which [`wants`](Self::wants) is true.
    pub fn answer(&self, frame: &[u8], head: &Head, counters: &Counters, replies: &mut Replies) -> Answer {
        match Packet::v4(frame, head) {
            Some(_) if !self.wants(frame, head) => Answer::NotMine,
            None => Answer::NotMine,
            Some(packet) if !self.dhcp.is_for_us(packet.dst) => Answer::Refused(DropReason::BadService),
            Some(packet) => self.dhcp.answer(&packet, counters, replies),
        }
    }
}
