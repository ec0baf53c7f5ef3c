//! Receives datagrams of the tunnel and delivers their frames to the guest.
//!
//! The kernel delivers runs of datagrams of equal size as one message (UDP_GRO). Each datagram is decapsulated and
//! checked on its own, because a run may hold several flows, and its first header does not describe the rest.
//! Consecutive frames of a flow are then merged into one for the guest ([`gro`](crate::gso::gro)). A datagram from a
//! peer that supports hawser's option may have a partial checksum or carry several segments. Offloads that the guest
//! does not accept are done here.
//!
//! Messages stay in our buffer until the guest has room. A cursor moves past a frame only once the frame has reached
//! the guest or was counted as dropped. So no frame is lost, and none is delivered or counted twice.

use super::balancer::Balancer;
use super::claims::{Claims, has_no_claim};
use super::groups::Groups;
use super::learned::View;
use super::outbound::transport_checksum;
use super::residence::Residence;
use super::view::{self, LastSender, Peers};
use super::wire::{Outer, Wire};
use crate::capture::Capture;
use crate::counters::{Count, Counters, DropReason};
use crate::forwarding::{Admitted, Table};
use crate::frame::{Checksum, GuestSink, HEAD_MAX, NoRoom, Offload, Segmentation};
use crate::gso::gro::{Arrival, Train};
use crate::gso::split::Split;
use crate::packet::Ecn;
use crate::packet::checksum::Sum;
use crate::packet::geneve::{FrameOption, GeneveError, GenevePacket, ProbeAnswer, ProbeMessage, ProbeRequest};
use crate::packet::{EtherType, EthernetHeader, Head, Ipv4Header, MacAddr, be16, protocol};
use crate::sys::receive_batch::{ReceiveBatch, Received};
use crate::time::Instant;
use socket2::Socket;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

/// Maximum messages per system call. Each may be a run of up to 64 KiB.
const MESSAGES: usize = 16;
/// Maximum answers to probes in one turn; further probes are dropped.
const ANSWERS: usize = 64;
/// Maximum system calls per turn.
const CALLS_PER_TURN: usize = 4;

/// Position in the messages of the last system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    message: usize,
    /// Offset in the message, in bytes.
    offset: usize,
    /// Segments of the frame at this position that the guest has received.
    segments: usize,
}

impl Cursor {
    const fn to(self, offset: usize) -> Self {
        Self {
            message: self.message,
            offset,
            segments: 0,
        }
    }

    const fn after_message(self) -> Self {
        Self {
            message: self.message + 1,
            offset: 0,
            segments: 0,
        }
    }
}

/// The receiving side of a tunnel.
pub(super) struct Inbound {
    counters: Arc<Counters>,
    /// Address and port at which datagrams are received.
    local: SocketAddr,
    batch: ReceiveBatch,
    /// Messages in the batch.
    count: usize,
    /// Position of the first datagram that has not been handled.
    at: Cursor,
    /// True if the socket may have a message.
    readable: bool,
    /// True if the guest had no room at the last attempt.
    blocked: bool,
    /// Passes outer packets to captures.
    wire: Wire,
    /// Position, by message and offset, of the first datagram that has not been passed to captures.
    unshown: (usize, usize),
    /// The peer of the last message.
    last: LastSender,
}

impl Inbound {
    pub(super) fn new(local: SocketAddr, counters: Arc<Counters>) -> Self {
        Self {
            counters,
            batch: ReceiveBatch::with_capacity(MESSAGES),
            count: 0,
            at: Cursor::default(),
            readable: false,
            blocked: false,
            last: LastSender::default(),
            wire: Wire::new(Arc::default()),
            unshown: (0, 0),
            local,
        }
    }

    /// Passes outer packets to the captures that `capture` starts.
    pub(super) fn set_capture(&mut self, capture: Arc<Capture>) {
        self.wire = Wire::new(capture);
    }

    /// Clears the result of the last table lookup, because the table has been replaced.
    pub(super) fn forget_sender(&mut self) {
        self.last = LastSender::default();
    }

    /// Records that the socket has become readable.
    pub(super) const fn expect_datagrams(&mut self) {
        self.readable = true;
    }

    /// True if datagrams may be waiting and the guest had room at the last attempt.
    pub(super) const fn has_backlog(&self) -> bool {
        !self.blocked && (self.readable || self.count > 0)
    }

    /// Drops the datagrams that are waiting for a guest whose driver is gone.
    pub(super) fn stop(&mut self) {
        (self.count, self.at, self.blocked) = (0, Cursor::default(), false);
    }

    /// Delivers the socket's datagrams until the guest has no room or the turn is over.
    pub(super) fn receive(&mut self, socket: &Socket, network: &mut Network<'_>, sink: &mut dyn GuestSink) {
        self.wire.look();
        self.blocked = self.try_receive(socket, network, sink).is_err();
    }

    fn try_receive(
        &mut self,
        socket: &Socket,
        network: &mut Network<'_>,
        sink: &mut dyn GuestSink,
    ) -> Result<(), NoRoom> {
        self.dispatch(socket, network, sink)?;
        for _ in 0..CALLS_PER_TURN {
            if !self.readable {
                break;
            }
            match self.batch.receive_to_spill(socket, MESSAGES) {
                Ok(0) => self.readable = false,
                Ok(count) => {
                    // Fewer messages than asked for: the queue was empty. What arrives later is another event.
                    self.readable = count == MESSAGES;
                    (self.count, self.at, self.unshown) = (count, Cursor::default(), (0, 0));
                    self.take_in(network);
                    self.dispatch(socket, network, sink)?;
                }
                // This is an ICMP error for an earlier datagram. The next call continues to read.
                Err(_) => self.counters.count_drop(DropReason::SocketError),
            }
        }
        Ok(())
    }

    /// Delivers the messages from the cursor onwards, or passes them on if the guest has moved.
    fn dispatch(&mut self, socket: &Socket, network: &mut Network<'_>, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        if network.residence.is_elsewhere() {
            self.pass_on(socket, network);
            return Ok(());
        }
        self.deliver(network, sink)
    }

    /// Passes the guest's datagrams on to the endpoint where it is now, as they are, and drops all others.
    #[cold]
    fn pass_on(&mut self, socket: &Socket, network: &Network<'_>) {
        for index in self.at.message..self.count {
            let message = self.batch.message(index);
            let size = message.segment.map_or(message.len, usize::from).max(1);
            let from = if index == self.at.message { self.at.offset } else { 0 };
            let bytes = &self.batch.spilled(index)[from..];
            for datagram in bytes.chunks(size) {
                let way = network.way_on(message.source.map(|source| source.ip()), datagram);
                let sent = way.and_then(|to| {
                    let sent = socket.send_to(datagram, &to.into());
                    sent.map_err(|_| DropReason::MovedAway)
                });
                match sent {
                    Ok(_) => self.counters.add(Count::TunnelPassedOn, 1),
                    Err(reason) => self.counters.count_drop(reason),
                }
            }
        }
        (self.count, self.at) = (0, Cursor::default());
    }

    /// Counts the datagrams of the last system call, copies congestion marks from routers on the way into the inner
    /// headers, and gives replies of Services their virtual addresses.
    fn take_in(&mut self, network: &mut Network<'_>) {
        let mut datagrams = 0;
        let has_services = network.balancer.has_flows(network.now);
        for index in 0..self.count {
            let message = *self.batch.message(index);
            let size = message.segment.map_or(message.len, usize::from).max(1);
            let count = message.len.div_ceil(size);
            datagrams += count;
            let first = &self.batch.spilled(index)[..size.min(message.len)];
            let source = message.source.map(|source| source.ip());
            self.last.received(network.peers, source, first, (count, message.len));
            let outer = Ecn::of(message.traffic_class);
            // Nothing else changes an inner header, so datagrams of most flows need no parsing here.
            if matches!(outer, Ecn::Ect1 | Ecn::Ce) {
                for datagram in self.batch.spilled_mut(index).chunks_mut(size) {
                    mark(datagram, outer);
                }
            }
            if has_services {
                for datagram in self.batch.spilled_mut(index).chunks_mut(size) {
                    network.balancer.translate(network.now, network.table.vni(), datagram);
                }
            }
        }
        self.counters.add(Count::TunnelReceived, datagrams as u64);
    }

    /// Delivers the messages from the cursor onwards.
    fn deliver(&mut self, network: &mut Network<'_>, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
        let caps = sink.caps();
        let mut train = Train::default();
        let mut next = self.at;
        while next.message < self.count {
            let mut run = Run::new(self.batch.message(next.message), self.batch.spilled(next.message));
            loop {
                let end = run.end_of(next.offset);
                let is_last = end == run.bytes.len();
                let following = if is_last { next.after_message() } else { next.to(end) };
                let frame = run.frame(next.offset..end, network);
                // Datagrams that waited for the guest have been captured already.
                if self.wire.is_on() && (next.message, next.offset) >= self.unshown {
                    let message = self.batch.message(next.message);
                    show(
                        &self.wire,
                        self.local,
                        message,
                        &run.bytes[next.offset..end],
                        frame.as_ref().err(),
                    );
                    self.unshown = (following.message, following.offset);
                }
                match frame {
                    Ok(None) => {
                        send(&mut train, sink)?;
                        self.at = following;
                    }
                    Ok(Some(arrival)) if caps.takes(arrival.offload) => {
                        if !train.add(arrival, caps) {
                            send(&mut train, sink)?;
                            self.at = next;
                            train.add(arrival, caps);
                        }
                    }
                    Ok(Some(arrival)) => {
                        send(&mut train, sink)?;
                        self.at = next;
                        cut(arrival, &mut self.at.segments, sink)?;
                        self.at = following;
                    }
                    Err(DropReason::TunnelControl) if network.takes_probe(&run, next.offset..end) => {
                        send(&mut train, sink)?;
                        self.at = following;
                    }
                    Err(reason) => {
                        send(&mut train, sink)?;
                        self.counters.count_drop(reason);
                        view::refused(network.peers, run.source, &run.bytes[next.offset..end]);
                        self.at = following;
                    }
                }
                next = following;
                if is_last {
                    break;
                }
            }
        }
        send(&mut train, sink)?;
        (self.count, self.at) = (0, Cursor::default());
        Ok(())
    }
}

#[cold]
fn show(wire: &Wire, local: SocketAddr, message: &Received, datagram: &[u8], dropped: Option<&DropReason>) {
    let Some(source) = message.source else { return };
    let outer = Outer {
        source,
        destination: local,
        class: message.traffic_class,
    };
    wire.received(outer, datagram, dropped.copied());
}

/// The datagrams of one message. All have the same sender and traffic class.
struct Run<'b> {
    bytes: &'b [u8],
    /// Bytes of each datagram except the last.
    size: usize,
    source: Option<IpAddr>,
    /// The same with its port.
    from: Option<SocketAddr>,
    outer: Ecn,
    /// The tunnel header and Ethernet header of the datagram admitted last, provided that admission depends on nothing
    /// else. A datagram that begins with the same bytes is admitted too, unless it makes a claim. Empty if there is none.
    admitted: &'b [u8],
}

impl<'b> Run<'b> {
    fn new(message: &Received, bytes: &'b [u8]) -> Self {
        Self {
            bytes,
            size: message.segment.map_or(message.len, usize::from),
            source: message.source.map(|source| source.ip()),
            from: message.source,
            outer: Ecn::of(message.traffic_class),
            admitted: &[],
        }
    }

    /// The end of the datagram that begins at `offset`.
    #[inline]
    fn end_of(&self, offset: usize) -> usize {
        (offset + self.size).min(self.bytes.len())
    }

    /// The frame of a datagram, as [`Network::admit`] returns it.
    #[inline]
    fn frame(&mut self, range: Range<usize>, network: &mut Network<'_>) -> Result<Option<Arrival<'b>>, DropReason> {
        let datagram = &self.bytes[range];
        let headers = self.admitted.len();
        if headers > 0 && datagram.get(..headers) == Some(self.admitted) {
            let bytes = &datagram[headers - EthernetHeader::LEN..];
            if has_no_claim(bytes) {
                return Ok(Some(Arrival {
                    bytes,
                    offload: Offload::NONE,
                }));
            }
        }
        self.admit(datagram, network)
    }

    fn admit(&mut self, datagram: &'b [u8], network: &mut Network<'_>) -> Result<Option<Arrival<'b>>, DropReason> {
        let admitted = network.admit(self.source, self.outer, datagram)?;
        // Not covered by the remembered headers: a congestion mark is checked against each inner header, an undone
        // offload depends on the frame, and the rate of frames to groups is limited.
        let plain = admitted
            .filter(|arrival| self.outer != Ecn::Ce && arrival.offload == Offload::NONE && arrival.bytes[0] & 1 == 0);
        self.admitted = plain.map_or(&[], |arrival| {
            &datagram[..datagram.len() - arrival.bytes.len() + EthernetHeader::LEN]
        });
        Ok(admitted)
    }
}

fn send(train: &mut Train<'_>, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
    train.take(|offload, parts| sink.send(offload, parts)).unwrap_or(Ok(()))
}

/// Delivers the segments of a frame that the guest does not accept as a whole, starting with number `taken`.
pub(super) fn cut(arrival: Arrival<'_>, taken: &mut usize, sink: &mut dyn GuestSink) -> Result<(), NoRoom> {
    let Arrival { bytes, offload } = arrival;
    let head = &bytes[..bytes.len().min(HEAD_MAX)];
    // The frame was checked on arrival.
    let Some(split) = Split::new(head, bytes.len(), offload) else {
        return Ok(());
    };
    while let Some(piece) = split.after(*taken).next(head) {
        sink.send(piece.offload, &[piece.headers(), &bytes[piece.payload.clone()]])?;
        *taken += 1;
    }
    Ok(())
}

/// The state against which frames from the tunnel are checked.
pub(super) struct Network<'a> {
    pub(super) now: Instant,
    pub(super) table: &'a Table,
    pub(super) peers: &'a Peers,
    pub(super) groups: &'a mut Groups,
    pub(super) claims: &'a Claims,
    pub(super) residence: &'a Residence,
    pub(super) balancer: &'a mut Balancer,
    pub(super) learned: &'a mut View,
    /// Where answers to probes are collected.
    pub(super) answers: &'a mut Vec<(SocketAddr, ProbeAnswer)>,
}

impl Network<'_> {
    /// True if a control message is the probe of another process of hawser. Its answer is sent after the turn, together
    /// with those to other datagrams of the same batch.
    #[cold]
    fn takes_probe(&mut self, run: &Run<'_>, range: Range<usize>) -> bool {
        let message = ProbeMessage::parse(self.table.vni(), &run.bytes[range]);
        let Ok(Some(ProbeMessage::Request { request, is_intact })) = message else {
            return false;
        };
        let Some(from) = run.from.filter(|from| self.table.knows_frame_option_at(from.ip())) else {
            return false;
        };
        let intact = u64::from(is_intact) << request.index;
        let ProbeRequest { nonce, count, .. } = request;
        let is_full = self.answers.len() == ANSWERS;
        match self.answers.last_mut() {
            Some((to, answer)) if (*to, answer.nonce, answer.count) == (from, nonce, count) => answer.intact |= intact,
            _ if is_full => return false,
            _ => self.answers.push((from, ProbeAnswer { nonce, count, intact })),
        }
        true
    }

    /// The frame of a datagram, if it belongs to the network and its sender may send it; `None` if the guest does not
    /// receive it.
    fn admit<'b>(
        &mut self,
        source: Option<IpAddr>,
        outer: Ecn,
        datagram: &'b [u8],
    ) -> Result<Option<Arrival<'b>>, DropReason> {
        let arrival = self.decapsulate(source, outer, datagram)?;
        let is_multicast = arrival.bytes[0] & 1 != 0;
        if is_multicast && !self.groups.takes(self.now, arrival.bytes, self.table)? {
            return Ok(None);
        }
        Ok(Some(arrival))
    }

    /// The endpoint to which a datagram for a guest that has moved is passed on.
    fn way_on(&self, source: Option<IpAddr>, datagram: &[u8]) -> Result<SocketAddr, DropReason> {
        let packet = GenevePacket::parse(datagram, datagram.len()).map_err(reason)?;
        let frame = &datagram[packet.frame().map_err(reason)?..];
        if packet.vni != self.table.vni() {
            return Err(DropReason::TunnelOtherNetwork);
        }
        let mac = |at: Range<usize>| frame.get(at).and_then(<[u8]>::first_chunk).map(|mac| MacAddr(*mac));
        let (to, from) = (mac(EthernetHeader::DST), mac(EthernetHeader::SRC));
        let (to, from) = to.zip(from).ok_or(DropReason::TunnelMalformed)?;
        let source = source.ok_or(DropReason::TunnelUnknownPeer)?;
        self.table.admit(source, from, packet.frame_option.as_ref())?;
        let way = self.residence.way_on(self.now, source);
        way.filter(|_| self.residence.is_of(to)).ok_or(DropReason::MovedAway)
    }

    fn decapsulate<'b>(
        &mut self,
        source: Option<IpAddr>,
        outer: Ecn,
        datagram: &'b [u8],
    ) -> Result<Arrival<'b>, DropReason> {
        let packet = GenevePacket::parse(datagram, datagram.len()).map_err(reason)?;
        let at = packet.frame().map_err(reason)?;
        if packet.vni != self.table.vni() {
            return Err(DropReason::TunnelOtherNetwork);
        }
        let frame = &datagram[at..];
        let mac = frame.get(EthernetHeader::SRC).and_then(<[u8]>::first_chunk);
        let mac = MacAddr(*mac.ok_or(DropReason::TunnelMalformed)?);
        let source = source.ok_or(DropReason::TunnelUnknownPeer)?;
        let mut admitted = self.table.admit(source, mac, packet.frame_option.as_ref());
        if matches!(
            admitted,
            Err(DropReason::TunnelSpoofedMac | DropReason::TunnelUnknownPeer)
        ) && self.residence.takes_late_from(self.now, source)
            && self.table.endpoint_of(mac).is_some()
        {
            // The former endpoint of the guest has checked the sender.
            admitted = Ok(Admitted::Known);
        }
        match admitted {
            Ok(_) if self.claims.is_own(mac) => return Err(DropReason::TunnelSpoofedMac),
            Ok(_) if self.groups.is_gateway(mac) && !self.groups.is_query_of_gateway(mac, frame) => {
                return Err(DropReason::TunnelSpoofedMac);
            }
            Ok(_) => self.claims.check_peer(self.table, mac, frame)?,
            Err(DropReason::TunnelUnknownMac) if self.groups.is_query_of_gateway(mac, frame) => {}
            Err(reason) => return Err(reason),
        }
        if outer == Ecn::Ce && class_of(frame).is_some_and(|(_, class)| Ecn::of(class) == Ecn::NotEct) {
            return Err(DropReason::TunnelCongestion);
        }
        if admitted == Ok(Admitted::Unbound)
            && let Some(endpoint) = self.table.endpoint_with_other_macs(source)
        {
            self.learned.note(self.now, mac, endpoint);
        }
        let offload = packet
            .frame_option
            .map_or(Ok(Offload::NONE), |option| left_undone(frame, option))?;
        Ok(Arrival { bytes: frame, offload })
    }
}

/// The offload that the sender's option declares for a frame.
fn left_undone(frame: &[u8], option: FrameOption) -> Result<Offload, DropReason> {
    if !option.is_checksum_partial {
        return Ok(Offload::NONE);
    }
    let head = &frame[..frame.len().min(HEAD_MAX)];
    let parsed = Head::parse(head, frame.len());
    let at = parsed.whole_transport().ok_or(DropReason::TunnelMalformed)?;
    let field = transport_checksum(at.protocol).ok_or(DropReason::TunnelMalformed)?;
    if at.len < field + 2 {
        return Err(DropReason::TunnelMalformed);
    }
    let number = |n: usize| u16::try_from(n).map_err(|_| DropReason::TunnelMalformed);
    let checksum = Checksum::Partial {
        start: number(at.offset)?,
        offset: number(field)?,
    };
    let single = Offload {
        checksum,
        segmentation: Segmentation::None,
    };
    let Some(segmented) = option.segmented else {
        return Ok(single);
    };
    let mss = segmented.mss.get();
    let segmentation = match (at.protocol, parsed.ethertype()) {
        (protocol::TCP, EtherType::Ipv4) => Segmentation::Tcp4 {
            mss,
            ecn: has_cwr(head, at.offset),
        },
        (protocol::TCP, _) => Segmentation::Tcp6 {
            mss,
            ecn: has_cwr(head, at.offset),
        },
        _ => Segmentation::Udp { size: mss },
    };
    let whole = Offload { checksum, segmentation };
    let split = Split::new(head, frame.len(), whole).ok_or(DropReason::TunnelMalformed)?;
    Ok(if split.is_one() { single } else { whole })
}

/// True for a TCP header that only the first segment may have (RFC 3168 6.1.2).
fn has_cwr(head: &[u8], tcp: usize) -> bool {
    head.get(tcp + 13).is_some_and(|flags| flags & 0x80 != 0)
}

const fn reason(error: GeneveError) -> DropReason {
    match error {
        GeneveError::UnknownCritical { .. } => DropReason::TunnelOption,
        GeneveError::Control => DropReason::TunnelControl,
        _ => DropReason::TunnelMalformed,
    }
}

/// TOS or traffic class of a frame, with or without a VLAN tag, and the offset of its IP header.
fn class_of(frame: &[u8]) -> Option<(usize, u8)> {
    let link = Head::of_link(frame);
    let at = link.packet();
    let is_ip = matches!(link.ethertype(), EtherType::Ipv4 | EtherType::Ipv6);
    (is_ip && frame.len() >= at + 2).then(|| (at, link.traffic_class(frame)))
}

/// Sets the ECN field of a decapsulated frame (RFC 6040 figure 4).
fn mark(datagram: &mut [u8], outer: Ecn) {
    let Ok(at) = GenevePacket::parse(datagram, datagram.len()).and_then(|packet| packet.frame()) else {
        return;
    };
    let frame = &mut datagram[at..];
    let Some((ip, class)) = class_of(frame) else { return };
    let inner = Ecn::of(class);
    let Some(marked) = inner.decapsulated(outer).filter(|marked| *marked != inner) else {
        return;
    };
    let class = marked.in_class(class);
    let packet = &mut frame[ip..];
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 0xf) * 4;
        if header >= Ipv4Header::LEN && header <= packet.len() {
            // RFC 1624: updates the checksum for the word that has changed.
            let old = be16(packet, 0);
            packet[1] = class;
            let sum = Sum::default().word(!be16(packet, 10)).word(!old).word(be16(packet, 0));
            packet[10..12].copy_from_slice(&sum.finish().to_be_bytes());
        }
    } else {
        packet[0] = packet[0] & 0xf0 | class >> 4;
        packet[1] = packet[1] & 0x0f | class << 4;
    }
}
