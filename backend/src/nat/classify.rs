//! The first pass over a burst, in which each frame is classified and admitted.
//!
//! A frame is for a service (ARP, NDP, DHCP, echo to the gateway), or it is a TCP segment, a UDP datagram or an ICMP
//! message, or it is dropped for a named reason. All decisions are based on the copied head.

use super::engine::{Engine, Service, Services, Sorted};
use super::flow_owners::Owner;
use super::icmp::{self, IcmpError, IcmpMessage};
use super::tcp::{Incoming, Segment};
use super::udp::Datagram;
use crate::counters::{Count, DropReason};
use crate::frame::{GuestFrame, GuestSink, GuestSlice, HEAD_MAX, Segmentation};
use crate::packet::{FlowId, Head, Headers, TcpHeader, TransportAt, UdpHeader, protocol};
use crate::time::Instant;
use std::net::{IpAddr, Ipv6Addr};

/// The smallest type of an ICMPv6 message that is not an error (RFC 4443 2.1).
const ICMPV6_INFORMATIONAL: u8 = 128;

/// A packet of the guest to one destination. Its transport header has not been parsed yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// Index of the frame in its burst.
    frame: usize,
    src: IpAddr,
    dst: IpAddr,
    transport: TransportAt,
}

impl Engine {
    /// The packet in `frame`, number `index` of its burst, if it comes from the guest and is complete. Frames for
    /// services, fragments and frames to drop are handled here.
    pub(super) fn admit<S: Services>(
        &mut self,
        now: Instant,
        index: usize,
        frame: &GuestFrame<'_>,
        services: &mut S,
        sink: &mut dyn GuestSink,
    ) -> Option<Packet> {
        if let Some(fault) = frame.parsed.fault() {
            self.surroundings.counters.count_drop(fault.into());
            return None;
        }
        match services.answer(now, frame, sink) {
            Service::Pass => {}
            Service::Answered { claimed } => {
                self.surroundings.learn_guest_mac(frame);
                if let Some(address) = claimed {
                    self.surroundings.learn_guest_address(address);
                }
                return None;
            }
            Service::Refused(reason) => {
                self.surroundings.counters.count_drop(reason);
                return None;
            }
        }
        match self.packet(index, frame) {
            Ok(packet) => {
                self.surroundings.learn_guest_mac(frame);
                if let IpAddr::V6(address) = packet.src {
                    self.surroundings.learn_guest_address(address);
                }
                if !frame.parsed.is_fragment() {
                    return Some(packet);
                }
                self.on_fragment(now, frame, sink);
            }
            Err(DropReason::BeyondScope) => self.refuse_scope(now, frame, sink),
            Err(reason) => self.surroundings.counters.count_drop(reason),
        }
        None
    }

    /// A packet from one of the guest's addresses to one destination.
    fn packet(&self, index: usize, frame: &GuestFrame<'_>) -> Result<Packet, DropReason> {
        let head = &frame.parsed;
        let (Some((src, dst)), Some(transport), 0) = (head.addresses(frame.head), head.transport(), head.tags()) else {
            return Err(DropReason::UnknownEtherType);
        };
        if dst.is_multicast() || matches!(dst, IpAddr::V4(a) if a.is_broadcast()) {
            return Err(DropReason::Multicast);
        }
        if !self.surroundings.link.guest.contain(src) {
            return Err(match (src, dst) {
                (IpAddr::V6(src), IpAddr::V6(dst)) if is_beyond(src, dst) => DropReason::BeyondScope,
                _ => DropReason::SpoofedAddress,
            });
        }
        Ok(Packet {
            frame: index,
            src,
            dst,
            transport,
        })
    }

    /// Puts a TCP or UDP packet into `sorted`; everything else is handled here.
    pub(super) fn sort(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        packet: Packet,
        sorted: &mut Sorted,
        sink: &mut dyn GuestSink,
    ) {
        if let Err(reason) = self.try_sort(now, frame, packet, sorted, sink) {
            self.surroundings.counters.count_drop(reason);
        }
    }

    fn try_sort(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        packet: Packet,
        sorted: &mut Sorted,
        sink: &mut dyn GuestSink,
    ) -> Result<(), DropReason> {
        match (packet.transport.protocol, packet.src) {
            (protocol::TCP, _) => {
                let incoming = segment(frame, &packet)?;
                let is_ours = !self.is_steered() || self.tcp.has(&incoming.key);
                if is_ours || !self.hand_over(now, incoming.key, frame, sink)? {
                    sorted.segments.push(incoming);
                }
            }
            (protocol::UDP, _) => {
                let datagram = datagram(frame, &packet)?;
                let is_ours = !self.is_steered() || self.udp.has(&datagram.key);
                if is_ours || !self.hand_over(now, datagram.key, frame, sink)? {
                    sorted.datagrams.push(datagram);
                }
            }
            // ICMP over IPv6 and ICMPv6 over IPv4 are unknown protocols (RFC 792, RFC 4443).
            (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMPV6, IpAddr::V6(_)) => {
                let message = IcmpMessage::of(frame, packet.src, packet.dst, packet.transport)?;
                if let Some(key) = icmp::refused_datagram(frame, &message) {
                    return self.refuse_datagram(now, key, frame, sink);
                }
                let ctx = &mut self.surroundings.context(now, sink);
                self.echo.on_echo(ctx, frame, &message);
            }
            _ => {
                let ctx = &mut self.surroundings.context(now, sink);
                // If the guest has no buffer, the error is lost, as on any busy network.
                let _ = icmp::refuse(ctx, IcmpError::ProtocolUnreachable, frame);
                return Err(DropReason::UnknownProtocol);
            }
        }
        Ok(())
    }

    /// Handles a datagram of flow `key` that the guest has refused.
    fn refuse_datagram(
        &mut self,
        now: Instant,
        key: FlowId,
        frame: &GuestFrame<'_>,
        sink: &mut dyn GuestSink,
    ) -> Result<(), DropReason> {
        let is_elsewhere = !self.udp.has(&key) && self.hand_over(now, key, frame, sink)?;
        let ctx = &self.surroundings.context(now, sink);
        if is_elsewhere || self.udp.on_refusal(ctx, &key) {
            Ok(())
        } else {
            Err(DropReason::IcmpNotServed)
        }
    }

    /// Sends the ICMP error for a packet from a link-local address to another scope, as a Linux router does
    /// (ip6_forward in net/ipv6/ip6_output.c). Otherwise the guest's program would wait for an answer.
    fn refuse_scope(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        self.surroundings.counters.count_drop(DropReason::BeyondScope);
        // An error must not be answered with another error (RFC 4443 2.4 e).
        let is_error = frame.parsed.transport().is_some_and(|at| {
            let kind = frame.head.get(at.offset);
            at.protocol == protocol::ICMPV6 && kind.is_none_or(|kind| *kind < ICMPV6_INFORMATIONAL)
        });
        if is_error || !self.error_rate.take(now) {
            return;
        }
        self.surroundings.learn_guest_mac(frame);
        let ctx = &mut self.surroundings.context(now, sink);
        if icmp::refuse(ctx, IcmpError::BeyondScope, frame).is_err() {
            ctx.counters.count_drop(DropReason::NoRoom);
        }
    }

    /// True if another worker may have the flow of a frame.
    const fn is_steered(&self) -> bool {
        self.surroundings.steering.is_some()
    }

    /// Passes a frame to the worker that owns its flow. False if this worker owns the flow, or if it has no owner yet.
    fn hand_over(
        &mut self,
        now: Instant,
        flow: FlowId,
        frame: &GuestFrame<'_>,
        sink: &mut dyn GuestSink,
    ) -> Result<bool, DropReason> {
        let Some(steering) = &self.surroundings.steering else {
            return Ok(false);
        };
        match steering.owners().owner(&flow) {
            None => Ok(false),
            Some(Owner::Me) => {
                // The flow is still in the mailbox of its new owner.
                self.take_in(now, sink);
                Ok(false)
            }
            Some(Owner::Worker(owner)) if steering.hand_over(owner, frame) => {
                self.surroundings.counters.add(Count::Handovers, 1);
                Ok(true)
            }
            Some(Owner::Worker(_)) => Err(DropReason::HandoverFull),
        }
    }

    fn on_fragment(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let counters = &self.surroundings.counters;
        // The headers of the first fragment are kept as a whole, to be written before the datagram.
        let Ok(headers) = Headers::parse(frame.head, frame.len) else {
            return counters.count_drop(DropReason::BadFragment);
        };
        let Some(whole) = self.reassembler.on_fragment(now, counters, &headers, frame) else {
            return;
        };
        // Whole datagrams are rare, so each is copied out of the buffer.
        let bytes = whole.to_vec();
        let slices = [GuestSlice::from_bytes(&bytes)];
        let head = &bytes[..bytes.len().min(HEAD_MAX)];
        let whole = GuestFrame {
            head,
            parsed: Head::parse(head, bytes.len()),
            slices: &slices,
            len: bytes.len(),
            offload: frame.offload,
        };
        let mut sorted = Sorted::default();
        match whole.parsed.fault() {
            None if !whole.parsed.is_fragment() => {
                match self.packet(0, &whole) {
                    Ok(packet) => self.sort(now, &whole, packet, &mut sorted, sink),
                    Err(reason) => self.surroundings.counters.count_drop(reason),
                }
                self.act(now, &[whole], &sorted, sink);
            }
            None => self.surroundings.counters.count_drop(DropReason::BadFragment),
            Some(fault) => self.surroundings.counters.count_drop(fault.into()),
        }
    }
}

/// True if `src` is only valid on its link and `dst` is not on it.
const fn is_beyond(src: Ipv6Addr, dst: Ipv6Addr) -> bool {
    src.is_unicast_link_local() && !dst.is_unicast_link_local() && !dst.is_loopback() && !dst.is_unspecified()
}

fn segment(frame: &GuestFrame<'_>, packet: &Packet) -> Result<Incoming, DropReason> {
    let TransportAt { offset, len, .. } = packet.transport;
    let header = TcpHeader::parse(frame.head.get(offset..).unwrap_or_default(), len)?;
    let matches_offload = match frame.offload.segmentation {
        Segmentation::None => true,
        Segmentation::Tcp4 { .. } => packet.src.is_ipv4(),
        Segmentation::Tcp6 { .. } => packet.src.is_ipv6(),
        Segmentation::Udp { .. } => false,
    };
    if !matches_offload {
        return Err(DropReason::BadOffload);
    }
    Ok(Incoming {
        key: FlowId {
            guest: packet.src,
            remote: packet.dst,
            guest_port: header.src_port,
            remote_port: header.dst_port,
            protocol: protocol::TCP,
        },
        segment: Segment {
            frame: packet.frame,
            header,
            payload_offset: offset + header.header_len,
            payload_len: len - header.header_len,
        },
    })
}

fn datagram(frame: &GuestFrame<'_>, packet: &Packet) -> Result<Datagram, DropReason> {
    let TransportAt { offset, len, .. } = packet.transport;
    let segment_size = match frame.offload.segmentation {
        Segmentation::None => None,
        Segmentation::Udp { size } => Some(size),
        Segmentation::Tcp4 { .. } | Segmentation::Tcp6 { .. } => return Err(DropReason::BadOffload),
    };
    let bytes = frame.head.get(offset..).unwrap_or_default();
    let header = UdpHeader::parse(bytes, len, segment_size.is_some())?;
    Ok(Datagram {
        frame: packet.frame,
        key: FlowId {
            guest: packet.src,
            remote: packet.dst,
            guest_port: header.src_port,
            remote_port: header.dst_port,
            protocol: protocol::UDP,
        },
        payload_offset: offset + UdpHeader::LEN,
        payload_len: header.payload_len,
        segment_size,
    })
}
