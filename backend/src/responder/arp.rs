//! ARP (RFC 826) for addresses at the gateway, and for no others.

use super::{Answer, Replies};
use crate::config::GATEWAY_MAC;
use crate::counters::DropReason;
use crate::packet::{ArpPacket, EtherType, Head};

/// Answers the ARP packet in `frame` if `is_here` says that the requested address is at the gateway.
pub(super) fn answer(is_here: impl Fn(&ArpPacket) -> bool, frame: &[u8], head: &Head, replies: &mut Replies) -> Answer {
    let packet = frame.get(head.packet()..).unwrap_or_default();
    let (Some(request), Some(guest_mac)) = (ArpPacket::parse(packet), head.source_mac(frame)) else {
        return Answer::Refused(DropReason::BadService);
    };
    let ArpPacket { sender, target, .. } = request;
    match request.operation {
        ArpPacket::REQUEST if is_here(&request) => {
            let reply = ArpPacket {
                operation: ArpPacket::REPLY,
                sender_mac: GATEWAY_MAC,
                sender: target,
                target_mac: request.sender_mac,
                target: sender,
            };
            reply.emit(replies.ethernet(guest_mac, EtherType::Arp, ArpPacket::LEN));
            Answer::Done
        }
        // Probes (RFC 5227 2.1.1) and announcements of the guest's own address look for another
        // owner: there is none.
        ArpPacket::REQUEST if sender.is_unspecified() || sender == target => Answer::Done,
        ArpPacket::REQUEST => Answer::Refused(DropReason::NoSuchNeighbour),
        ArpPacket::REPLY => Answer::Done,
        _ => Answer::Refused(DropReason::BadService),
    }
}
