//! Header fields that splitting and merging rewrite: lengths, the IPv4 checksum, and the partial checksum of the
//! transport.

use crate::frame::Checksum;
use crate::packet::checksum::Sum;
use crate::packet::{be16, protocol};

/// Length of an IPv4 header without options in bytes.
pub(super) const IPV4: usize = 20;
/// Length of an IPv6 header without extension headers in bytes.
pub(super) const IPV6: usize = 40;
/// The "do not fragment" flag, in the field of the IPv4 fragment offset.
pub(super) const DONT_FRAGMENT: u16 = 0x4000;

/// The transport of a frame that carries several segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The protocol number.
    pub(super) const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// Offset of the checksum field in the transport header.
    pub(super) const fn checksum(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Sums over the header fields that all pieces of a frame have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Sum over the IPv4 header without length, identification and checksum. Zero for IPv6.
    pub(super) network: Sum,
    /// Sum over the pseudo-header without the length.
    pub(super) transport: Sum,
}

/// Offsets of the headers in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) transport: Transport,
    /// Offset of the IP header.
    pub(super) ip: usize,
    /// Offset of the transport header.
    pub(super) l4: usize,
}

impl Place {
    /// The partial checksum that [`write`](Self::write) leaves to be completed.
    pub(super) fn partial(self) -> Checksum {
        Checksum::Partial {
            start: u16::try_from(self.l4).unwrap_or(u16::MAX),
            offset: self.transport.checksum(),
        }
    }

    /// Writes lengths and checksums for a transport header and payload of `length` bytes together. `passed` is added to
    /// the IPv4 identification.
    pub(super) fn write(self, out: &mut [u8], length: usize, passed: usize) {
        self.write_with(self.sums(out), out, length, passed);
    }

    /// The sums over the header fields that [`write`](Self::write) keeps.
    pub(super) fn sums(self, head: &[u8]) -> Sums {
        let Self { ip, l4, .. } = self;
        let network = if head[ip] >> 4 == 4 {
            Sum::default()
                .bytes(&head[ip..ip + 2])
                .bytes(&head[ip + 6..ip + 10])
                .bytes(&head[ip + 12..l4])
        } else {
            Sum::default()
        };
        Sums {
            network,
            transport: self.pseudo_header(head, 0),
        }
    }

    /// Does the same as [`write`](Self::write) for one of several pieces that share `sums`.
    pub(super) fn write_with(self, sums: Sums, out: &mut [u8], length: usize, passed: usize) {
        let Self { transport, ip, l4 } = self;
        let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        if out[ip] >> 4 == 4 {
            let (total, ident) = (number(l4 - ip + length), be16(out, ip + 4).wrapping_add(number(passed)));
            out[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
            out[ip + 4..ip + 6].copy_from_slice(&ident.to_be_bytes());
            let sum = sums.network.word(total).word(ident).finish();
            out[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            // In IPv6, extension headers count as payload.
            out[ip + 4..ip + 6].copy_from_slice(&number(l4 - ip - IPV6 + length).to_be_bytes());
        }
        if transport == Transport::Udp {
            out[l4 + 4..l4 + 6].copy_from_slice(&number(length).to_be_bytes());
        }
        let sum = sums.transport.word(number(length)).fold();
        let at = l4 + usize::from(transport.checksum());
        out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The sum over the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) for a transport header and payload of `length`
    /// bytes.
    pub(super) fn pseudo_header(self, head: &[u8], length: usize) -> Sum {
        let ip = self.ip;
        let addresses = if head[ip] >> 4 == 4 {
            ip + 12..ip + IPV4
        } else {
            ip + 8..ip + IPV6
        };
        Sum::default()
            .bytes(&head[addresses])
            .word(self.transport.protocol().into())
            .word(u16::try_from(length).unwrap_or(u16::MAX))
    }
}
