//! Datagrams to other endpoints of the tunnel, many in one system call.
//!
//! A [`Sender`] has several sockets, so that the flows of a guest spread over the paths of the
//! underlay: the source port is the only field of the outer headers that tells flows apart (RFC
//! 8926 3.3). A flow stays on one socket, which keeps its order.
//!
//! Datagrams of one size to one endpoint share a [`Batch`]: the kernel cuts it (UDP_SEGMENT), and
//! only its last datagram may be shorter. Batches leave when they are full, when a datagram of
//! another size comes, and at the end of each burst; no datagram waits for another.
//!
//! A route on which the kernel refuses to cut (EIO, EINVAL) gets its datagrams one by one from then
//! on. The batch that met the refusal is sent again, not dropped.

use crate::counters::{Count, Counters, DropReason};
use crate::frame::GuestSlice;
use crate::sys::datagram::{self, Fragmentation, MAX_PAYLOAD, MAX_SEGMENTS};
use crate::sys::send_batch::SendBatch;
use crate::sys::traffic_class::set_traffic_class;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Sending sockets of one worker. More spread better and cost a descriptor each.
const SOCKETS: usize = 8;
/// Batches that are open at a time. A burst with more flows than this sends early.
const BATCHES: usize = 8;
/// Most bytes the socket queues, so that a burst of 256 frames of 64 KiB fits.
const SEND_BUFFER: usize = 8 << 20;
/// TTL or hop limit of the outer header (OVS has the same default).
const TTL: u8 = 64;

/// Where a datagram goes, and by which socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// The endpoint.
    pub(super) to: SocketAddr,
    /// A hash of the flow.
    pub(super) hash: u32,
    /// DSCP and ECN of the outer header.
    pub(super) class: u8,
}

/// Datagrams of one size.
#[derive(Debug)]
struct Batch {
    to: SocketAddr,
    socket: usize,
    class: u8,
    /// Bytes of each datagram but the last.
    size: usize,
    bytes: Vec<u8>,
    /// The last datagram was shorter: nothing can follow.
    closed: bool,
}

/// A socket, and the class it was last given.
struct Outlet {
    socket: Socket,
    class: u8,
}

/// The sending side of a tunnel.
pub(super) struct Sender {
    domain: Domain,
    outlets: Vec<Outlet>,
    /// Open batches, the one used longest ago first.
    open: Vec<Batch>,
    /// Batches that are not in use, kept for their memory.
    idle: Vec<Batch>,
    messages: SendBatch,
    /// Endpoints whose route does not cut.
    uncut: Vec<SocketAddr>,
    counters: Arc<Counters>,
}

impl Sender {
    /// Sockets of the family of `local` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(local: SocketAddr, counters: Arc<Counters>) -> io::Result<Self> {
        let domain = Domain::for_address(local);
        let outlets = (0..SOCKETS)
            .map(|_| outlet(domain, local))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            domain,
            outlets,
            open: Vec::with_capacity(BATCHES),
            idle: Vec::new(),
            messages: SendBatch::default(),
            uncut: Vec::new(),
            counters,
        })
    }

    /// Room for a datagram of `len` bytes, at most [`MAX_PAYLOAD`]. It leaves with its batch.
    pub(super) fn datagram(&mut self, destination: Destination, len: usize) -> &mut [u8] {
        let index = self.batch_for(destination, len);
        let batch = &mut self.open[index];
        let start = batch.bytes.len();
        batch.bytes.resize(start + len, 0);
        batch.closed = len < batch.size;
        &mut batch.bytes[start..]
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self) {
        while !self.open.is_empty() {
            self.send(0);
        }
    }

    /// The batch that a datagram joins.
    fn batch_for(&mut self, destination: Destination, len: usize) -> usize {
        let Destination { to, hash, class } = destination;
        let socket = hash as usize % self.outlets.len();
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
            bytes: Vec::with_capacity(MAX_PAYLOAD),
            closed: false,
        });
        (batch.to, batch.socket, batch.class, batch.size, batch.closed) = (to, socket, class, len, false);
        batch.bytes.clear();
        self.open.push(batch);
        self.open.len() - 1
    }

    fn send(&mut self, index: usize) {
        let batch = self.open.remove(index);
        let outlet = &mut self.outlets[batch.socket];
        if outlet.class != batch.class && set_traffic_class(&outlet.socket, self.domain, batch.class).is_ok() {
            outlet.class = batch.class;
        }
        let whole = batch.count() == 1 || self.uncut.contains(&batch.to);
        let sent = if whole {
            send_each(&mut self.messages, &self.outlets[batch.socket].socket, &batch)
        } else {
            match send_cut(&mut self.messages, &self.outlets[batch.socket].socket, &batch) {
                Err(error) if is_refusal(&error) => {
                    self.counters.add(Count::TunnelCutRefused, 1);
                    self.uncut.push(batch.to);
                    send_each(&mut self.messages, &self.outlets[batch.socket].socket, &batch)
                }
                Err(error) => Err((error, 0)),
                Ok(()) => Ok(()),
            }
        };
        let count = batch.count();
        match sent {
            Ok(()) => self.counters.add(Count::TunnelSent, count as u64),
            Err((error, sent)) => {
                self.counters.add(Count::TunnelSent, sent as u64);
                self.counters.count_drops(reason(&error), (count - sent) as u64);
            }
        }
        self.idle.push(batch);
    }
}

impl Batch {
    fn takes(&self, len: usize) -> bool {
        !self.closed && len <= self.size && self.bytes.len() + len <= MAX_PAYLOAD && self.count() < MAX_SEGMENTS
    }

    /// Datagrams in it.
    fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.size.max(1))
    }
}

/// All datagrams of a batch in one message.
fn send_cut(messages: &mut SendBatch, socket: &Socket, batch: &Batch) -> io::Result<()> {
    let mut out = messages.start();
    out.push(u16::try_from(batch.size).ok(), |gather| {
        gather.push(GuestSlice::from_bytes(&batch.bytes));
    });
    out.address(batch.to);
    out.transmit(socket, 0).map(drop)
}

/// The datagrams of a batch in a message each. An error says how many went before it.
fn send_each(messages: &mut SendBatch, socket: &Socket, batch: &Batch) -> Result<(), (io::Error, usize)> {
    let mut out = messages.start();
    for datagram in batch.bytes.chunks(batch.size.max(1)) {
        out.push(None, |gather| gather.push(GuestSlice::from_bytes(datagram)));
    }
    out.address(batch.to);
    let (mut sent, count) = (0, batch.count());
    while sent < count {
        sent += out.transmit(socket, sent).map_err(|error| (error, sent))?;
    }
    Ok(())
}

/// True if the kernel or the device cannot cut on this route (facts: EIO without checksum
/// offload, EINVAL of older kernels).
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP))
}

fn reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::TunnelFull,
        Some(libc::EMSGSIZE) => DropReason::TunnelTooBig,
        _ => DropReason::TunnelUnreachable,
    }
}

fn outlet(domain: Domain, local: SocketAddr) -> io::Result<Outlet> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0)))?;
    // RFC 8926 3.2: endpoints do not fragment outer packets.
    datagram::set_fragmentation(&socket, domain, Fragmentation::Refuse)?;
    datagram::set_ttl(&socket, domain, TTL)?;
    // A smaller buffer than asked for drops more; no reason not to start.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    Ok(Outlet { socket, class: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn receiver() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn sender() -> Sender {
        Sender::new("127.0.0.1:0".parse().unwrap(), Arc::default()).unwrap()
    }

    fn to(receiver: &UdpSocket, hash: u32) -> Destination {
        Destination {
            to: receiver.local_addr().unwrap(),
            hash,
            class: 0,
        }
    }

    fn receive(receiver: &UdpSocket) -> Vec<u8> {
        let mut bytes = [0; 4096];
        let n = receiver.recv(&mut bytes).unwrap();
        bytes[..n].to_vec()
    }

    #[test]
    fn datagrams_of_one_size_share_a_batch_and_arrive_in_order() {
        let receiver = receiver();
        let mut sender = sender();
        let sizes = [100, 100, 100, 40, 100, 7, 200, 200];
        for (i, size) in sizes.into_iter().enumerate() {
            sender.datagram(to(&receiver, 1), size).fill(u8::try_from(i).unwrap());
        }
        sender.flush();
        for (i, size) in sizes.into_iter().enumerate() {
            assert_eq!(receive(&receiver), vec![u8::try_from(i).unwrap(); size]);
        }
        assert_eq!(sender.counters.count(Count::TunnelSent), 8);
    }

    #[test]
    fn more_destinations_than_batches_lose_nothing() {
        let receivers: Vec<_> = (0..BATCHES + 3).map(|_| receiver()).collect();
        let mut sender = sender();
        for round in 0..3 {
            for receiver in &receivers {
                sender.datagram(to(receiver, 7), 10).fill(round);
            }
        }
        sender.flush();
        for receiver in &receivers {
            for round in 0..3 {
                assert_eq!(receive(receiver), [round; 10]);
            }
        }
    }

    #[test]
    fn a_route_that_does_not_cut_gets_datagrams_one_by_one() {
        let receiver = receiver();
        let mut sender = sender();
        sender.uncut.push(receiver.local_addr().unwrap());
        for i in 0..5 {
            sender.datagram(to(&receiver, 1), 30).fill(i);
        }
        sender.flush();
        for i in 0..5 {
            assert_eq!(receive(&receiver), [i; 30]);
        }
    }

    #[test]
    fn flows_leave_from_several_ports() {
        let receiver = receiver();
        let mut sender = sender();
        let mut ports = std::collections::HashSet::new();
        for hash in 0..64 {
            sender.datagram(to(&receiver, hash), 1).fill(0);
            sender.flush();
            let mut byte = [0];
            ports.insert(receiver.recv_from(&mut byte).unwrap().1.port());
        }
        assert_eq!(ports.len(), SOCKETS);
    }
}
