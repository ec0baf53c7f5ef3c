//! Echo requests to the gateway's own addresses (RFC 792, RFC 4443 4.1).

use super::replies::Route;
use super::{Answer, HOP_LIMIT, Packet, Replies};
use crate::counters::DropReason;
use crate::packet::{IcmpHeader, icmp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Answers an echo request over IPv4.
pub(super) fn answer4(packet: &Packet<'_, Ipv4Addr>, replies: &mut Replies) -> Answer {
    if !is_request(packet, icmp::v4::ECHO_REQUEST) {
        return Answer::Refused(DropReason::BadService);
    }
    replies.icmp4(&route_back(packet), packet.payload.len(), |reply| {
        fill(reply, packet.payload, icmp::v4::ECHO_REPLY);
    });
    Answer::Done
}

/// Answers an echo request over IPv6.
pub(super) fn answer6(packet: &Packet<'_, Ipv6Addr>, replies: &mut Replies) -> Answer {
    if !is_request(packet, icmp::v6::ECHO_REQUEST) {
        return Answer::Refused(DropReason::BadService);
    }
    replies.icmp6(&route_back(packet), packet.payload.len(), |reply| {
        fill(reply, packet.payload, icmp::v6::ECHO_REPLY);
    });
    Answer::Done
}

/// True if `packet` is a sound request that somebody can be answered about.
fn is_request<A: Copy + Into<IpAddr>>(packet: &Packet<'_, A>, kind: u8) -> bool {
    let (src, dst) = (packet.src.into(), packet.dst.into());
    let has_source = !src.is_unspecified() && !src.is_multicast();
    has_source
        && IcmpHeader::parse(packet.payload).is_ok_and(|h| h.kind == kind && h.code == 0)
        && icmp::checksum_ok(src, dst, packet.payload)
}

const fn route_back<A: Copy>(packet: &Packet<'_, A>) -> Route<A> {
    Route {
        mac: packet.guest_mac,
        src: packet.dst,
        dst: packet.src,
        hop_limit: HOP_LIMIT,
    }
}

/// The reply is the request with another type.
fn fill(reply: &mut [u8], request: &[u8], kind: u8) {
    reply.copy_from_slice(request);
    reply[0] = kind;
}
