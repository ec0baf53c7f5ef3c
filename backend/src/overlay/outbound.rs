//! Sends the guest's frames through the tunnel.
//!
//! A unicast frame goes to the endpoint of its destination MAC, a multicast frame to the endpoints that want the group,
//! and a broadcast to all. The guest's offloads are done here: a frame of several segments is split, and checksums are
//! completed, over bytes that the guest can no longer change. All segments of a frame have the same size and
//! destination, so they leave in one batch ([`sender`](super::sender)). An IPv4 packet or segment that is too long is
//! fragmented if it permits that.
//!
//! A peer that supports hawser's option ([`FrameOption`]) gets checksums as the guest left them, and as many segments
//! in one datagram as the path carries. For a process on the same node, that is the whole frame: a frame of 64 KiB
//! stays whole, and goes from guest memory to the kernel without a copy of ours.

use super::fragments::Fragments;
use super::groups::{Groups, Receivers};
use super::learned::Places;
use super::paths::{Path, Paths};
use super::probe::Probes;
use super::sender::{Destination, Sender};
use super::view::Peers;
use crate::capture::Capture;
use crate::counters::{Count, Counters, DropReason, PeerLevel};
use crate::frame::{Checksum, GuestFrame, HEAD_MAX, Segmentation};
use crate::gso::split::Split;
use crate::packet::checksum::Sum;
use crate::packet::geneve::{BASE_LEN, FrameOption, GeneveHeader, Segmented, Vni};
use crate::packet::{Ecn, EtherType, Ipv4Header, Ipv6Header, UdpHeader, protocol};
use crate::time::Instant;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// From this size on, a separate call for a frame is cheaper than a copy.
const LARGE: usize = 16 << 10;
/// Time after which segmentation is tried again on a route that has refused it.
const RETRY: Duration = Duration::from_secs(600);
/// Bytes of a header with hawser's option.
const OPTION_HEADER: usize = BASE_LEN + FrameOption::LEN;

/// Sends frames of the guest.
pub(super) struct Outbound {
    sender: Sender,
    counters: Arc<Counters>,
    vni: Vni,
    /// The tunnel's header without an option, the same for all frames of the network.
    plain: Header,
    paths: Paths,
    /// Bytes of the longest IP packet that the network carries.
    mtu: usize,
    /// Time at which segmentation is tried again on routes that have refused it.
    retry_at: Option<Instant>,
    /// Buffer for the frame that is being fragmented.
    whole: Vec<u8>,
    probes: Probes,
}

/// The reason why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The frame's IP packet is longer than the path can carry.
    TooBig {
        /// Longest IP packet that the path carries, in bytes.
        mtu: u16,
    },
    /// The frame is dropped for any other reason.
    Other(DropReason),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Other(reason)
    }
}

/// Properties that a frame and its segments share.
#[derive(Clone, Copy)]
struct Flow {
    hash: u32,
    class: u8,
}

/// A tunnel header with or without hawser's option. It has less room than the longest Geneve header, because it is
/// copied with each frame.
#[derive(Clone, Copy)]
struct Header {
    bytes: [u8; OPTION_HEADER],
    len: usize,
}

impl Header {
    fn of(header: &GeneveHeader) -> Self {
        let header = header.as_bytes();
        let len = header.len().min(OPTION_HEADER);
        let mut bytes = [0; OPTION_HEADER];
        bytes[..len].copy_from_slice(&header[..len]);
        Self { bytes, len }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The tunnel header and up to [`HEAD_MAX`] bytes of a frame after it.
    fn before(&self, head: &[u8]) -> Lead {
        let mut bytes = [0; OPTION_HEADER + HEAD_MAX];
        let len = self.len + head.len();
        bytes[..self.len].copy_from_slice(self.as_bytes());
        bytes[self.len..len].copy_from_slice(head);
        Lead { bytes, len }
    }
}

/// A tunnel header and the headers of a frame.
struct Lead {
    bytes: [u8; OPTION_HEADER + HEAD_MAX],
    len: usize,
}

impl Lead {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The form in which a frame is sent to one endpoint.
struct Crossing {
    path: Path,
    flow: Flow,
    header: Header,
    /// True if the far end performs the offloads that the guest left undone.
    is_partial: bool,
}

impl Outbound {
    pub(super) fn new(sender: Sender, probes: Probes, mtu: u16, counters: Arc<Counters>) -> Self {
        let table = sender.peers().table();
        let outbound = Self {
            paths: Paths::new(table, mtu),
            vni: table.vni(),
            plain: Header::of(&GeneveHeader::new(table.vni())),
            sender,
            counters,
            mtu: mtu.into(),
            retry_at: None,
            whole: Vec::new(),
            probes,
        };
        outbound.show_paths();
        outbound
    }

    /// Adds a frame to the batches of its receivers. [`flush`](Self::flush) sends them.
    ///
    /// # Errors
    /// The reason why the frame does not reach at least one receiver. It is counted here.
    pub(super) fn send(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        places: &mut Places<'_>,
        groups: &mut Groups,
    ) -> Result<(), Refusal> {
        let sent = self.try_send(now, frame, places, groups);
        match sent {
            Ok(()) => {}
            Err(Refusal::TooBig { .. }) => self.counters.count_drop(DropReason::TunnelTooBig),
            Err(Refusal::Other(reason)) => self.counters.count_drop(reason),
        }
        sent
    }

    fn try_send(
        &mut self,
        now: Instant,
        frame: &GuestFrame<'_>,
        places: &mut Places<'_>,
        groups: &mut Groups,
    ) -> Result<(), Refusal> {
        let to = frame.parsed.destination_mac(frame.head).ok_or(DropReason::Truncated)?;
        let flow = Flow::of(frame);
        if to.is_multicast() {
            return match groups.receivers(now, frame)? {
                Receivers::All => self.copy_to_all(frame),
                Receivers::Of(group) => self.copy_to(frame, flow, |index, endpoint| {
                    places.table.has_other_macs(index) || groups.wants(endpoint, group)
                }),
            };
        }
        let index = places.index_of(to).ok_or(DropReason::NoSuchNeighbour)?;
        self.probes.want(self.paths.take_unproven(index));
        self.encapsulate(frame, flow, index)
    }

    /// Adds a frame to the batches of all endpoints.
    ///
    /// # Errors
    /// The reason why the frame does not reach at least one endpoint.
    pub(super) fn copy_to_all(&mut self, frame: &GuestFrame<'_>) -> Result<(), Refusal> {
        let sent = self.copy_to(frame, Flow::of(frame), |_, _| true);
        // A network without other endpoints is not an error.
        sent.or_else(|refusal| match refusal {
            Refusal::Other(DropReason::MulticastUnwanted) => Ok(()),
            refusal => Err(refusal),
        })
    }

    /// Adds a frame to the batches of its receivers, given by index and address.
    fn copy_to(
        &mut self,
        frame: &GuestFrame<'_>,
        flow: Flow,
        is_receiver: impl Fn(usize, SocketAddr) -> bool,
    ) -> Result<(), Refusal> {
        let mut sent = Err(DropReason::MulticastUnwanted.into());
        let mut is_first = true;
        for index in 0..self.paths.len() {
            if self.paths.get(index).is_some_and(|path| is_receiver(index, path.to)) {
                let copied = self.encapsulate(frame, flow, index);
                // If one path carries less than the others, the other endpoints still get the frame.
                sent = if is_first { copied } else { copied.and(sent) };
                is_first = false;
            }
        }
        sent
    }

    /// Passes outer packets to the captures that `capture` starts.
    pub(super) fn set_capture(&mut self, capture: Arc<Capture>) {
        self.sender.set_capture(capture);
    }

    /// Replaces the table with another one of the same network. Path data for remaining peers is kept.
    pub(super) fn set_peers(&mut self, peers: Arc<Peers>) {
        self.paths.follow(peers.table());
        self.probes.follow(peers.table());
        self.sender.set_peers(peers);
        self.show_paths();
    }

    /// Publishes the datagram limits of all paths. Called only after rare changes.
    fn show_paths(&self) {
        for (index, (to, peer)) in self.sender.peers().all().enumerate() {
            if let Some(path) = self.paths.get(index) {
                let headers = if to.is_ipv4() { Ipv4Header::LEN } else { Ipv6Header::LEN };
                peer.set(
                    PeerLevel::PathMtu,
                    (path.datagram_max + UdpHeader::LEN + headers) as u64,
                );
            }
        }
    }

    /// Assumes that every path carries datagrams of `datagram_max` bytes.
    #[cfg(test)]
    pub(super) fn set_datagram_max(&mut self, datagram_max: usize) {
        self.paths.set_datagram_max(datagram_max);
        self.show_paths();
    }

    /// Treats every path as probed.
    #[cfg(test)]
    pub(super) fn skip_probes(&mut self) {
        (0..self.paths.len()).for_each(|index| {
            self.paths.take_unproven(index);
        });
    }

    /// Sends all waiting batches.
    pub(super) fn flush(&mut self, now: Instant) {
        self.sender.flush();
        while let Some(to) = self.sender.take_too_big() {
            if self.paths.on_too_big(now, to) {
                self.counters.add(Count::TunnelPathChanged, 1);
                self.show_paths();
            }
        }
        self.probes.start_wanted(now, &self.sender);
        if self.retry_at.is_none() && self.sender.has_limits() {
            self.retry_at = Some(now + RETRY);
        }
    }

    /// Takes in answers to probes.
    pub(super) fn on_answers(&mut self) {
        self.probes.on_answers(&mut self.sender, &self.counters);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.paths.deadline(), self.retry_at, self.probes.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Rechecks routes that may carry longer datagrams again, or may accept segmentation again.
    pub(super) fn on_timer(&mut self, now: Instant) {
        let changed = self.paths.on_timer(now);
        if changed > 0 {
            self.counters.add(Count::TunnelPathChanged, changed);
            self.show_paths();
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.sender.forget_limits();
        }
        self.probes.on_timer(now, &mut self.sender, &self.counters);
    }

    fn encapsulate(&mut self, frame: &GuestFrame<'_>, flow: Flow, index: usize) -> Result<(), Refusal> {
        let path = self.paths.get(index).ok_or(DropReason::NoSuchNeighbour)?;
        let sent = if frame.offload.segmentation == Segmentation::None {
            self.single(frame, flow, path)
        } else {
            self.segments(frame, flow, path)
        };
        if sent.is_err() {
            self.sender.peers().not_sent(path.to, 1);
        }
        sent
    }

    /// Bytes of the longest IP packet that a path carries after `before` bytes of a frame.
    fn packet_max(&self, path: Path, before: usize) -> usize {
        self.mtu.min(path.datagram_max.saturating_sub(BASE_LEN + before))
    }

    fn too_big(&self, path: Path, before: usize) -> Refusal {
        let mtu = u16::try_from(self.packet_max(path, before)).unwrap_or(u16::MAX);
        Refusal::TooBig { mtu }
    }

    fn single(&mut self, frame: &GuestFrame<'_>, flow: Flow, path: Path) -> Result<(), Refusal> {
        let before = frame.parsed.packet();
        if frame.len > before + self.packet_max(path, before) {
            return self.fragments(frame, flow, path);
        }
        let crossing = self.crossing(frame, flow, path, None, frame.len);
        let room = self.room(&crossing, frame.len);
        frame.copy_to(0, room);
        crossing.complete(room, frame.offload.checksum);
        Ok(())
    }

    /// Fragments an IPv4 packet that permits it.
    fn fragments(&mut self, frame: &GuestFrame<'_>, flow: Flow, path: Path) -> Result<(), Refusal> {
        let before = frame.parsed.packet();
        if !may_fragment(frame) {
            return Err(self.too_big(path, before));
        }
        let mut whole = std::mem::take(&mut self.whole);
        whole.resize(frame.len, 0);
        frame.copy_to(0, &mut whole);
        complete(&mut whole, frame.offload.checksum);
        let sent = self.fragment(&whole, before, &self.plain_crossing(flow, path));
        self.whole = whole;
        sent
    }

    /// Fragments each segment of a frame, if its IPv4 header permits that: a router does the same with the segments of a
    /// guest that expects a larger MTU.
    fn fragments_of_segments(
        &mut self,
        frame: &GuestFrame<'_>,
        mut split: Split,
        flow: Flow,
        path: Path,
    ) -> Result<(), Refusal> {
        let before = frame.parsed.packet();
        if !may_fragment(frame) {
            return Err(self.too_big(path, before));
        }
        let (headers, crossing) = (split.headers_len(), self.plain_crossing(flow, path));
        let mut whole = std::mem::take(&mut self.whole);
        let mut sent = Ok(());
        while let Some(payload) = split.payload().filter(|_| sent.is_ok()) {
            whole.resize(headers + payload.len(), 0);
            let (first, rest) = whole.split_at_mut(headers);
            first.copy_from_slice(&frame.head[..headers]);
            frame.copy_to(payload.start, rest);
            split.write_headers(first, payload);
            complete(&mut whole, split.checksum());
            sent = self.fragment(&whole, before, &crossing);
            split.taken();
        }
        self.whole = whole;
        sent
    }

    /// Sends a frame whose IPv4 packet begins after `before` bytes in as many fragments as the path needs.
    fn fragment(&mut self, whole: &[u8], before: usize, crossing: &Crossing) -> Result<(), Refusal> {
        let (link, packet) = whole.split_at(before);
        let max = self.packet_max(crossing.path, before);
        let fragments = Fragments::new(packet, max).ok_or_else(|| self.too_big(crossing.path, before))?;
        if packet.len() > max {
            self.counters.add(Count::TunnelFragmented, 1);
        }
        for fragment in fragments {
            let room = self.room(crossing, before + fragment.header().len() + fragment.payload.len());
            let parts = [link, fragment.header(), &packet[fragment.payload.clone()]];
            parts.into_iter().fold(room, |room, part| {
                let (own, rest) = room.split_at_mut(part.len());
                own.copy_from_slice(part);
                rest
            });
        }
        Ok(())
    }

    /// The form of frames that leave nothing undone.
    const fn plain_crossing(&self, flow: Flow, path: Path) -> Crossing {
        Crossing {
            path,
            flow,
            header: self.plain,
            is_partial: false,
        }
    }

    fn segments(&mut self, frame: &GuestFrame<'_>, flow: Flow, path: Path) -> Result<(), Refusal> {
        let mut split = Split::new(frame.head, frame.len, frame.offload).ok_or(DropReason::BadOffload)?;
        let before = frame.parsed.packet();
        if split.headers_len() + split.first_len() > before + self.packet_max(path, before) {
            return self.fragments_of_segments(frame, split, flow, path);
        }
        let crossing = self.crossing(frame, flow, path, split.segment(), split.frame_len());
        if crossing.is_partial {
            split = split.grouped(path.datagram_max - OPTION_HEADER);
        }
        if crossing.is_partial && frame.len >= LARGE && split.is_one() {
            self.large(&crossing, frame);
            return Ok(());
        }
        self.cut(&crossing, split, frame);
        Ok(())
    }

    /// Adds the pieces of a frame to a batch.
    fn cut(&mut self, crossing: &Crossing, mut split: Split, frame: &GuestFrame<'_>) {
        let headers = &frame.head[..split.headers_len()];
        let own = crossing.header.before(headers);
        let (own, tunnel) = (own.as_bytes(), crossing.header.len);
        let mut run = self.sender.run(crossing.destination(), own.len() + split.first_len());
        while let Some(payload) = split.payload() {
            let room = self.sender.append(&mut run, own.len() + payload.len());
            let (first, rest) = room.split_at_mut(own.len());
            first.copy_from_slice(own);
            frame.copy_to(payload.start, rest);
            split.write_headers(&mut first[tunnel..], payload);
            crossing.complete(&mut room[tunnel..], split.checksum());
            split.taken();
        }
    }

    /// Sends a frame as one datagram, directly from guest memory. The headers are in the copied head, and the payload
    /// is not inspected.
    fn large(&mut self, crossing: &Crossing, frame: &GuestFrame<'_>) {
        let own = crossing.header.before(frame.head);
        self.sender.send_now(crossing.destination(), own.as_bytes(), frame);
    }

    /// Chooses the form in which the frame is sent. Its datagrams have frames of up to `len` bytes and, if there are
    /// several, `segment` bytes of payload each. The option is used only where it saves work: a frame that needs none
    /// is the same for every peer.
    fn crossing(
        &self,
        frame: &GuestFrame<'_>,
        flow: Flow,
        path: Path,
        segment: Option<NonZeroU16>,
        len: usize,
    ) -> Crossing {
        let is_partial = path.knows_frame_option && OPTION_HEADER + len <= path.datagram_max && is_understood(frame);
        let header = if is_partial {
            let option = FrameOption {
                segmented: segment.map(|mss| Segmented { mss }),
                is_checksum_partial: true,
                epoch: 0,
            };
            Header::of(&GeneveHeader::with_frame_option(self.vni, option))
        } else {
            self.plain
        };
        Crossing {
            path,
            flow,
            header,
            is_partial,
        }
    }

    /// Room for a frame of `len` bytes after the tunnel's header.
    fn room(&mut self, crossing: &Crossing, len: usize) -> &mut [u8] {
        let header = crossing.header.as_bytes();
        debug_assert!(header.len() + len <= crossing.path.datagram_max, "it was checked");
        let room = self.sender.datagram(crossing.destination(), header.len() + len);
        let (first, frame) = room.split_at_mut(header.len());
        first.copy_from_slice(header);
        frame
    }
}

impl Crossing {
    const fn destination(&self) -> Destination {
        Destination {
            to: self.path.to,
            hash: self.flow.hash,
            class: self.flow.class,
        }
    }

    /// Completes a partial checksum, unless the far end does.
    fn complete(&self, frame: &mut [u8], checksum: Checksum) {
        if !self.is_partial {
            complete(frame, checksum);
        }
    }
}

/// True for an IPv4 packet that may be fragmented on the way.
fn may_fragment(frame: &GuestFrame<'_>) -> bool {
    frame.parsed.ethertype() == EtherType::Ipv4 && !frame.parsed.is_unfragmentable(frame.head)
}

/// Completes a partial checksum.
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

/// True if the checksum is partial and its position follows from the headers alone. The option does not state the
/// position.
fn is_understood(frame: &GuestFrame<'_>) -> bool {
    let Checksum::Partial { start, offset } = frame.offload.checksum else {
        return false;
    };
    let partial = (usize::from(start), usize::from(offset));
    let transport = frame.parsed.whole_transport();
    transport.is_some_and(|at| transport_checksum(at.protocol).map(|field| (at.offset, field)) == Some(partial))
}

/// Offset of the checksum in the header of a transport whose checksum may be partial.
pub(super) const fn transport_checksum(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        _ => None,
    }
}

impl Flow {
    /// The hash of a frame's addresses and ports, and the outer ECN field, which equals the inner one (RFC 6040 4.1).
    /// Fragments have no ports, so that all fragments of a datagram share a hash.
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
