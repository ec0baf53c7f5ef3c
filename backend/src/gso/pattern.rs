//! The headers that a frame must have in order to follow those of a train.
//!
//! Between the frames of a train only lengths, identification, sequence number, checksums and PSH differ. A [`Pattern`]
//! is made from the first frame. It compares all other bytes in words of eight, and sums them only once, so that each
//! further frame costs a few additions. This module does no I/O.

use super::headers::{DONT_FRAGMENT, IPV6, Place, Sums, Transport};
use crate::frame::HEAD_MAX;
use crate::packet::{TcpFlags, be16, be32};

/// Number of bytes that are compared at once.
const WORD: usize = 8;
/// Number of words in the longest headers.
const WORDS: usize = HEAD_MAX / WORD;
/// Offset of the flags in a TCP header.
const TCP_FLAGS: usize = 13;

/// The headers of the first frame of a train.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    place: Place,
    /// Length of all headers in bytes.
    headers: usize,
    /// The bytes that are the same in every frame, and zero elsewhere: whole words from the start, and the last eight
    /// bytes.
    same: [u64; WORDS],
    last_same: u64,
    /// Mask with ones at the bits that are the same in every frame.
    mask: [u64; WORDS],
    last_mask: u64,
    sums: Sums,
    /// IPv4 identification of the first frame. `None` if it has no meaning.
    ident: Option<u16>,
    /// TCP sequence number of the first frame.
    seq: u32,
}

impl Pattern {
    /// The pattern of a frame with its headers at `place`. The headers are `headers` bytes long: at least a word and at
    /// most [`HEAD_MAX`]. The frame must have neither IPv4 options nor IPv6 extension headers.
    pub(super) fn new(frame: &[u8], place: Place, headers: usize) -> Self {
        let Place { transport, ip, l4 } = place;
        let mut mask = [0; HEAD_MAX];
        mask[..headers].fill(0xff);
        let is_ipv4 = frame[ip] >> 4 == 4;
        if is_ipv4 {
            mask[ip + 2..ip + 6].fill(0);
            mask[ip + 10..ip + 12].fill(0);
        } else {
            mask[ip + 4..ip + 6].fill(0);
        }
        match transport {
            Transport::Udp => mask[l4 + 4..l4 + 8].fill(0),
            Transport::Tcp => {
                mask[l4 + 4..l4 + 8].fill(0);
                mask[l4 + TCP_FLAGS] = !TcpFlags::PSH.0;
                mask[l4 + 16..l4 + 18].fill(0);
            }
        }
        let (mask, last_mask) = words(&mask[..headers]);
        let (mut same, last_same) = words(&frame[..headers]);
        for (word, mask) in same.iter_mut().zip(&mask) {
            *word &= mask;
        }
        // RFC 6864 4: the identification of a packet that cannot be fragmented has no meaning.
        let has_ident = is_ipv4 && be16(frame, ip + 6) & DONT_FRAGMENT == 0;
        Self {
            place,
            headers,
            same,
            last_same: last_same & last_mask,
            mask,
            last_mask,
            sums: place.sums(frame),
            ident: has_ident.then(|| be16(frame, ip + 4)),
            seq: be32(frame, l4 + 4),
        }
    }

    /// True if splitting would give the next piece exactly the headers of `frame`, after `segments` segments with
    /// `payload` bytes. `frame` must be longer than the headers. The transport checksum is not verified.
    #[inline]
    pub(super) fn precedes(&self, frame: &[u8], segments: usize, payload: usize) -> bool {
        let Place { transport, ip, l4 } = self.place;
        if !self.has_same(frame) {
            return false;
        }
        let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let (packet, length) = (frame.len() - ip, number(frame.len() - l4));
        let network = if frame[ip] >> 4 == 4 {
            let (total, ident) = (be16(frame, ip + 2), be16(frame, ip + 4));
            let sum = self.sums.network.word(total).word(ident).word(be16(frame, ip + 10));
            usize::from(total) == packet
                && self
                    .ident
                    .is_none_or(|first| ident == first.wrapping_add(number(segments)))
                && sum.fold() == u16::MAX
        } else {
            usize::from(be16(frame, ip + 4)) == packet - IPV6
        };
        network
            && match transport {
                // A datagram without a checksum would get one.
                Transport::Udp => be16(frame, l4 + 4) == length && be16(frame, l4 + 6) != 0,
                Transport::Tcp => {
                    let passed = u32::try_from(payload).unwrap_or(u32::MAX);
                    be32(frame, l4 + 4) == self.seq.wrapping_add(passed)
                }
            }
    }

    /// True if the transport checksum of a frame is correct.
    #[inline]
    pub(super) fn has_good_checksum(&self, frame: &[u8]) -> bool {
        let l4 = self.place.l4;
        let length = u16::try_from(frame.len() - l4).unwrap_or(u16::MAX);
        self.sums.transport.word(length).bytes(&frame[l4..]).fold() == u16::MAX
    }

    /// True if a following frame has PSH, so that no other can join after it.
    #[inline]
    pub(super) fn is_last(&self, frame: &[u8]) -> bool {
        self.place.transport == Transport::Tcp && TcpFlags(frame[self.place.l4 + TCP_FLAGS]).has(TcpFlags::PSH)
    }

    fn has_same(&self, frame: &[u8]) -> bool {
        let Some(headers) = frame.get(..self.headers) else {
            return false;
        };
        let (whole, _) = headers.as_chunks::<WORD>();
        let last = headers.last_chunk().map_or(0, |last| u64::from_ne_bytes(*last));
        let mut differs = (last & self.last_mask) ^ self.last_same;
        for ((word, mask), same) in whole.iter().zip(&self.mask).zip(&self.same) {
            differs |= (u64::from_ne_bytes(*word) & mask) ^ same;
        }
        differs == 0
    }
}

/// The bytes as whole words, and the last eight bytes.
fn words(bytes: &[u8]) -> ([u64; WORDS], u64) {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<WORD>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    (words, bytes.last_chunk().map_or(0, |last| u64::from_ne_bytes(*last)))
}
