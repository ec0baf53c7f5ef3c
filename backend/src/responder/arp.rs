//! Answers ARP (RFC 826) for the gateway and known neighbours only.

use super::{Answer, Replies};
use crate::counters::DropReason;
use crate::packet::{ArpPacket, EtherType, Head, MacAddr};
use std::net::Ipv4Addr;

/// Announces to all hosts that `address` is at `mac` (RFC 5227 3).
pub(super) fn announce(address: Ipv4Addr, mac: MacAddr, replies: &mut Replies) {
    let announcement = ArpPacket {
        operation: ArpPacket::REQUEST,
        sender_mac: mac,
        sender: address,
        target_mac: MacAddr::default(),
        target: address,
    };
    replies.as_station(mac, |replies| {
        announcement.emit(replies.ethernet(MacAddr::BROADCAST, EtherType::Arp, ArpPacket::LEN));
    });
}

/// Answers the ARP packet in `frame` if `mac_of` returns a MAC for the requested address.
pub(super) fn answer(
    mac_of: impl Fn(&ArpPacket) -> Option<MacAddr>,
    frame: &[u8],
    head: &Head,
    replies: &mut Replies,
) -> Answer {
    let packet = frame.get(head.packet()..).unwrap_or_default();
    let (Some(request), Some(guest_mac)) = (ArpPacket::parse(packet), head.source_mac(frame)) else {
        return Answer::Refused(DropReason::BadService);
    };
    let ArpPacket { sender, target, .. } = request;
    if request.operation == ArpPacket::REQUEST
        && let Some(mac) = mac_of(&request)
    {
        let reply = ArpPacket {
            operation: ArpPacket::REPLY,
            sender_mac: mac,
            sender: target,
            target_mac: request.sender_mac,
            target: sender,
        };
        replies.as_station(mac, |replies| {
            reply.emit(replies.ethernet(guest_mac, EtherType::Arp, ArpPacket::LEN));
        });
        return Answer::Done;
    }
    match request.operation {
        // Probes (RFC 5227 2.1.1) and announcements of the guest's own address ask for another owner. There is none, so
        // they stay unanswered.
        ArpPacket::REQUEST if sender.is_unspecified() || sender == target => Answer::Done,
        ArpPacket::REQUEST => Answer::Refused(DropReason::NoSuchNeighbour),
        ArpPacket::REPLY => Answer::Done,
        _ => Answer::Refused(DropReason::BadService),
    }
}
