//! Splits a frame with several UDP datagrams for a guest that accepts only single ones. No I/O.

use crate::frame::{Checksum, HEAD_MAX, Offload, Segmentation};
use crate::packet::checksum::Sum;
use crate::packet::vlan::{VlanTag, is_tag};
use crate::packet::{EthernetHeader, UdpHeader, be16, protocol};
use std::ops::Range;

/// Offset of the checksum in a UDP header.
const CHECKSUM: usize = 6;
const CHECKSUM_OFFSET: u16 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The datagrams of a frame, and how many have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Offset of the IP header.
    ip: usize,
    /// Offset of the UDP header.
    udp: usize,
    /// Payload bytes of each datagram but the last.
    size: usize,
    /// Bytes of the frame.
    len: usize,
    /// Datagrams taken.
    taken: usize,
}

/// One datagram: headers of its own, and where its payload is in the frame.
pub(crate) struct Piece {
    bytes: [u8; HEAD_MAX],
    len: usize,
    /// In the frame.
    pub(crate) payload: Range<usize>,
    pub(crate) offload: Offload,
}

impl Piece {
    pub(crate) fn headers(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Split {
    /// The datagrams of `frame`. `None` if it is not what its offload says.
    pub(crate) fn new(frame: &[u8], offload: Offload) -> Option<Self> {
        let (Segmentation::Udp { size }, Checksum::Partial { start, .. }) = (offload.segmentation, offload.checksum)
        else {
            return None;
        };
        let tagged = frame.len() >= EthernetHeader::LEN && is_tag(be16(frame, EthernetHeader::LEN - 2));
        let ip = EthernetHeader::LEN + if tagged { VlanTag::LEN } else { 0 };
        let split = Self {
            ip,
            udp: start.into(),
            size: size.into(),
            len: frame.len(),
            taken: 0,
        };
        let headers = split.udp + UdpHeader::LEN;
        let least = match frame.get(ip)? >> 4 {
            4 => IPV4_HEADER,
            6 => IPV6_HEADER,
            _ => return None,
        };
        let fits = split.udp >= ip + least && headers <= HEAD_MAX && headers < split.len && split.size > 0;
        fits.then_some(split)
    }

    /// The next datagram; `None` after the last. It is taken by [`taken`](Self::taken).
    pub(crate) fn next(&self, frame: &[u8]) -> Option<Piece> {
        let headers = self.udp + UdpHeader::LEN;
        let start = headers + self.taken * self.size;
        if start >= self.len {
            return None;
        }
        let end = self.len.min(start + self.size);
        let mut piece = Piece {
            bytes: [0; HEAD_MAX],
            len: headers,
            payload: start..end,
            offload: Offload {
                checksum: Checksum::Partial {
                    start: u16::try_from(self.udp).unwrap_or(u16::MAX),
                    offset: CHECKSUM_OFFSET,
                },
                segmentation: Segmentation::None,
            },
        };
        piece.bytes[..headers].copy_from_slice(frame.get(..headers)?);
        self.write_headers(&mut piece.bytes[..headers], end - start);
        Some(piece)
    }

    /// The datagram given last has gone where it belongs.
    pub(crate) const fn taken(&mut self) {
        self.taken += 1;
    }

    fn write_headers(&self, out: &mut [u8], payload: usize) {
        let length = UdpHeader::LEN + payload;
        let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let (ip, udp) = (self.ip, self.udp);
        let addresses = if out[ip] >> 4 == 4 {
            let ident = be16(out, ip + 4).wrapping_add(u16::try_from(self.taken).unwrap_or(u16::MAX));
            out[ip + 2..ip + 4].copy_from_slice(&number(udp - ip + length));
            out[ip + 4..ip + 6].copy_from_slice(&ident.to_be_bytes());
            out[ip + 10..ip + 12].fill(0);
            let sum = Sum::default().bytes(&out[ip..udp]).finish();
            out[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            ip + 12..ip + IPV4_HEADER
        } else {
            // Extension headers count as payload of IPv6.
            out[ip + 4..ip + 6].copy_from_slice(&number(udp - ip - IPV6_HEADER + length));
            ip + 8..ip + IPV6_HEADER
        };
        out[udp + 4..udp + 6].copy_from_slice(&number(length));
        let pseudo = Sum::default().bytes(&out[addresses]).word(protocol::UDP.into());
        let sum = pseudo.word(u16::from_be_bytes(number(length))).fold();
        out[udp + CHECKSUM..udp + CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
