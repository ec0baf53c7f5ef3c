//! A flow of datagrams on the channel.
//!
//! It has no flow control: what waits in its socket waits there while the channel is busy, where the kernel bounds it,
//! and what the socket at the other end does not accept is dropped and counted. Datagrams of equal size that the kernel
//! passes on together stay together. DSCP and ECN cross the channel; TTL and the permission to fragment are those that
//! the guest used last before it moved, and ICMP errors about a datagram end at the anchor.
//!
//! No end of such a flow shows in its socket. In the target, a datagram for a flow that has ended is refused by the
//! loopback socket. In the source, a flow that was idle for some minutes counts as ended.

use super::wire::{self, PIECE};
use crate::frame::GuestSlice;
use crate::sys::datagram;
use crate::sys::receive_batch::{MAX_BATCH, ReceiveBatch};
use crate::sys::send_batch::SendBatch;
use crate::sys::traffic_class::{set_traffic_class, watch_traffic_class};
use socket2::{Domain, Socket};
use std::io;

/// Checks without a datagram after which a flow has ended. With [`CHECK`](super::role), that is longer than an idle flow
/// exists in the target.
const IDLE_CHECKS: u8 = 4;

/// The flow cannot continue: its socket leads to one of this host that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Buffers for the datagrams of all flows.
pub(super) struct Buffers {
    receive: ReceiveBatch,
    send: SendBatch,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            receive: ReceiveBatch::with_capacity(MAX_BATCH),
            send: SendBatch::default(),
        }
    }
}

/// A flow of datagrams.
#[derive(Debug)]
pub(super) struct Datagrams {
    domain: Domain,
    /// True if the other end of the socket is on this host.
    is_local: bool,
    /// DSCP and ECN that the socket sends with.
    class: Option<u8>,
    idle_checks: u8,
}

impl Datagrams {
    /// Prepares the connected socket of a flow.
    pub(super) fn new(socket: &Socket) -> io::Result<Self> {
        let domain = socket.domain()?;
        // A queue of errors that nothing reads would take the room of datagrams.
        datagram::ignore_errors(socket, domain)?;
        // If this fails, datagrams arrive without a class.
        let _ = watch_traffic_class(socket, domain, true);
        let peer = socket.peer_addr()?.as_socket();
        Ok(Self {
            domain,
            is_local: peer.is_some_and(|peer| peer.ip().is_loopback()),
            class: None,
            idle_checks: 0,
        })
    }

    /// Sends a datagram, or several, to the socket. Returns the number of those that it does not accept.
    pub(super) fn send(
        &mut self,
        buffers: &mut Buffers,
        socket: &Socket,
        (class, segment): (u8, Option<u16>),
        bytes: &[u8],
    ) -> Result<u64, Gone> {
        self.idle_checks = 0;
        // Fails only for a socket of another family.
        if self.class != Some(class) && set_traffic_class(socket, self.domain, class).is_ok() {
            self.class = Some(class);
        }
        let size = segment.map_or(bytes.len(), usize::from).max(1);
        if bytes.len() > size {
            let mut out = buffers.send.start();
            out.push(segment, |gather| gather.push(GuestSlice::from_bytes(bytes)));
            match out.transmit(socket, 0) {
                Ok(_) => return Ok(0),
                Err(error) if self.is_gone(&error) => return Err(Gone),
                // The kernel does not segment for this socket or path.
                Err(_) => {}
            }
        }
        let mut out = buffers.send.start();
        let mut count = 0;
        for part in bytes.chunks(size).chain(bytes.is_empty().then_some(bytes)) {
            out.push(None, |gather| gather.push(GuestSlice::from_bytes(part)));
            count += 1;
        }
        let (mut done, mut lost, mut attempts) = (0, 0, 0);
        while done < count {
            match out.transmit(socket, done) {
                Ok(taken) => (done, attempts) = (done + taken, 0),
                Err(error) if self.is_gone(&error) => return Err(Gone),
                // The error may concern an earlier datagram. The socket reports it once.
                Err(_) if attempts == 0 => attempts += 1,
                Err(_) => (done, lost, attempts) = (done + 1, lost + 1, 0),
            }
        }
        Ok(lost)
    }

    /// Reads datagrams of the socket and appends messages with them to `output`. True if more may wait.
    pub(super) fn receive(
        &mut self,
        buffers: &mut Buffers,
        socket: &Socket,
        number: u32,
        output: &mut Vec<u8>,
    ) -> Result<bool, Gone> {
        let batch = &mut buffers.receive;
        let n = match batch.receive_to_spill(socket, MAX_BATCH) {
            Ok(n) => n,
            Err(error) if self.is_gone(&error) => return Err(Gone),
            // An error about an earlier datagram, which the socket reports once.
            Err(_) => return Ok(true),
        };
        for i in 0..n {
            let message = *batch.message(i);
            let bytes = batch.spilled(i);
            let bytes = &bytes[..bytes.len().min(PIECE)];
            wire::datagrams(output, number, (message.traffic_class, message.segment), bytes);
        }
        if n > 0 {
            self.idle_checks = 0;
        }
        Ok(n == MAX_BATCH)
    }

    /// True if nothing has crossed the channel for some checks.
    pub(super) const fn is_idle(&mut self) -> bool {
        self.idle_checks = self.idle_checks.saturating_add(1);
        self.idle_checks > IDLE_CHECKS
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        self.is_local && error.kind() == io::ErrorKind::ConnectionRefused
    }
}
