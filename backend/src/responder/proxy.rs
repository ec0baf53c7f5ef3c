//! Neighbours of a guest whose segment carries packets and no frames (ipvtap in l3 and l3s):
//! the host's kernel routes what the guest sends, and throws away what it would ask its
//! neighbours. So the gateway answers for all of them, as a proxy does (RFC 1027, RFC 4389),
//! and whatever else is said to all on a link is said to nobody.

use super::{Answer, Packet, Replies, arp, ndp, transport};
use crate::counters::DropReason;
use crate::packet::{ArpPacket, EtherType, EthernetHeader, Headers, Network, icmp, protocol};
use std::net::Ipv6Addr;

/// Answers for every neighbour of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeighbourProxy;

impl NeighbourProxy {
    /// True for a frame, beginning with `head`, that the kernel has no use for: all but
    /// packets of IP to one receiver, and of those the questions for a neighbour. Cheap.
    pub fn wants(self, head: &[u8]) -> bool {
        /// Where the protocol and the type of ICMPv6 are in a frame without extension headers.
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

    /// Deals with a whole frame of the guest that is wanted.
    pub fn answer(self, frame: &[u8], replies: &mut Replies) -> Answer {
        let headers = match Headers::parse(frame, frame.len()) {
            Ok(headers) => headers,
            Err(why) => return Answer::Refused(why.into()),
        };
        let guest_mac = headers.ethernet.src;
        match headers.network {
            Network::Arp => {
                // Probes and announcements (RFC 5227) ask whether somebody else has an
                // address of the guest's own: nobody has.
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

/// Answers a message of neighbour discovery; others were for a group nobody is in.
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
