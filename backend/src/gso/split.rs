//! Splits a frame of several segments into whole frames for a receiver that accepts only those: a guest without the
//! offload, or a wire with an MTU.
//!
//! Each piece has the headers of the frame with its own lengths, identification and, for TCP, sequence number and flags
//! (RFC 9293 3.1). The L4 checksum stays partial: the field contains the sum over the pseudo-header, and the receiver
//! or the caller completes it over the bytes that are delivered. This module does no I/O.

use super::headers::{self, Place, Sums, Transport};
use crate::frame::{Checksum, HEAD_MAX, Offload, Segmentation};
use crate::packet::vlan::{VlanTag, is_tag};
use crate::packet::{EthernetHeader, TcpFlags, TcpHeader, UdpHeader, be16, be32};
use std::num::NonZeroU16;
use std::ops::Range;

/// Offset of the flags in a TCP header.
const TCP_FLAGS: usize = 13;
/// The flag that only the first segment carries (RFC 3168 6.1.2).
const CWR: u8 = 0x80;
/// Flags that only the last segment carries.
const LAST: u8 = TcpFlags::FIN.0 | TcpFlags::PSH.0;

/// The segments of a frame, and the number of pieces that have been taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    place: Place,
    sums: Sums,
    /// Length of all headers in bytes.
    headers: usize,
    /// Payload bytes of each piece except the last.
    size: usize,
    /// Number of segments in each piece except the last.
    group: usize,
    /// Length of the frame in bytes.
    len: usize,
    /// Number of pieces that have been taken.
    taken: usize,
}

/// A piece of a frame: its own headers, and the position of its payload in the frame.
pub(crate) struct Piece {
    bytes: [u8; HEAD_MAX],
    len: usize,
    /// Range of the piece's payload in the frame.
    pub(crate) payload: Range<usize>,
    pub(crate) offload: Offload,
}

impl Piece {
    pub(crate) fn headers(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Split {
    /// The segments of a frame of `len` bytes that begins with `head`. `None` if the frame does not match its offload.
    pub(crate) fn new(head: &[u8], len: usize, offload: Offload) -> Option<Self> {
        let (transport, size) = match offload.segmentation {
            Segmentation::None => return None,
            Segmentation::Tcp4 { mss, .. } | Segmentation::Tcp6 { mss, .. } => (Transport::Tcp, mss),
            Segmentation::Udp { size } => (Transport::Udp, size),
        };
        let Checksum::Partial { start, offset } = offload.checksum else {
            return None;
        };
        let l4 = usize::from(start);
        let tagged = head.len() >= EthernetHeader::LEN && is_tag(be16(head, EthernetHeader::LEN - 2));
        let ip = EthernetHeader::LEN + if tagged { VlanTag::LEN } else { 0 };
        let least = match head.get(ip)? >> 4 {
            4 => headers::IPV4,
            6 => headers::IPV6,
            _ => return None,
        };
        let l4_len = match transport {
            Transport::Tcp => usize::from(head.get(l4 + 12)? >> 4) * 4,
            Transport::Udp => UdpHeader::LEN,
        };
        let headers = l4 + l4_len;
        let fits = l4 >= ip + least
            && offset == transport.checksum()
            && (transport == Transport::Udp || l4_len >= TcpHeader::LEN)
            && headers <= head.len().min(HEAD_MAX)
            && headers < len
            && size > 0;
        let place = Place { transport, ip, l4 };
        fits.then(|| Self {
            place,
            sums: place.sums(head),
            headers,
            size: size.into(),
            group: 1,
            len,
            taken: 0,
        })
    }

    /// Makes pieces of as many segments as fit, with their headers, into `room` bytes, but of at least one. This is for
    /// a receiver that accepts such frames.
    #[must_use]
    pub(crate) fn grouped(self, room: usize) -> Self {
        let group = (room.saturating_sub(self.headers) / self.size).max(1);
        Self {
            size: self.size * group,
            group: self.group * group,
            ..self
        }
    }

    /// The same split after `taken` pieces have been taken.
    #[must_use]
    pub(crate) const fn after(self, taken: usize) -> Self {
        Self { taken, ..self }
    }

    /// Payload bytes of each segment except the last, if the frame has segments.
    pub(crate) fn segment(&self) -> Option<NonZeroU16> {
        NonZeroU16::new(u16::try_from(self.size / self.group).ok()?)
    }

    /// True if the frame is a single piece.
    pub(crate) const fn is_one(&self) -> bool {
        self.len <= self.frame_len()
    }

    /// Length of each whole frame except the last, including headers, in bytes.
    pub(crate) const fn frame_len(&self) -> usize {
        self.headers + self.size
    }

    /// Length of the headers of a piece in bytes.
    pub(crate) const fn headers_len(&self) -> usize {
        self.headers
    }

    /// Payload bytes of the first piece, which no other exceeds.
    pub(crate) fn first_len(&self) -> usize {
        self.size.min(self.len - self.headers)
    }

    /// The partial checksum of every piece.
    pub(crate) fn checksum(&self) -> Checksum {
        self.place.partial()
    }

    /// Range of the next piece's payload in the frame. `None` after the last piece. Call [`taken`](Self::taken) to
    /// advance.
    #[inline]
    pub(crate) fn payload(&self) -> Option<Range<usize>> {
        let start = self.headers + self.taken * self.size;
        (start < self.len).then(|| start..self.len.min(start + self.size))
    }

    /// The next piece. `None` after the last. Call [`taken`](Self::taken) to advance.
    pub(crate) fn next(&self, head: &[u8]) -> Option<Piece> {
        let payload = self.payload()?;
        let mut piece = Piece {
            bytes: [0; HEAD_MAX],
            len: self.headers,
            payload: payload.clone(),
            offload: Offload {
                checksum: self.checksum(),
                segmentation: Segmentation::None,
            },
        };
        piece.bytes[..self.headers].copy_from_slice(head.get(..self.headers)?);
        self.write_headers(&mut piece.bytes[..self.headers], payload);
        Some(piece)
    }

    /// Advances past the piece that was returned last, after the receiver has accepted it.
    pub(crate) const fn taken(&mut self) {
        self.taken += 1;
    }

    /// Turns a copy of the frame's headers into those of the next piece, whose payload is the range `payload` of the
    /// frame.
    pub(crate) fn write_headers(&self, out: &mut [u8], payload: Range<usize>) {
        let l4 = self.place.l4;
        if self.place.transport == Transport::Tcp {
            self.write_tcp(&mut out[l4..], payload.end == self.len);
        }
        let length = self.headers - l4 + payload.len();
        self.place.write_with(self.sums, out, length, self.taken * self.group);
    }

    fn write_tcp(&self, tcp: &mut [u8], last: bool) {
        let passed = u32::try_from(self.taken * self.size).unwrap_or(u32::MAX);
        let seq = be32(tcp, 4).wrapping_add(passed);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        if !last {
            tcp[TCP_FLAGS] &= !LAST;
        }
        if self.taken > 0 {
            tcp[TCP_FLAGS] &= !CWR;
        }
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
