//! ARP (RFC 826) for the addresses found at the gateway, and for no other.

use super::{Answer, Replies};
use crate::config::GATEWAY_MAC;
use crate::counters::DropReason;
use crate::packet::{EtherType, MacAddr, be16};
use std::net::Ipv4Addr;

/// Bytes of an ARP packet for IPv4 over Ethernet.
const LEN: usize = 28;
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Answers the ARP packet `packet` if it asks for one of `neighbours`.
pub(super) fn answer(neighbours: &[Ipv4Addr], guest_mac: MacAddr, packet: &[u8], replies: &mut Replies) -> Answer {
    let Some(request) = packet.first_chunk::<LEN>().filter(|p| p[..6] == ETHERNET_IPV4) else {
        return Answer::Refused(DropReason::BadService);
    };
    let [s0, s1, s2, s3] = [request[14], request[15], request[16], request[17]];
    let sender = Ipv4Addr::new(s0, s1, s2, s3);
    let target = Ipv4Addr::new(request[24], request[25], request[26], request[27]);
    match be16(request, 6) {
        REQUEST if neighbours.contains(&target) => {
            let reply = replies.ethernet(guest_mac, EtherType::Arp, LEN);
            reply[..6].copy_from_slice(&ETHERNET_IPV4);
            reply[6..8].copy_from_slice(&REPLY.to_be_bytes());
            reply[8..14].copy_from_slice(&GATEWAY_MAC.0);
            reply[14..18].copy_from_slice(&target.octets());
            // Sender hardware and protocol address go back as target.
            reply[18..28].copy_from_slice(&request[8..18]);
            Answer::Done
        }
        // Probes (RFC 5227 2.1.1) and announcements of an address of the guest's own
        // ask whether somebody else has it: nobody has.
        REQUEST if sender.is_unspecified() || sender == target => Answer::Done,
        REQUEST => Answer::Refused(DropReason::NoSuchNeighbour),
        REPLY => Answer::Done,
        _ => Answer::Refused(DropReason::BadService),
    }
}
