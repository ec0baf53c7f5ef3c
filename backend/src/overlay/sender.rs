//! Sends datagrams to other endpoints of the tunnel, many in one system call.
//!
//! A [`Sender`] has several sockets, so that the flows of a guest spread over the paths of the underlay: the source
//! port is the only field of the outer headers that distinguishes flows (RFC 8926 3.3). A flow stays on one socket,
//! which preserves its order.
//!
//! Datagrams of the same size to the same endpoint share a [`Batch`], which the kernel splits (UDP_SEGMENT); only its
//! last datagram may be shorter. A batch is sent when it is full, when a datagram of another size arrives, and at the
//! end of each burst. No datagram waits for a later one.
//!
//! A kernel or device may refuse to split on a route: with EIO without checksum offload, with EINVAL (some kernels for
//! a shorter last datagram, others always), or with EMSGSIZE for too many datagrams at once. The rest of the batch is
//! then sent in the largest pieces that the route accepts ([`Limit`]), which is remembered for the endpoint. A single
//! datagram that is refused with EMSGSIZE is larger than the path carries; [`take_too_big`](Sender::take_too_big)
//! reports this to the owner.

use super::view::Peers;
use super::wire::{Outer, Wire};
use crate::capture::Capture;
use crate::counters::{Count, Counters, DropReason, Gauge, PeerLevel};
use crate::frame::{GuestFrame, GuestSlice};
use crate::sys::datagram::{self, Fragmentation, MAX_PAYLOAD, MAX_SEGMENTS};
use crate::sys::send_batch::SendBatch;
use crate::sys::traffic_class::set_traffic_class;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

/// Sending sockets of one worker. More sockets spread flows better, but each costs a descriptor.
const SOCKETS: usize = 8;
/// Batches that may be open at a time. A burst with more flows sends some of them early.
const BATCHES: usize = 8;
/// Requested size of a socket's send queue: room for a burst of 256 frames of 64 KiB.
const SEND_BUFFER: usize = 8 << 20;
/// TTL or hop limit of the outer header (OVS has the same default).
pub(super) const TTL: u8 = 64;

/// The destination of a datagram, and the values that select its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Address and port of the endpoint.
    pub(super) to: SocketAddr,
    /// Hash of the flow's addresses and ports.
    pub(super) hash: u32,
    /// DSCP and ECN of the outer header.
    pub(super) class: u8,
}

/// Datagrams of the same size.
#[derive(Debug)]
struct Batch {
    to: SocketAddr,
    socket: usize,
    class: u8,
    /// Bytes of each datagram except the last.
    size: usize,
    /// Room for the largest batch. It is never cleared, because each datagram overwrites its part.
    bytes: Vec<u8>,
    /// Bytes in use.
    len: usize,
    /// Number of datagrams in the batch.
    count: usize,
    /// True once a shorter datagram has been added: none can follow it.
    closed: bool,
}

/// A run of consecutive datagrams to one destination.
pub(super) struct Run {
    destination: Destination,
    /// Index in `open` of the batch that the last datagram of the run joined.
    batch: usize,
}

/// A socket and the traffic class last set on it.
struct Outlet {
    socket: Socket,
    class: u8,
    /// Address and port from which the socket sends.
    local: SocketAddr,
}

/// The sending side of a tunnel.
pub(super) struct Sender {
    domain: Domain,
    outlets: Vec<Outlet>,
    /// Open batches, least recently used first.
    open: Vec<Batch>,
    /// Unused batches, kept for their memory.
    idle: Vec<Batch>,
    messages: SendBatch,
    /// End of each message of the batch that is being sent.
    ends: Vec<usize>,
    /// Limit of a route whose own limit is unknown.
    usual: Limit,
    /// Limits of routes that have refused to split, or whose probe has failed.
    limits: HashMap<SocketAddr, Limit>,
    /// Endpoints to which what the kernel splits does not arrive.
    failed: HashSet<SocketAddr>,
    /// Endpoints to which a datagram was too big for the path.
    too_big: Vec<SocketAddr>,
    counters: Arc<Counters>,
    /// The peers, whose counters record what was sent.
    peers: Arc<Peers>,
    /// Passes outer packets to captures.
    wire: Wire,
}

/// Limit on one message to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Maximum datagrams per message.
    datagrams: usize,
    /// True if the last datagram may be shorter.
    short_tail: bool,
}

impl Limit {
    /// The limit according to the kernel's documentation.
    pub(super) const CUT: Self = Self {
        datagrams: MAX_SEGMENTS,
        short_tail: true,
    };
    /// The limit of a route that does not split: one datagram per message.
    pub(super) const UNCUT: Self = Self {
        datagrams: 1,
        short_tail: true,
    };

    /// Length of the next message of a batch with datagrams of `size` bytes, of which `rest` bytes remain.
    fn message(self, rest: usize, size: usize) -> usize {
        let most = rest.min(self.datagrams * size);
        let tail = most % size;
        if self.short_tail || most < size {
            most
        } else {
            most - tail
        }
    }

    /// The limit after a message of `len` bytes was refused, and the counter of such refusals. `None` if splitting is
    /// not the reason.
    fn after(self, error: &io::Error, len: usize, size: usize) -> Option<(Self, Count)> {
        if len <= size {
            return None;
        }
        Some(match error.raw_os_error()? {
            libc::EIO | libc::EOPNOTSUPP => (Self::UNCUT, Count::TunnelCutIo),
            libc::EINVAL if self.short_tail && !len.is_multiple_of(size) => {
                let limit = Self {
                    short_tail: false,
                    ..self
                };
                (limit, Count::TunnelCutInvalid)
            }
            libc::EINVAL => (Self::UNCUT, Count::TunnelCutInvalid),
            libc::EMSGSIZE => {
                let limit = Self {
                    datagrams: len.div_ceil(size) / 2,
                    ..self
                };
                (limit, Count::TunnelCutTooLarge)
            }
            _ => return None,
        })
    }
}

impl Sender {
    /// Creates sockets of the family of `local` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of a system call.
    pub(super) fn new(local: SocketAddr, peers: Arc<Peers>, counters: Arc<Counters>) -> io::Result<Self> {
        let domain = Domain::for_address(local);
        let outlets = (0..SOCKETS)
            .map(|_| outlet(domain, local))
            .collect::<io::Result<Vec<_>>>()?;
        let sender = Self {
            domain,
            outlets,
            open: Vec::with_capacity(BATCHES),
            idle: Vec::new(),
            messages: SendBatch::default(),
            ends: Vec::new(),
            usual: Limit::CUT,
            limits: HashMap::new(),
            failed: HashSet::new(),
            too_big: Vec::new(),
            counters,
            peers,
            wire: Wire::new(Arc::default()),
        };
        sender.show_limits();
        Ok(sender)
    }

    /// Sets the limit of routes whose own limit is unknown.
    pub(super) fn set_usual(&mut self, limit: Limit) {
        self.usual = limit;
        self.show_limits();
    }

    /// True if some route has refused to split and may try again.
    pub(super) fn has_limits(&self) -> bool {
        self.limits.len() > self.failed.len()
    }

    /// Makes routes that have refused to split try again, because a device may have been replaced. A batch that is refused
    /// again is sent in smaller pieces, and is not lost.
    pub(super) fn forget_limits(&mut self) {
        self.limits.retain(|to, _| self.failed.contains(to));
        self.show_limits();
    }

    /// Sends datagrams to an endpoint one by one, because what the kernel splits does not arrive; or no longer.
    pub(super) fn set_failed(&mut self, to: SocketAddr, has_failed: bool) {
        if has_failed {
            self.failed.insert(to);
            self.limits.insert(to, Limit::UNCUT);
        } else if self.failed.remove(&to) {
            self.limits.remove(&to);
        }
        self.show_limits();
    }

    /// Replaces the table, and discards the limits of routes to endpoints that it does not contain.
    pub(super) fn set_peers(&mut self, peers: Arc<Peers>) {
        self.limits.retain(|to, _| peers.of(*to).is_some());
        self.failed.retain(|to| peers.of(*to).is_some());
        self.peers = peers;
        self.show_limits();
    }

    /// Passes outer packets to the captures that `capture` starts.
    pub(super) fn set_capture(&mut self, capture: Arc<Capture>) {
        self.wire = Wire::new(capture);
    }

    /// The peers, whose counters and levels other threads read.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Publishes the limits of all routes. Called only after rare changes.
    fn show_limits(&self) {
        for (to, peer) in self.peers.all() {
            let limit = self.limits.get(&to).copied().unwrap_or(self.usual);
            peer.set(PeerLevel::Batch, limit.datagrams as u64);
        }
        self.counters.set(Gauge::TunnelLimitedPeers, self.limits.len() as u64);
    }

    /// Takes an endpoint to which a datagram was longer than the path carries; `None` if none is left.
    pub(super) fn take_too_big(&mut self) -> Option<SocketAddr> {
        self.too_big.pop()
    }

    /// Room for a datagram of `len` bytes, at most [`MAX_PAYLOAD`]. The caller must fill it completely. It is sent with
    /// its batch.
    pub(super) fn datagram(&mut self, destination: Destination, len: usize) -> &mut [u8] {
        let mut run = self.run(destination, len);
        self.append(&mut run, len)
    }

    /// Begins a run with a datagram of `len` bytes. The run ends before anything else is sent.
    pub(super) fn run(&mut self, destination: Destination, len: usize) -> Run {
        Run {
            destination,
            batch: self.batch_for(destination, len),
        }
    }

    /// Room for the next datagram of a run, filled and sent like that of [`datagram`](Self::datagram).
    #[inline]
    pub(super) fn append(&mut self, run: &mut Run, len: usize) -> &mut [u8] {
        if !self.open[run.batch].takes(len) {
            run.batch = self.batch_for(run.destination, len);
        }
        self.open[run.batch].append(len)
    }

    /// Sends all waiting batches.
    pub(super) fn flush(&mut self) {
        self.wire.look();
        while !self.open.is_empty() {
            self.send(0);
        }
    }

    /// The batch that a datagram to this destination joins.
    fn batch_for(&mut self, destination: Destination, len: usize) -> usize {
        let Destination { to, class, .. } = destination;
        let socket = Self::socket_of(destination);
        let same = |batch: &Batch| (batch.to, batch.socket, batch.class) == (to, socket, class);
        if let Some(index) = self.open.iter().position(same) {
            if self.open[index].takes(len) {
                return index;
            }
            self.send(index);
        }
        if self.open.len() == BATCHES {
            self.send(0);
        }
        let mut batch = self.idle.pop().unwrap_or_else(|| Batch {
            to,
            socket,
            class,
            size: len,
            bytes: vec![0; MAX_PAYLOAD],
            len: 0,
            count: 0,
            closed: false,
        });
        (batch.to, batch.socket, batch.class, batch.size) = (to, socket, class, len);
        (batch.len, batch.count, batch.closed) = (0, 0, false);
        self.open.push(batch);
        self.open.len() - 1
    }

    /// Sends a datagram immediately: `own`, followed by the bytes of `frame` after its head. This is for large
    /// datagrams, for which a separate call is cheaper than a copy. Waiting datagrams of the flow are sent first.
    pub(super) fn send_now(&mut self, destination: Destination, own: &[u8], frame: &GuestFrame<'_>) {
        let Destination { to, class, .. } = destination;
        let socket = Self::socket_of(destination);
        while let Some(index) = self
            .open
            .iter()
            .position(|batch| (batch.to, batch.socket) == (to, socket))
        {
            self.send(index);
        }
        self.set_class(socket, class);
        let mut out = self.messages.start();
        out.push(None, |gather| {
            gather.push(GuestSlice::from_bytes(own));
            frame.gather(frame.head.len(), frame.len, gather);
        });
        out.address(to);
        let sent = out.transmit(&self.outlets[socket].socket, 0);
        let dropped = sent.as_ref().err().map(reason);
        match sent {
            Ok(_) => {
                self.counters.add(Count::TunnelSent, 1);
                self.peers.sent(to, 1, own.len() + frame.len - frame.head.len());
            }
            Err(error) => {
                self.counters.count_drop(reason(&error));
                self.peers.not_sent(to, 1);
                if error.raw_os_error() == Some(libc::EMSGSIZE) {
                    self.note_too_big(to);
                }
            }
        }
        if self.wire.is_on() {
            self.show_large(socket, to, own, frame, dropped);
        }
    }

    const fn socket_of(destination: Destination) -> usize {
        destination.hash as usize % SOCKETS
    }

    fn set_class(&mut self, socket: usize, class: u8) {
        let outlet = &mut self.outlets[socket];
        if outlet.class != class && set_traffic_class(&outlet.socket, self.domain, class).is_ok() {
            outlet.class = class;
        }
    }

    fn send(&mut self, index: usize) {
        let batch = self.open.remove(index);
        self.set_class(batch.socket, batch.class);
        let known = self.limits.get(&batch.to).copied().unwrap_or(self.usual);
        let (mut limit, mut at, mut is_path_small) = (known, 0, false);
        while at < batch.len {
            match self.send_from(&batch, at, limit) {
                Ok(end) => at = end,
                Err(error) => {
                    let refused = limit.message(batch.len - at, batch.size);
                    if let Some((lower, count)) = limit.after(&error, refused, batch.size) {
                        self.counters.add(count, 1);
                        limit = lower;
                    } else {
                        is_path_small |= error.raw_os_error() == Some(libc::EMSGSIZE);
                        let datagrams = refused.div_ceil(batch.size);
                        self.counters.count_drops(reason(&error), datagrams as u64);
                        self.peers.not_sent(batch.to, datagrams);
                        if self.wire.is_on() {
                            self.show(&batch, at..at + refused, Some(reason(&error)));
                        }
                        at += refused;
                    }
                }
            }
        }
        if is_path_small {
            self.note_too_big(batch.to);
        } else if limit != known {
            self.limits.insert(batch.to, limit);
            self.peers.set(batch.to, PeerLevel::Batch, limit.datagrams);
            self.counters.set(Gauge::TunnelLimitedPeers, self.limits.len() as u64);
        }
        self.idle.push(batch);
    }

    /// Sends the bytes of a batch from `at` onwards. Returns the end of the part that the kernel accepted.
    fn send_from(&mut self, batch: &Batch, at: usize, limit: Limit) -> io::Result<usize> {
        let mut out = self.messages.start();
        self.ends.clear();
        let mut start = at;
        while start < batch.len {
            let len = limit.message(batch.len - start, batch.size);
            // Some kernels refuse a request to split bytes that fit into one datagram.
            let size = u16::try_from(batch.size).ok().filter(|_| len > batch.size);
            out.push(size, |gather| {
                gather.push(GuestSlice::from_bytes(&batch.bytes[start..start + len]));
            });
            start += len;
            self.ends.push(start);
        }
        out.address(batch.to);
        let messages = out.transmit(&self.outlets[batch.socket].socket, 0)?;
        let end = self.ends[messages - 1];
        let datagrams = (end - at).div_ceil(batch.size);
        self.counters.add(Count::TunnelSent, datagrams as u64);
        self.peers.sent(batch.to, datagrams, end - at);
        if self.wire.is_on() {
            self.show(batch, at..end, None);
        }
        Ok(end)
    }

    /// Passes the datagrams in a part of a batch to captures.
    #[cold]
    fn show(&self, batch: &Batch, part: Range<usize>, dropped: Option<DropReason>) {
        let outer = self.outer(batch.socket, batch.to);
        for datagram in batch.bytes[part].chunks(batch.size) {
            self.wire.sent(outer, datagram, dropped);
        }
    }

    /// Passes a datagram that was sent by a call of its own to captures.
    #[cold]
    fn show_large(
        &self,
        socket: usize,
        to: SocketAddr,
        own: &[u8],
        frame: &GuestFrame<'_>,
        dropped: Option<DropReason>,
    ) {
        let mut payload = own.to_vec();
        payload.resize(own.len() + frame.len - frame.head.len(), 0);
        frame.copy_to(frame.head.len(), &mut payload[own.len()..]);
        self.wire.sent(self.outer(socket, to), &payload, dropped);
    }

    fn outer(&self, socket: usize, destination: SocketAddr) -> Outer {
        let outlet = &self.outlets[socket];
        Outer {
            source: outlet.local,
            destination,
            class: outlet.class,
        }
    }

    fn note_too_big(&mut self, to: SocketAddr) {
        if !self.too_big.contains(&to) {
            self.too_big.push(to);
        }
    }
}

impl Batch {
    #[inline]
    const fn takes(&self, len: usize) -> bool {
        !self.closed && len <= self.size && self.len + len <= MAX_PAYLOAD && self.count < MAX_SEGMENTS
    }

    #[inline]
    fn append(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        self.count += 1;
        self.closed = len < self.size;
        &mut self.bytes[start..self.len]
    }
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::TunnelFull,
        Some(libc::EMSGSIZE) => DropReason::TunnelTooBig,
        _ => DropReason::TunnelUnreachable,
    }
}

/// A socket that sends as all of them do.
///
/// # Errors
/// The system's error.
pub(super) fn sending_socket(domain: Domain, local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0)))?;
    // RFC 8926 3.2: endpoints do not fragment outer packets.
    datagram::set_fragmentation(&socket, domain, Fragmentation::Refuse)?;
    datagram::set_ttl(&socket, domain, TTL)?;
    // A smaller buffer than requested causes more drops, but is no reason not to start.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    Ok(socket)
}

fn outlet(domain: Domain, local: SocketAddr) -> io::Result<Outlet> {
    let socket = sending_socket(domain, local)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
    Ok(Outlet {
        socket,
        class: 0,
        local: SocketAddr::new(local.ip(), port),
    })
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
