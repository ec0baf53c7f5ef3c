//! From the guest to the tunnel.
//!
//! A frame goes to the endpoint that its destination MAC is behind, a frame to a group to all
//! endpoints of the network. What the guest has left to others is done here: a frame that stands
//! for several segments is cut, and checksums are completed, over bytes that the guest can no
//! longer change. All segments of a frame have one size and one destination, so they leave in one
//! batch ([`sender`](super::sender)).

use super::forwarding::Table;
use super::sender::{Destination, Sender};
use crate::counters::{Counters, DropReason};
use crate::frame::{Checksum, GuestFrame, Segmentation};
use crate::gso::split::Split;
use crate::packet::checksum::Sum;
use crate::packet::geneve::GeneveHeader;
use crate::packet::{Ecn, EtherType, EthernetHeader, protocol};
use crate::sys::datagram::MAX_PAYLOAD;
use std::net::SocketAddr;
use std::sync::Arc;

const IP: usize = EthernetHeader::LEN;

/// Sends frames of the guest.
pub(super) struct Outbound {
    sender: Sender,
    counters: Arc<Counters>,
    /// The tunnel's header, the same for all frames of the network.
    header: GeneveHeader,
    /// Bytes of the longest frame that the network carries.
    frame_max: usize,
}

/// What one frame and its segments have in common.
#[derive(Clone, Copy)]
struct Flow {
    hash: u32,
    class: u8,
}

impl Outbound {
    pub(super) fn new(sender: Sender, table: &Table, mtu: u16, counters: Arc<Counters>) -> Self {
        Self {
            sender,
            counters,
            header: GeneveHeader::new(table.vni()),
            frame_max: IP + usize::from(mtu),
        }
    }

    /// Puts a frame into the batches of its receivers. [`flush`](Self::flush) sends them.
    ///
    /// # Errors
    /// Why the frame goes nowhere, which is counted here.
    pub(super) fn send(&mut self, frame: &GuestFrame<'_>, table: &Table) -> Result<(), DropReason> {
        let sent = self.try_send(frame, table);
        if let Err(reason) = sent {
            self.counters.count_drop(reason);
        }
        sent
    }

    fn try_send(&mut self, frame: &GuestFrame<'_>, table: &Table) -> Result<(), DropReason> {
        let to = frame.parsed.destination_mac(frame.head).ok_or(DropReason::Truncated)?;
        let flow = Flow::of(frame);
        if to.is_multicast() {
            // Whatever is wrong with the frame is wrong for all of them.
            let mut endpoints = table.endpoints().iter();
            return endpoints.try_for_each(|endpoint| self.encapsulate(frame, flow, *endpoint));
        }
        let endpoint = table.endpoint_of(to).ok_or(DropReason::NoSuchNeighbour)?;
        self.encapsulate(frame, flow, endpoint)
    }

    /// Sends what waits in batches.
    pub(super) fn flush(&mut self) {
        self.sender.flush();
    }

    fn encapsulate(&mut self, frame: &GuestFrame<'_>, flow: Flow, to: SocketAddr) -> Result<(), DropReason> {
        if frame.offload.segmentation == Segmentation::None {
            self.whole(frame, flow, to)
        } else {
            self.segments(frame, flow, to)
        }
    }

    fn whole(&mut self, frame: &GuestFrame<'_>, flow: Flow, to: SocketAddr) -> Result<(), DropReason> {
        if frame.len > self.frame_max {
            return Err(DropReason::TunnelTooBig);
        }
        let room = self.room(flow, to, frame.len);
        frame.copy_to(0, room);
        complete(room, frame.offload.checksum);
        Ok(())
    }

    fn segments(&mut self, frame: &GuestFrame<'_>, flow: Flow, to: SocketAddr) -> Result<(), DropReason> {
        let mut split = Split::new(frame.head, frame.len, frame.offload).ok_or(DropReason::BadOffload)?;
        if split.frame_len() > self.frame_max {
            return Err(DropReason::TunnelTooBig);
        }
        while let Some(piece) = split.next(frame.head) {
            let headers = piece.headers();
            let room = self.room(flow, to, headers.len() + piece.payload.len());
            let (first, payload) = room.split_at_mut(headers.len());
            first.copy_from_slice(headers);
            frame.copy_to(piece.payload.start, payload);
            complete(room, piece.offload.checksum);
            split.taken();
        }
        Ok(())
    }

    /// Room for a frame of `len` bytes, behind the tunnel's header.
    fn room(&mut self, flow: Flow, to: SocketAddr, len: usize) -> &mut [u8] {
        let header = self.header.as_bytes();
        debug_assert!(header.len() + len <= MAX_PAYLOAD, "frames are below the MTU");
        let destination = Destination {
            to,
            hash: flow.hash,
            class: flow.class,
        };
        let room = self.sender.datagram(destination, header.len() + len);
        let (first, frame) = room.split_at_mut(header.len());
        first.copy_from_slice(header);
        frame
    }
}

/// Completes a checksum that is partial.
fn complete(frame: &mut [u8], checksum: Checksum) {
    let Checksum::Partial { start, offset } = checksum else {
        return;
    };
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > frame.len() {
        return;
    }
    let sum = Sum::default().bytes(&frame[start..]).finish_nonzero();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

impl Flow {
    /// Hash of the addresses and ports of a frame, and the ECN field of the outer header (RFC 6040
    /// 4.1: that of the inner one). Fragments have no ports: those of a datagram stay together.
    fn of(frame: &GuestFrame<'_>) -> Self {
        let (head, parsed) = (frame.head, &frame.parsed);
        let packet = parsed.packet();
        let addresses = match parsed.ethertype() {
            EtherType::Ipv4 => packet + 12..packet + 20,
            EtherType::Ipv6 => packet + 8..packet + 40,
            EtherType::Arp | EtherType::Other(_) => 0..12,
        };
        let ports = match parsed.transport() {
            Some(at) if !parsed.is_fragment() && matches!(at.protocol, protocol::TCP | protocol::UDP) => {
                at.offset..at.offset + 4
            }
            _ => 0..0,
        };
        let (addresses, ports) = (head.get(addresses), head.get(ports));
        let mut hash = 0x9e37_79b9_u32;
        for bytes in [addresses, ports].into_iter().flatten() {
            for word in bytes.chunks(4) {
                let mut number = [0; 4];
                number[..word.len()].copy_from_slice(word);
                hash = (hash.rotate_left(5) ^ u32::from_le_bytes(number)).wrapping_mul(0x9e37_79b1);
            }
        }
        Self {
            hash: hash >> 16 ^ hash,
            class: Ecn::of(parsed.traffic_class(head)).encapsulated().in_class(0),
        }
    }
}
