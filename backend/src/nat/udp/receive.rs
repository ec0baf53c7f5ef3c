//! Receives datagrams from the network for the guest.
//!
//! Usually the kernel writes several datagrams into as many frames of guest memory in one call, and headers are then
//! written in front of them. A datagram that exceeds its frame (larger than the MTU, or a run of datagrams that the
//! kernel delivered as one) continues in a spill buffer. It is assembled there and copied to the guest, and the flow
//! reserves different frames next time.

use super::errors;
use super::flow::Flow;
use super::held::{Arrived, Delivery};
use crate::frame::{Checksum, GuestCaps, Layout, NoRoom, Offload, Segmentation};
use crate::nat::context::Context;
use crate::nat::fragmenter::Fragmenter;
use crate::nat::link::{Link, Packet, PacketSpec};
use crate::packet::checksum::Sum;
use crate::packet::{EthernetHeader, FlowId, UdpHeader, protocol};
use crate::sys::datagram::MAX_PAYLOAD;
use crate::sys::receive_batch::{MAX_BATCH, ReceiveBatch};
use std::net::IpAddr;

/// Frames reserved until a flow has received more at a time. This is one more than usually arrives, so that one call
/// also shows that the queue is empty.
const FIRST_BURST: usize = 2;

/// Frames reserved at a time if each of them may be 64 KiB long.
const COALESCED_BURST: usize = 2;

/// What a flow is expected to receive next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// Datagrams below the MTU, about this many at a time.
    Datagrams(usize),
    /// Datagrams above the MTU: one at a time, so that their fragments stay in order.
    Large,
    /// Runs of datagrams that the kernel delivers as one.
    Coalesced,
}

impl Default for Intake {
    fn default() -> Self {
        Self::Datagrams(FIRST_BURST)
    }
}

/// Result of one receive round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// No more datagrams are waiting.
    Empty,
    /// More datagrams may be waiting. Contains the number of datagrams or runs received.
    More,
    /// The guest has no room for a datagram.
    NoRoom,
}

/// Receives for all flows, with buffers that are reused.
pub(super) struct Receiver {
    /// Buffers for one receive call.
    pub batch: ReceiveBatch,
    /// Delivers copied datagrams, and holds them while there is no room.
    pub delivery: Delivery,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            batch: ReceiveBatch::with_capacity(MAX_BATCH),
            delivery: Delivery::default(),
        }
    }
}

/// Properties of the frames that the guest accepts for a flow.
#[derive(Clone, Copy)]
pub(super) struct Towards {
    key: FlowId,
    header: usize,
    /// Maximum payload bytes of a frame with a single packet.
    whole: usize,
    caps: GuestCaps,
    /// DSCP and ECN of a datagram that is copied.
    traffic_class: u8,
}

impl Towards {
    pub(super) fn new(key: FlowId, ctx: &Context<'_>) -> Self {
        let header = Link::header_len(key.remote) + UdpHeader::LEN;
        Self {
            key,
            header,
            whole: (EthernetHeader::LEN + usize::from(ctx.link.mtu)).saturating_sub(header),
            caps: ctx.sink.caps(),
            traffic_class: 0,
        }
    }

    pub(super) const fn with_class(self, traffic_class: u8) -> Self {
        Self { traffic_class, ..self }
    }

    pub(super) fn takes_runs(&self) -> bool {
        takes_runs(&self.caps, self.key.guest)
    }

    fn layout(&self, intake: Intake) -> Layout {
        let (payload, count) = match intake {
            Intake::Datagrams(count) => (self.whole, count),
            Intake::Large => (self.whole, 1),
            Intake::Coalesced => (MAX_PAYLOAD, COALESCED_BURST),
        };
        Layout {
            header: self.header,
            payload,
            count,
        }
    }

    /// Writes the UDP header for `len` payload bytes. If the checksum must be complete, `payload` is the sum of the
    /// payload.
    fn udp_header(&self, len: usize, payload: Option<Sum>, out: &mut [u8]) {
        let header = UdpHeader {
            src_port: self.key.remote_port,
            dst_port: self.key.guest_port,
            payload_len: len,
        };
        let (src, dst) = (self.key.remote, self.key.guest);
        let pseudo = |sum: Sum| sum.pseudo_header(src, dst, protocol::UDP, UdpHeader::LEN + len);
        header.emit(out, 0);
        let sum = match payload {
            None => pseudo(Sum::default()).fold(),
            // Zero would mean "none" (RFC 768).
            Some(payload) => match pseudo(payload).bytes(&out[..UdpHeader::LEN]).finish() {
                0 => u16::MAX,
                sum => sum,
            },
        };
        header.emit(out, sum);
    }

    fn offload(&self, segment: Option<u16>) -> Offload {
        const CHECKSUM_FIELD: u16 = 6;
        let start = u16::try_from(self.header - UdpHeader::LEN).unwrap_or(0);
        Offload {
            checksum: Checksum::Partial {
                start,
                offset: CHECKSUM_FIELD,
            },
            segmentation: segment.map_or(Segmentation::None, |size| Segmentation::Udp { size }),
        }
    }
}

/// True if the guest accepts frames with several datagrams to `address`.
pub(super) const fn takes_runs(caps: &GuestCaps, address: IpAddr) -> bool {
    caps.checksum
        && match address {
            IpAddr::V4(_) => caps.uso4,
            IpAddr::V6(_) => caps.uso6,
        }
}

impl Receiver {
    /// Runs one round, which receives as many datagrams as are expected. Returns its result, and whether any datagram
    /// arrived.
    pub(super) fn round(&mut self, flow: &mut Flow, ctx: &mut Context<'_>) -> (Round, bool) {
        let towards = Towards::new(flow.key, ctx);
        let Ok(granted) = ctx.sink.reserve(towards.layout(flow.intake)) else {
            return (Round::NoRoom, false);
        };
        let granted = granted.min(MAX_BATCH);
        let Ok(n) = self.batch.receive_to_guest(&flow.socket, ctx.sink, granted) else {
            // Error reports are frames too. They must not use the reservation.
            ctx.sink.commit(&[], &mut |_, _, _| Offload::NONE);
            errors::report(flow, ctx);
            return (Round::More, false);
        };
        let direct = (0..n).take_while(|i| self.fits(*i, &towards)).count();
        for i in direct..n {
            self.batch.collect(i, ctx.sink.payload(i));
        }
        self.commit(ctx, &towards, direct);
        for i in direct..n {
            self.pass_on(flow.key, ctx, i);
        }
        flow.class_watch
            .follow(&flow.socket, flow.domain, ctx.now, &self.batch, n);
        if n > 0 {
            flow.intake = self.expectation(n, granted, &towards);
        }
        let round = match n {
            _ if self.delivery.is_holding() => Round::NoRoom,
            n if n < granted => Round::Empty,
            _ => Round::More,
        };
        (round, n > 0)
    }

    /// True if datagram `index` can be delivered in its frame without changes.
    fn fits(&self, index: usize, towards: &Towards) -> bool {
        let message = self.batch.message(index);
        message.room == message.len
            && match message.segment {
                None => message.len <= towards.whole,
                Some(_) => towards.takes_runs(),
            }
    }

    fn commit(&self, ctx: &mut Context<'_>, towards: &Towards, count: usize) {
        let mut lengths = [0; MAX_BATCH];
        for (i, length) in lengths[..count].iter_mut().enumerate() {
            *length = self.batch.message(i).len;
        }
        let (src, dst) = (towards.key.remote, towards.key.guest);
        let link = ctx.link;
        ctx.sink.commit(&lengths[..count], &mut |i, len, out| {
            let spec = PacketSpec {
                src,
                dst,
                protocol: protocol::UDP,
                traffic_class: self.batch.message(i).traffic_class,
                payload_len: UdpHeader::LEN + len,
                fragment: None,
            };
            let at = link.emit(&spec, out);
            towards.udp_header(len, None, &mut out[at..]);
            towards.offload(self.batch.message(i).segment)
        });
    }

    /// Sends the datagram or run in spill buffer `index` to the guest's end of `key` by copy.
    pub(super) fn pass_on(&mut self, key: FlowId, ctx: &mut Context<'_>, index: usize) {
        let message = self.batch.message(index);
        let arrived = Arrived {
            key,
            traffic_class: message.traffic_class,
            segment: message.segment,
            body: self.batch.spilled(index),
        };
        self.delivery.send(ctx, &arrived);
    }

    fn expectation(&self, n: usize, granted: usize, towards: &Towards) -> Intake {
        let last = self.batch.message(n - 1);
        if last.segment.is_some() && towards.takes_runs() {
            Intake::Coalesced
        } else if last.segment.is_none() && last.len > towards.whole {
            Intake::Large
        } else if n == granted {
            Intake::Datagrams((2 * n).clamp(FIRST_BURST, MAX_BATCH))
        } else {
            Intake::Datagrams((n + 1).clamp(FIRST_BURST, MAX_BATCH))
        }
    }
}

/// Copies a datagram, or a run if the guest accepts those, to the guest.
///
/// # Errors
/// [`NoRoom`]
pub(super) fn send_copy(
    fragmenter: &mut Fragmenter,
    ctx: &mut Context<'_>,
    towards: &Towards,
    body: &[u8],
    segment: Option<u16>,
) -> Result<(), NoRoom> {
    let mut header = [0; UdpHeader::LEN];
    let mut packet = Packet {
        src: towards.key.remote,
        dst: towards.key.guest,
        protocol: protocol::UDP,
        traffic_class: towards.traffic_class,
        header: &[0; UdpHeader::LEN],
        body,
    };
    // The checksum of a fragmented datagram cannot be left to the receiver.
    let complete = segment.is_none() && !packet.fits(ctx.link);
    towards.udp_header(body.len(), complete.then(|| Sum::default().bytes(body)), &mut header);
    packet.header = &header;
    let offload = if complete {
        Offload::NONE
    } else {
        towards.offload(segment)
    };
    fragmenter.send(ctx, &packet, offload)
}
