//! Frames that tell the segment where a guest is, after it came from another place.
//!
//! Switches learn its port from any of them. RARP does not depend on the guest's addresses, and is what QEMU sends for
//! network cards of its own. ARP and neighbour announcements also refresh the caches of hosts.

use crate::frame::{GuestFrame, Offload};
use crate::mode::Announcement;
use crate::packet::{ArpPacket, EtherType, EthernetHeader, Head, MacAddr};
use crate::responder::{Replies, announce};
use std::net::Ipv4Addr;

/// EtherType of RARP (RFC 903).
const RARP: EtherType = EtherType::Other(0x8035);
/// RARP operation that asks for the sender's own address.
const REVERSE_REQUEST: u16 = 3;
/// Shortest Ethernet frame without its checksum.
const SHORTEST: usize = 60;

/// The frames, as if the guest had sent them.
pub(super) fn frames(announcement: &Announcement) -> Vec<Vec<u8>> {
    let Announcement { mac, addresses } = announcement;
    let mut replies = Replies::of(*mac);
    for address in addresses {
        announce(*address, *mac, &mut replies);
    }
    let mut all = vec![rarp(*mac)];
    all.extend(replies.iter().map(<[u8]>::to_vec));
    all
}

fn rarp(mac: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; SHORTEST];
    let header = EthernetHeader {
        dst: MacAddr::BROADCAST,
        src: mac,
        ethertype: RARP,
    };
    header.emit(&mut frame);
    let request = ArpPacket {
        operation: REVERSE_REQUEST,
        sender_mac: mac,
        sender: Ipv4Addr::UNSPECIFIED,
        target_mac: mac,
        target: Ipv4Addr::UNSPECIFIED,
    };
    request.emit(&mut frame[EthernetHeader::LEN..]);
    frame
}

/// A frame that is not in guest memory. All of it is head.
pub(super) fn as_guest_frame(bytes: &[u8]) -> GuestFrame<'_> {
    GuestFrame {
        head: bytes,
        parsed: Head::parse(bytes, bytes.len()),
        slices: &[],
        len: bytes.len(),
        offload: Offload::NONE,
    }
}
