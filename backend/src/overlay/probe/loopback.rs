//! Checks whether this kernel splits datagrams correctly.
//!
//! Some kernels refuse UDP_SEGMENT, and some corrupt bytes when all segments have the same size (Linux 7.0). So before
//! anything else is sent, a batch of two segments and a batch of many are sent over the loopback to a socket that
//! receives segments one by one, and the bytes are compared. This does not test devices that split datagrams
//! themselves: [`routes`](super::routes) does, towards processes of hawser; refusals by a device are detected in [`sender`](super::super::sender), and corruption by the guests' checksums.

use crate::frame::GuestSlice;
use crate::sys::send_batch::SendBatch;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Segments in the two batches: the minimum, and as many as in a frame of 64 KiB.
const BATCHES: [usize; 2] = [2, 44];
/// Length of a segment in bytes.
const SEGMENT: usize = SEGMENT_U16 as usize;
const SEGMENT_U16: u16 = 1400;

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::overlay) enum Verdict {
    /// The bytes arrived as sent.
    Sound,
    /// The kernel refused to split, or the bytes that arrived differ.
    Unsound,
    /// The namespace has no loopback on which to try it.
    Untried,
}

/// Tries splitting on the loopback of the calling thread's network namespace.
pub(in crate::overlay) fn probe(domain: Domain) -> Verdict {
    let Ok((sender, receiver, to)) = sockets(domain) else {
        return Verdict::Untried;
    };
    for count in BATCHES {
        let sent = pattern(count);
        match send(&sender, to, &sent) {
            Ok(()) if arrives(&receiver, &sent) => {}
            Err(error) if is_without_loopback(&error) => return Verdict::Untried,
            _ => return Verdict::Unsound,
        }
    }
    Verdict::Sound
}

fn is_without_loopback(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL))
}

fn sockets(domain: Domain) -> io::Result<(Socket, Socket, SocketAddr)> {
    let loopback = match domain {
        Domain::IPV6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        _ => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    };
    let socket = || Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP));
    let (sender, receiver) = (socket()?, socket()?);
    sender.bind(&SockAddr::from(loopback))?;
    receiver.bind(&SockAddr::from(loopback))?;
    // A connected socket does not receive datagrams from other processes.
    receiver.connect(&sender.local_addr()?)?;
    let to = receiver
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((sender, receiver, to))
}

/// Bytes for `count` segments that all differ from each other.
fn pattern(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    (0..count * SEGMENT)
        .map(|_| {
            state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn send(socket: &Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut messages = SendBatch::default();
    let mut out = messages.start();
    out.push(Some(SEGMENT_U16), |gather| gather.push(GuestSlice::from_bytes(bytes)));
    out.address(to);
    out.transmit(socket, 0).map(drop)
}

/// True if the socket has received exactly `sent`, one segment at a time. The loopback delivers within the sending
/// call.
fn arrives(mut socket: &Socket, sent: &[u8]) -> bool {
    let mut segment = [0; SEGMENT + 1];
    sent.chunks(SEGMENT)
        .all(|expected| socket.read(&mut segment).is_ok_and(|len| segment[..len] == *expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_cuts_as_it_should_in_both_families() {
        assert_eq!(probe(Domain::IPV4), Verdict::Sound);
        assert_eq!(probe(Domain::IPV6), Verdict::Sound);
    }

    #[test]
    fn a_segment_with_other_bytes_or_of_another_length_is_noticed() {
        for change in [0, SEGMENT, 2 * SEGMENT - 1] {
            let (sender, receiver, to) = sockets(Domain::IPV4).unwrap();
            let sent = pattern(2);
            let mut other = sent.clone();
            other[change] ^= 1;
            send(&sender, to, &other).unwrap();
            assert!(!arrives(&receiver, &sent), "byte {change}");
        }
        let (sender, receiver, to) = sockets(Domain::IPV4).unwrap();
        let sent = pattern(2);
        send(&sender, to, &sent[..2 * SEGMENT - 1]).unwrap();
        assert!(!arrives(&receiver, &sent));
        assert!(!arrives(&receiver, &sent), "nothing is left");
    }
}
