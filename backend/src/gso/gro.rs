//! Joins frames from a wire for a guest that accepts segmentation offload (generic receive offload).
//!
//! A [`Train`] holds consecutive frames of one flow. A frame joins if splitting the result ([`split`](super::split))
//! would give back the original frames: consecutive TCP segments with the same acknowledgment, window and options, or
//! UDP datagrams. All must have the same size, except that the last may be shorter. Every checksum is verified, the
//! first when the second frame joins, because the guest accepts the joined frame as good. A frame that cannot join ends
//! the train.
//!
//! An [`Arrival`] may itself carry several segments, or have a partial checksum that its sender vouches for. It joins
//! by the same rule, and its payload is not read. No I/O.

use super::headers::{DONT_FRAGMENT, IPV4, IPV6, Place, Transport};
use crate::frame::{Checksum, GuestCaps, HEAD_MAX, Offload, Segmentation};
use crate::packet::{EthernetHeader, TcpFlags, TcpHeader, UdpHeader, be16, be32, protocol};

/// Maximum frames in one train, the same as the kernel's limit for one receive.
pub(crate) const MAX_FRAMES: usize = 64;
/// Bytes of an IP packet.
const MAX_PACKET: usize = 65_535;
const IP: usize = EthernetHeader::LEN;

/// A frame from the wire, and the offloads that its sender left undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'b> {
    /// The frame.
    pub(crate) bytes: &'b [u8],
    /// [`Offload::NONE`] for a frame from an ordinary wire.
    pub(crate) offload: Offload,
}

/// A frame that may join others.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: Place,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes after the headers.
    payload: usize,
    /// Payload bytes of each segment but the last, or of the only segment.
    size: usize,
    /// The checksum is partial and known to be right.
    is_partial: bool,
    /// Nothing can follow this frame (PSH).
    last: bool,
}

/// Consecutive frames of one flow, in a buffer of ours that lives for `'b`.
pub(crate) struct Train<'b> {
    frames: [&'b [u8]; MAX_FRAMES],
    count: usize,
    /// Offloads left undone on the first frame.
    offload: Offload,
    /// Properties of the first frame; `None`: no frame can join it.
    first: Option<Candidate>,
    /// Payload bytes of all frames.
    payload: usize,
    /// No frame can follow.
    closed: bool,
    /// The checksum of the first frame has been verified.
    verified: bool,
}

impl<'b> Default for Train<'b> {
    fn default() -> Self {
        Self {
            frames: [&[]; MAX_FRAMES],
            count: 0,
            offload: Offload::NONE,
            first: None,
            payload: 0,
            closed: false,
            verified: false,
        }
    }
}

impl<'b> Train<'b> {
    /// Adds a frame. False if the frame cannot join: send the train first, and begin the next one with the frame.
    pub(crate) fn add(&mut self, arrival: Arrival<'b>, caps: GuestCaps) -> bool {
        if self.count > 0 && self.first.is_none() {
            return false;
        }
        let frame = arrival.bytes;
        let candidate = Candidate::new(arrival, caps);
        if self.count == 0 {
            self.offload = arrival.offload;
            self.first = candidate;
            self.frames[0] = frame;
            self.count = 1;
            self.payload = candidate.map_or(0, |candidate| candidate.payload);
            self.closed = candidate.is_none_or(|candidate| candidate.last || !candidate.is_full());
            self.verified = false;
            return true;
        }
        let (Some(first), Some(candidate)) = (self.first, candidate) else {
            return false;
        };
        if !self.takes(first, candidate, frame) {
            return false;
        }
        self.frames[self.count] = frame;
        self.count += 1;
        self.payload += candidate.payload;
        self.closed = candidate.last || candidate.payload < first.payload;
        true
    }

    fn takes(&mut self, first: Candidate, candidate: Candidate, frame: &[u8]) -> bool {
        let fits = !self.closed
            && self.count < MAX_FRAMES
            && candidate.place == first.place
            && candidate.headers == first.headers
            && candidate.payload <= first.payload
            && (candidate.size == first.size || candidate.payload <= first.size)
            && first.headers - IP + self.payload + candidate.payload <= MAX_PACKET;
        if !fits || !self.follows(first, frame) {
            return false;
        }
        if !self.verified && !first.has_good_checksum(self.frames[0]) {
            self.closed = true;
            return false;
        }
        self.verified = true;
        candidate.has_good_checksum(frame)
    }

    /// True if splitting would give `frame` exactly these headers.
    fn follows(&self, first: Candidate, frame: &[u8]) -> bool {
        let (a, b, l4) = (self.frames[0], frame, first.place.l4);
        let segments = self.payload / first.size;
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let network = if a[IP] >> 4 == 4 {
            let passed = u16::try_from(segments).unwrap_or(u16::MAX);
            // RFC 6864 4: the identification of a packet that cannot be fragmented has no meaning.
            let atomic = be16(a, IP + 6) & DONT_FRAGMENT != 0;
            same(0, IP + 2)
                && same(IP + 6, IP + 10)
                && same(IP + 12, l4)
                && (atomic || be16(b, IP + 4) == be16(a, IP + 4).wrapping_add(passed))
        } else {
            same(0, IP + 4) && same(IP + 6, l4)
        };
        network
            && match first.place.transport {
                Transport::Udp => same(l4, l4 + 4),
                Transport::Tcp => {
                    let expected = be32(a, l4 + 4).wrapping_add(u32::try_from(self.payload).unwrap_or(u32::MAX));
                    // Acknowledgment and header length; window; urgent pointer and options.
                    be32(b, l4 + 4) == expected
                        && same(l4, l4 + 4)
                        && same(l4 + 8, l4 + 13)
                        && same(l4 + 14, l4 + 16)
                        && same(l4 + 18, first.headers)
                }
            }
    }

    /// Empties the train, passing its frames to `send` as one frame in parts, headers first.
    pub(crate) fn take<R>(&mut self, send: impl FnOnce(Offload, &[&[u8]]) -> R) -> Option<R> {
        let count = std::mem::take(&mut self.count);
        let first = match (count, self.first) {
            (0, _) => return None,
            (1, _) | (_, None) => return Some(send(self.offload, &self.frames[..1])),
            (_, Some(first)) => first,
        };
        let mut headers = [0; HEAD_MAX];
        let headers = &mut headers[..first.headers];
        headers.copy_from_slice(&self.frames[0][..first.headers]);
        let l4 = first.place.l4;
        if first.place.transport == Transport::Tcp {
            // The joined frame takes PSH from the last segment.
            headers[l4 + 13] = self.frames[count - 1][l4 + 13];
        }
        first.place.write(headers, first.headers - l4 + self.payload, 0);
        let mut parts: [&[u8]; MAX_FRAMES + 1] = [&[]; MAX_FRAMES + 1];
        parts[0] = headers;
        for (part, frame) in parts[1..].iter_mut().zip(&self.frames[..count]) {
            *part = &frame[first.headers..];
        }
        let size = u16::try_from(first.size).unwrap_or(u16::MAX);
        let offload = Offload {
            checksum: first.place.partial(),
            segmentation: match first.place.transport {
                Transport::Udp => Segmentation::Udp { size },
                Transport::Tcp if headers[IP] >> 4 == 4 => Segmentation::Tcp4 { mss: size, ecn: false },
                Transport::Tcp => Segmentation::Tcp6 { mss: size, ecn: false },
            },
        };
        Some(send(offload, &parts[..=count]))
    }
}

impl Candidate {
    /// The properties of a frame that may be joined with others for this guest. The checksum is not verified.
    fn new(arrival: Arrival<'_>, caps: GuestCaps) -> Option<Self> {
        let frame = arrival.bytes;
        let (l4, protocol, tcp, udp) = match (frame.get(12..14)?, frame.get(IP)?) {
            // Only packets without options, that are not fragments and fill their frame.
            ([8, 0], 0x45) if frame.len() >= IP + IPV4 => {
                let whole = be16(frame, IP + 6) & !DONT_FRAGMENT == 0;
                let length = usize::from(be16(frame, IP + 2));
                let good = whole && length == frame.len() - IP;
                good.then_some((IP + IPV4, frame[IP + 9], caps.tso4, caps.uso4))?
            }
            ([0x86, 0xdd], version) if version >> 4 == 6 && frame.len() >= IP + IPV6 => {
                let good = usize::from(be16(frame, IP + 4)) == frame.len() - IP - IPV6;
                good.then_some((IP + IPV6, frame[IP + 6], caps.tso6, caps.uso6))?
            }
            _ => return None,
        };
        let (transport, l4_len, last) = match protocol {
            protocol::TCP if tcp => {
                let header = frame.get(l4..l4 + TcpHeader::LEN)?;
                let flags = TcpFlags(header[13]);
                let plain = flags == TcpFlags::ACK || flags == (TcpFlags::ACK | TcpFlags::PSH);
                let len = usize::from(header[12] >> 4) * 4;
                let good = plain && len >= TcpHeader::LEN;
                good.then_some((Transport::Tcp, len, flags.has(TcpFlags::PSH)))?
            }
            protocol::UDP if udp => {
                let header = frame.get(l4..l4 + UdpHeader::LEN)?;
                // A datagram without a checksum would be given one.
                let good = be16(header, 6) != 0 && usize::from(be16(header, 4)) == frame.len() - l4;
                good.then_some((Transport::Udp, UdpHeader::LEN, false))?
            }
            _ => return None,
        };
        let headers = l4 + l4_len;
        let payload = frame.len().checked_sub(headers).filter(|payload| *payload > 0)?;
        let size = match arrival.offload.segmentation {
            Segmentation::None => payload,
            Segmentation::Tcp4 { mss: size, .. }
            | Segmentation::Tcp6 { mss: size, .. }
            | Segmentation::Udp { size } => payload.min(size.into()),
        };
        Some(Self {
            place: Place { transport, ip: IP, l4 },
            headers,
            payload,
            size,
            is_partial: matches!(arrival.offload.checksum, Checksum::Partial { .. }),
            last,
        })
    }

    /// True if all its segments have the same size, so that another can follow.
    const fn is_full(&self) -> bool {
        self.payload.is_multiple_of(self.size)
    }

    fn has_good_checksum(self, frame: &[u8]) -> bool {
        let l4 = self.place.l4;
        let network = frame[IP] >> 4 != 4 || crate::packet::checksum::of(&frame[IP..l4]) == 0;
        let length = frame.len() - l4;
        network && (self.is_partial || self.place.pseudo_header(frame, length).bytes(&frame[l4..]).fold() == u16::MAX)
    }
}

#[cfg(test)]
#[path = "gro_tests.rs"]
mod tests;
