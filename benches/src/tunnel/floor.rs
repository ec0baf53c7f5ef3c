//! The floors of the tunnel. [`Floor`] sends the payload with room for headers in equal datagrams: one `sendmsg` that
//! the kernel splits, one `recvmsg` for datagrams that the kernel joins, and a copy and a checksum at each end.
//! [`WholeFloor`] sends the payload as one datagram, without a copy in user space: into one buffer that stays in the
//! caches, or through memory as large as the guest's, which costs more to write.

use super::{BURST, Burst, PAYLOAD, REGION};
use hawser_backend::frame::GuestSlice;
use hawser_backend::packet::checksum::Sum;
use hawser_backend::sys::datagram::set_coalescing;
use hawser_backend::sys::receive_batch::ReceiveBatch;
use hawser_backend::sys::send_batch::SendBatch;
use hawser_testkit::{Result, failure};
use socket2::{Domain, Socket, Type};
use std::hint::black_box;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Length of a segment's headers in bytes: Geneve, Ethernet, IPv4, and TCP with timestamps.
const HEADERS: usize = 8 + 14 + 20 + 32;
/// Number of messages received in one call.
const MESSAGES: usize = 16;
/// Maximum number of datagrams in one call.
const MAX_SEGMENTS: usize = 44;

/// Two sockets, and the memory of two guests.
pub struct Floor {
    sender: Socket,
    receiver: Socket,
    to: SocketAddr,
    segment: usize,
    from: Vec<u8>,
    into: Vec<u8>,
    scratch: Vec<u8>,
    outgoing: SendBatch,
    incoming: ReceiveBatch,
    sent: usize,
    received: usize,
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Floor")
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

/// Creates two sockets on the loopback: a sender, a receiver, and the receiver's address.
fn sockets() -> Result<(Socket, Socket, SocketAddr)> {
    let sender = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let receiver = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?;
    receiver.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    receiver.set_recv_buffer_size(8 << 20)?;
    set_coalescing(&receiver, true)?;
    let to = receiver
        .local_addr()?
        .as_socket()
        .ok_or_else(|| failure("no address"))?;
    Ok((sender, receiver, to))
}

impl Floor {
    /// A floor whose datagrams carry `mss` bytes of payload each.
    ///
    /// # Errors
    /// The system cannot create the sockets.
    pub fn new(mss: usize) -> Result<Self> {
        let (sender, receiver, to) = sockets()?;
        Ok(Self {
            sender,
            receiver,
            to,
            segment: mss + HEADERS,
            from: vec![0x5a; REGION],
            into: vec![0; REGION],
            scratch: Vec::new(),
            outgoing: SendBatch::default(),
            incoming: ReceiveBatch::with_capacity(MESSAGES),
            sent: 0,
            received: 0,
        })
    }

    fn send(&mut self) -> Result<usize> {
        let mss = self.segment - HEADERS;
        let payload = PAYLOAD.min(mss * MAX_SEGMENTS);
        self.scratch.clear();
        for start in (0..payload).step_by(mss) {
            let len = mss.min(payload - start);
            let at = self.scratch.len();
            self.scratch.resize(at + HEADERS, 0);
            self.scratch.extend_from_slice(&self.from[self.sent + start..][..len]);
            black_box(Sum::default().bytes(&self.scratch[at..]).finish());
        }
        let mut out = self.outgoing.start();
        out.push(u16::try_from(self.segment).ok(), |gather| {
            gather.push(GuestSlice::from_bytes(&self.scratch));
        });
        out.address(self.to);
        out.transmit(&self.sender, 0)?;
        self.sent = (self.sent + payload) % (REGION - PAYLOAD);
        Ok(payload)
    }

    fn receive(&mut self) -> Result<usize> {
        let count = self.incoming.receive_to_spill(&self.receiver, MESSAGES)?;
        let mut payload = 0;
        for index in 0..count {
            let size = self.incoming.message(index).segment.map_or(self.segment, usize::from);
            for datagram in self.incoming.spilled(index).chunks(size) {
                black_box(Sum::default().bytes(datagram).finish());
                let bytes = datagram.get(HEADERS..).unwrap_or_default();
                self.into[self.received..][..bytes.len()].copy_from_slice(bytes);
                self.received = (self.received + bytes.len()) % (REGION - PAYLOAD);
                payload += bytes.len();
            }
        }
        Ok(payload)
    }
}

impl Burst for Floor {
    fn burst(&mut self) -> Result<u64> {
        let mut sent = 0;
        for _ in 0..BURST {
            sent += self.send()?;
        }
        let mut arrived = 0;
        while arrived < sent {
            arrived += self.receive()?;
        }
        Ok(u64::try_from(arrived)?)
    }
}

/// Two sockets, and the memory of the guest that sends.
pub struct WholeFloor {
    sender: Socket,
    receiver: Socket,
    to: SocketAddr,
    from: Vec<u8>,
    /// Memory for the datagrams, one after another.
    into: Vec<u8>,
    outgoing: SendBatch,
    sent: usize,
    received: usize,
}

impl std::fmt::Debug for WholeFloor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WholeFloor").finish_non_exhaustive()
    }
}

impl WholeFloor {
    /// A floor whose datagrams have the payload of a whole frame. They are received into memory of the size of a
    /// guest's.
    ///
    /// # Errors
    /// The system cannot create the sockets.
    pub fn new() -> Result<Self> {
        Self::into_memory(REGION)
    }

    /// A floor with the same datagrams, which are received into a buffer that stays in the caches.
    ///
    /// # Errors
    /// The system cannot create the sockets.
    pub fn cached() -> Result<Self> {
        Self::into_memory(2 * PAYLOAD)
    }

    fn into_memory(bytes: usize) -> Result<Self> {
        let (sender, receiver, to) = sockets()?;
        Ok(Self {
            sender,
            receiver,
            to,
            from: vec![0x5a; REGION],
            into: vec![0; bytes],
            outgoing: SendBatch::default(),
            sent: 0,
            received: 0,
        })
    }
}

impl Burst for WholeFloor {
    fn burst(&mut self) -> Result<u64> {
        for _ in 0..BURST {
            let mut out = self.outgoing.start();
            out.push(None, |gather| {
                gather.push(GuestSlice::from_bytes(&self.from[self.sent..][..PAYLOAD]));
            });
            out.address(self.to);
            out.transmit(&self.sender, 0)?;
            self.sent = (self.sent + PAYLOAD) % (REGION - PAYLOAD);
        }
        let mut arrived = 0;
        while arrived < BURST * PAYLOAD {
            let len = match (&self.receiver).read(&mut self.into[self.received..][..PAYLOAD]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                read => read?,
            };
            self.received = (self.received + len) % (self.into.len() - PAYLOAD + 1);
            arrived += len;
        }
        Ok(u64::try_from(arrived)?)
    }
}
