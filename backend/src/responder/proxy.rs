//! Answers for all neighbours of a guest whose segment carries packets but no frames (ipvtap in l3 and l3s). The host's
//! kernel routes the guest's packets and drops its ARP and neighbour solicitations, so the gateway acts as proxy for
//! all neighbours (RFC 1027, RFC 4389). All other broadcasts and multicasts are dropped.

use super::{Answer, Packet, Replies, arp, ndp};
use crate::counters::DropReason;
use crate::packet::{ArpPacket, EtherType, Head, Ipv6Header, MacAddr, TransportAt, icmp, protocol};
use std::net::Ipv6Addr;

/// Answers a guest's ARP requests and neighbour solicitations in place of every neighbour.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeighbourProxy;

impl NeighbourProxy {
    /// True for a frame that the kernel would not route: everything except unicast IP, and neighbour solicitations.
    /// `head` is the parsed form of `bytes`. The check is cheap.
    pub fn wants(self, bytes: &[u8], head: &Head) -> bool {
        if head.tags() > 0 || head.destination_mac(bytes).is_none_or(MacAddr::is_multicast) {
            return true;
        }
        match head.ethertype() {
            EtherType::Ipv4 => false,
            EtherType::Ipv6 => {
                let is_discovery = |kind: &u8| (icmp::v6::ROUTER_SOLICITATION..=icmp::v6::REDIRECT).contains(kind);
                let is_plain =
                    |at: TransportAt| at.protocol == protocol::ICMPV6 && at.offset == head.packet() + Ipv6Header::LEN;
                head.transport().is_some_and(is_plain) && head.transport_bytes(bytes).first().is_some_and(is_discovery)
            }
            EtherType::Arp | EtherType::Other(_) => true,
        }
    }

    /// Handles a frame for which [`wants`](Self::wants) is true.
    pub fn answer(self, frame: &[u8], head: &Head, replies: &mut Replies) -> Answer {
        if let Some(fault) = head.fault() {
            return Answer::Refused(fault.into());
        }
        let is_group = head.destination_mac(frame).is_none_or(MacAddr::is_multicast);
        match head.outer().into() {
            EtherType::Arp => {
                // Probes and announcements (RFC 5227) ask for another owner of the guest's own address. There is none,
                // so they stay unanswered.
                let is_here =
                    |request: &ArpPacket| !request.sender.is_unspecified() && request.sender != request.target;
                let gateway = replies.gateway;
                let mac_of = |request: &ArpPacket| is_here(request).then_some(gateway);
                arp::answer(mac_of, frame, head, replies)
            }
            EtherType::Ipv6 if !head.is_fragment() => match Packet::v6(frame, head) {
                Some(packet) if head.transport().is_some_and(|at| at.protocol == protocol::ICMPV6) => {
                    discovery(&packet, replies)
                }
                _ => Answer::Refused(DropReason::Multicast),
            },
            EtherType::Other(_) if !is_group => Answer::Refused(DropReason::UnknownEtherType),
            _ => Answer::Refused(DropReason::Multicast),
        }
    }
}

/// Answers a neighbour solicitation. Other messages go to groups without members.
fn discovery(packet: &Packet<'_, Ipv6Addr>, replies: &mut Replies) -> Answer {
    match packet.payload.first() {
        Some(&icmp::v6::NEIGHBOUR_SOLICITATION) if ndp::kind(packet).is_some() => {
            let gateway = ndp::Neighbour {
                mac: replies.gateway,
                is_router: true,
            };
            ndp::on_solicitation(|_, is_probe| (!is_probe).then_some(gateway), packet, replies)
        }
        Some(&icmp::v6::NEIGHBOUR_ADVERTISEMENT) => Answer::Done,
        Some(&icmp::v6::NEIGHBOUR_SOLICITATION | &icmp::v6::REDIRECT) => Answer::Refused(DropReason::BadService),
        _ => Answer::Refused(DropReason::Multicast),
    }
}
