//! Joins frames from a wire for a guest that accepts segmentation offload (generic receive offload).
//!
//! A [`Train`] contains consecutive frames of one flow. A frame joins if splitting the result ([`split`](super::split))
//! would restore the original frames: consecutive TCP segments with the same acknowledgment, window and options, or UDP
//! datagrams. All must have the same size, except that the last may be shorter. Every checksum is verified, because the
//! guest accepts the joined frame as good. The first one is verified when the second frame joins. A frame that cannot
//! join ends the train.
//!
//! An [`Arrival`] may itself carry several segments, or have a partial checksum that its sender guarantees to be
//! correct. It joins by the same rule, and its payload is not read. This module does no I/O.

use super::headers::{DONT_FRAGMENT, IPV4, IPV6, Place, Transport};
use super::pattern::Pattern;
use crate::frame::{Checksum, GuestCaps, HEAD_MAX, Offload, Segmentation};
use crate::packet::{EthernetHeader, TcpFlags, TcpHeader, UdpHeader, be16, protocol};

/// Maximum frames in one train. It equals the kernel's limit for one receive call.
pub(crate) const MAX_FRAMES: usize = 64;
/// Length of the longest IP packet in bytes.
const MAX_PACKET: usize = 65_535;
const IP: usize = EthernetHeader::LEN;

/// A frame from the wire, and the offloads that its sender left undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'b> {
    /// Bytes of the frame.
    pub(crate) bytes: &'b [u8],
    /// Offloads that are still to be done; [`Offload::NONE`] for a frame from an ordinary wire.
    pub(crate) offload: Offload,
}

impl Arrival<'_> {
    /// Payload bytes of each segment except the last, for a total of `payload` bytes.
    #[inline]
    fn segment(&self, payload: usize) -> usize {
        match self.offload.segmentation {
            Segmentation::None => payload,
            Segmentation::Tcp4 { mss: size, .. }
            | Segmentation::Tcp6 { mss: size, .. }
            | Segmentation::Udp { size } => payload.min(size.into()),
        }
    }

    /// True if the checksum is partial and known to be correct.
    #[inline]
    const fn is_partial(&self) -> bool {
        matches!(self.offload.checksum, Checksum::Partial { .. })
    }
}

/// A frame that may join others.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: Place,
    /// Length of all headers in bytes.
    headers: usize,
    /// Length of the payload in bytes.
    payload: usize,
    /// Payload bytes of each segment except the last, or of the only segment.
    size: usize,
    /// True if the checksum is partial and known to be correct.
    is_partial: bool,
    /// True if no frame can follow this one (PSH).
    last: bool,
}

/// Consecutive frames of one flow, in a buffer of ours that lives for `'b`.
pub(crate) struct Train<'b> {
    frames: [&'b [u8]; MAX_FRAMES],
    count: usize,
    /// Offloads that the sender left undone on the first frame.
    offload: Offload,
    /// Properties of the first frame. `None` if no frame can join it.
    first: Option<Candidate>,
    /// Payload bytes of all frames together.
    payload: usize,
    /// Number of segments of all frames together.
    segments: usize,
    /// True if no frame can follow.
    closed: bool,
    /// The headers that further frames must have, known once a second frame has arrived.
    pattern: Option<Pattern>,
    /// True if the checksums of the first frame have been verified.
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
            segments: 0,
            pattern: None,
            verified: false,
        }
    }
}

impl<'b> Train<'b> {
    /// Adds a frame. Returns false if the frame cannot join. The caller must then send the train, and begin the next
    /// one with the frame.
    pub(crate) fn add(&mut self, arrival: Arrival<'b>, caps: GuestCaps) -> bool {
        if self.count == 0 {
            self.begin(arrival, Candidate::new(arrival, caps));
            return true;
        }
        let Some(first) = self.first else { return false };
        let frame = arrival.bytes;
        if self.closed || self.count == MAX_FRAMES || frame.len() <= first.headers {
            return false;
        }
        let payload = frame.len() - first.headers;
        let size = arrival.segment(payload);
        let fits = payload <= first.payload
            && (size == first.size || payload <= first.size)
            && first.headers - IP + self.payload + payload <= MAX_PACKET;
        if !fits {
            return false;
        }
        let Some(pattern) = Self::pattern(&mut self.pattern, first, (self.frames[0], frame)) else {
            return false;
        };
        if !pattern.precedes(frame, self.segments, self.payload) {
            return false;
        }
        if !self.verified && !first.has_good_checksum(self.frames[0]) {
            self.closed = true;
            return false;
        }
        self.verified = true;
        if !arrival.is_partial() && !pattern.has_good_checksum(frame) {
            return false;
        }
        let is_last = pattern.is_last(frame);
        self.frames[self.count] = frame;
        self.count += 1;
        self.payload += payload;
        self.segments += first.segments();
        self.closed = is_last || payload < first.payload;
        true
    }

    fn begin(&mut self, arrival: Arrival<'b>, candidate: Option<Candidate>) {
        self.frames[0] = arrival.bytes;
        self.count = 1;
        self.offload = arrival.offload;
        self.first = candidate;
        self.payload = candidate.map_or(0, |candidate| candidate.payload);
        self.segments = candidate.map_or(0, |candidate| candidate.segments());
        self.closed = candidate.is_none_or(|candidate| candidate.last || !candidate.is_full());
        self.pattern = None;
        self.verified = false;
    }

    /// The headers that frames after the first must have. They are determined when the second frame arrives. `None` if
    /// it belongs to another flow.
    #[inline]
    fn pattern<'p>(known: &'p mut Option<Pattern>, first: Candidate, frames: (&[u8], &[u8])) -> Option<&'p Pattern> {
        if known.is_none() {
            let ports = first.place.l4..first.place.l4 + 4;
            if frames.0[ports.clone()] != frames.1[ports] {
                return None;
            }
            *known = Some(Pattern::new(frames.0, first.place, first.headers));
        }
        known.as_ref()
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
            // Only packets without options that are not fragments and fill their frame can join.
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
                // A datagram without a checksum would get one.
                let good = be16(header, 6) != 0 && usize::from(be16(header, 4)) == frame.len() - l4;
                good.then_some((Transport::Udp, UdpHeader::LEN, false))?
            }
            _ => return None,
        };
        let headers = l4 + l4_len;
        let payload = frame.len().checked_sub(headers).filter(|payload| *payload > 0)?;
        Some(Self {
            place: Place { transport, ip: IP, l4 },
            headers,
            payload,
            size: arrival.segment(payload),
            is_partial: arrival.is_partial(),
            last,
        })
    }

    /// The number of segments in the frame, if all of them have the full size.
    const fn segments(&self) -> usize {
        self.payload / self.size
    }

    /// True if all segments of the frame have the same size, so that another can follow.
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
