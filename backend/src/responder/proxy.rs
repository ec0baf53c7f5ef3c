//! Proxy for the neighbours of a guest whose segment carries packets but no frames (ipvtap in l3
//! and l3s). The host's kernel routes the guest's packets and drops its ARP and neighbour
//! solicitations, so the gateway answers for all neighbours (RFC 1027, RFC 4389). All other
//! broadcast and multicast is dropped.

use super::{Answer, Packet, Replies, arp, ndp, transport};
use crate::counters::DropReason;
use crate::packet::{ArpPacket, EtherType, EthernetHeader, Headers, Network, icmp, protocol};
use std::net::Ipv6Addr;

/// Answers ARP and neighbour solicitations for every neighbour of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeighbourProxy;

impl NeighbourProxy {
    /// True for a frame, beginning with `head`, that the kernel would not route: everything except
    /// unicast IP, and among unicast IP the neighbour solicitations. Cheap.
    pub fn wants(self, head: &[u8]) -> bool {
        /// Offsets of the next header and the ICMPv6 type in a frame without extension headers.
        const NEXT_HEADER: usize = EthernetHeader::LEN + 6;
        const TYPE: usize = EthernetHeader::LEN + 40;
        let Ok(ethernet) = EthernetHeader::parse(head) else {
            return true;
        };
        match ethernet.ethertype {
            _ if ethernet.dst.is_multicast() => true,
            EtherType::Ipv4 => false,
            EtherType::Ipv6 => {
                let is_discovery = |kind: &u8| (icmp::v6::ROUTER_SOLICITATION..=icmp::v6::REDIRECT).contains(kind);
                head.get(NEXT_HEADER) == Some(&protocol::ICMPV6) && head.get(TYPE).is_some_and(is_discovery)
            }
            _ => true,
        }
    }

    /// Handles a frame for which the test above is true.
    pub fn answer(self, frame: &[u8], replies: &mut Replies) -> Answer {
        let headers = match Headers::parse(frame, frame.len()) {
            Ok(headers) => headers,
            Err(why) => return Answer::Refused(why.into()),
        };
        let guest_mac = headers.ethernet.src;
        match headers.network {
            Network::Arp => {
                // Probes and announcements (RFC 5227) ask for another owner of the guest's own
                // address: there is none.
                let is_here =
                    |request: &ArpPacket| !request.sender.is_unspecified() && request.sender != request.target;
                arp::answer(is_here, guest_mac, &frame[EthernetHeader::LEN..], replies)
            }
            Network::Ipv6(header) if header.protocol == protocol::ICMPV6 && header.fragment.is_none() => {
                let packet = Packet {
                    guest_mac,
                    src: header.src,
                    dst: header.dst,
                    hop_limit: header.hop_limit,
                    payload: transport(&headers, frame),
                };
                discovery(&packet, replies)
            }
            Network::Other(_) if !headers.ethernet.dst.is_multicast() => Answer::Refused(DropReason::UnknownEtherType),
            _ => Answer::Refused(DropReason::Multicast),
        }
    }
}

/// Answers a neighbour solicitation; other messages went to groups without members.
fn discovery(packet: &Packet<'_, Ipv6Addr>, replies: &mut Replies) -> Answer {
    match packet.payload.first() {
        Some(&icmp::v6::NEIGHBOUR_SOLICITATION) if ndp::kind(packet).is_some() => {
            ndp::on_solicitation(|_, is_probe| !is_probe, packet, replies)
        }
        Some(&icmp::v6::NEIGHBOUR_ADVERTISEMENT) => Answer::Done,
        Some(&icmp::v6::NEIGHBOUR_SOLICITATION | &icmp::v6::REDIRECT) => Answer::Refused(DropReason::BadService),
        _ => Answer::Refused(DropReason::Multicast),
    }
}
