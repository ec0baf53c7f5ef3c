//! Answers echo requests to the gateway's own addresses (RFC 792, RFC 4443 4.1).

use super::replies::{Family, Route};
use super::{Answer, HOP_LIMIT, Packet, Replies};
use crate::counters::DropReason;
use crate::packet::{IcmpHeader, icmp};

/// Answers an echo request.
pub(super) fn answer<A: Family>(packet: &Packet<'_, A>, replies: &mut Replies) -> Answer {
    let request = packet.payload;
    if !is_request(packet) {
        return Answer::Refused(DropReason::BadService);
    }
    let route = Route {
        mac: packet.guest_mac,
        src: packet.dst,
        dst: packet.src,
        hop_limit: HOP_LIMIT,
    };
    replies.icmp(&route, request.len(), |reply| {
        // The reply is a copy of the request with a different type.
        reply.copy_from_slice(request);
        reply[0] = A::ECHO_REPLY;
    });
    Answer::Done
}

/// True if `packet` is a valid request. The caller has checked that it comes from the guest.
fn is_request<A: Family>(packet: &Packet<'_, A>) -> bool {
    let (src, dst) = (packet.src.into(), packet.dst.into());
    IcmpHeader::parse(packet.payload).is_ok_and(|h| h.kind == A::ECHO_REQUEST && h.code == 0)
        && icmp::checksum_ok(src, dst, packet.payload)
}
