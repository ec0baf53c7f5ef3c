//! Sends and receives the messages of probes.
//!
//! A process asks from a socket of its own, so that the answer comes back to the worker that asked. It answers from the
//! socket of its endpoint.

use super::routes::Probe;
use crate::frame::GuestSlice;
use crate::packet::geneve::{ProbeAnswer, ProbeMessage, ProbeRequest, Vni};
use crate::sys::send_batch::SendBatch;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Answers read in one turn.
const ANSWERS: usize = 64;

/// The socket that asks.
pub(in crate::overlay) struct ProbeSocket {
    socket: UdpSocket,
    vni: Vni,
    messages: SendBatch,
}

impl ProbeSocket {
    /// Asks from `socket`, which sends like those that carry frames.
    pub(in crate::overlay) fn new(socket: UdpSocket, vni: Vni) -> Self {
        Self {
            socket,
            vni,
            messages: SendBatch::default(),
        }
    }

    /// Sends the batches of a probe. One that the kernel refuses does not arrive, which is a result too.
    pub(in crate::overlay) fn send(&mut self, probe: Probe) {
        let Probe {
            to,
            nonce,
            size,
            batches,
        } = probe;
        let mut bytes = Vec::new();
        for count in batches {
            bytes.resize(usize::from(count) * usize::from(size), 0);
            for (index, datagram) in (0..count).zip(bytes.chunks_mut(size.into())) {
                ProbeRequest { nonce, count, index }.write(self.vni, datagram);
            }
            let mut out = self.messages.start();
            out.push((count > 1).then_some(size), |gather| {
                gather.push(GuestSlice::from_bytes(&bytes));
            });
            out.address(to);
            let _ = out.transmit(&self.socket, 0);
        }
    }

    /// The answers that have arrived, and where they come from.
    pub(in crate::overlay) fn answers(&self) -> impl Iterator<Item = (SocketAddr, ProbeAnswer)> {
        (0..ANSWERS).map_while(|_| self.receive()).flatten()
    }

    /// The next answer. `None`: nothing is left; `Some(None)`: something else has arrived.
    fn receive(&self) -> Option<Option<(SocketAddr, ProbeAnswer)>> {
        let mut bytes = [0; ProbeAnswer::LEN + 1];
        let received: io::Result<_> = self.socket.recv_from(&mut bytes);
        match received {
            Ok((len, from)) => Some(match ProbeMessage::parse(self.vni, &bytes[..len]) {
                Ok(Some(ProbeMessage::Answer(answer))) => Some((from, answer)),
                _ => None,
            }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // An ICMP error about an earlier probe.
            Err(_) => Some(None),
        }
    }
}

impl AsRawFd for ProbeSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
