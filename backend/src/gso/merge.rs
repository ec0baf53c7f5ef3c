//! Merges datagrams of one UDP flow into one frame (UDP segmentation offload).
//!
//! In the kernel a frame costs a system call, a buffer and a pass through the bridge, whatever its length. Datagrams
//! that are merged before the write share that cost. They are split again when they leave the host or reach a socket,
//! or by the receiving guest.
//!
//! Datagrams are merged only if the kernel's own receive offload would merge them, and if splitting restores them byte
//! for byte. They must be adjacent in the burst, with the same headers except for lengths and checksums. All must have
//! the same length, except that the last may be shorter. Their checksums must be correct or partial. IPv4
//! identifications must count up by one, or be meaningless (DF, RFC 6864 section 4). A datagram without a checksum is
//! not merged, because it would get one.
//!
//! This module does no I/O: a [`Plan`] states which frames of a burst belong together.

use super::headers::{DONT_FRAGMENT, Place, Transport};
use crate::frame::{Checksum, GuestFrame, Offload, Segmentation};
use crate::packet::checksum::Sum;
use crate::packet::{EtherType, EthernetHeader, UdpHeader, be16, protocol};

/// Maximum datagrams in one frame (UDP_MAX_SEGMENTS of Linux before 6.9).
const MAX_DATAGRAMS: usize = 64;
/// Maximum bytes of headers and payload in one frame, counted from the IP header.
const MAX_PACKET: usize = 65_535;
/// Maximum number of flows that are distinguished in a burst.
const MAX_RUNS: usize = 16;
/// Maximum number of frames in a plan.
pub(crate) const MAX_FRAMES: usize = 256;

const IP: usize = EthernetHeader::LEN;
const IPV4_HEADERS: usize = IP + 20 + UdpHeader::LEN;
const IPV6_HEADERS: usize = IP + 40 + UdpHeader::LEN;
/// Length of the longest headers that are merged, in bytes.
pub(crate) const MAX_HEADERS: usize = IPV6_HEADERS;
/// Offset of the checksum in a UDP header.
const CHECKSUM: usize = 6;

/// Whether a frame may be merged with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It may be merged.
    Datagram(Datagram),
    /// It may not be merged, and its order relative to mergeable datagrams must be kept.
    Alone,
    /// It is not UDP, so its order does not matter.
    Other,
}

/// A datagram that may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Datagram {
    /// Length of the Ethernet, IP and UDP headers in bytes.
    headers: usize,
    /// Length of the payload in bytes.
    payload: usize,
    /// IPv4 identification.
    ident: Option<u16>,
}

/// Datagrams to be sent as one frame, or a single frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the first frame in the burst.
    pub(crate) first: usize,
    /// Index of the last frame in the burst.
    last: usize,
    /// Number of frames.
    pub(crate) count: usize,
    /// Length of the Ethernet, IP and UDP headers in bytes; 0 for a frame that is not merged.
    pub(crate) headers: usize,
    /// Payload bytes of all datagrams together.
    pub(crate) payload: usize,
    /// Payload bytes of each datagram except the last.
    size: usize,
    /// True if no datagram can follow.
    closed: bool,
}

/// The frames of a burst, grouped into runs in the order in which they are sent. The plan is reused between bursts, so
/// it does not allocate.
pub(crate) struct Plan {
    runs: Vec<Run>,
    /// Index before which all runs are closed.
    open: usize,
    /// For each frame, the next frame in its run.
    next: [usize; MAX_FRAMES],
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            runs: Vec::with_capacity(MAX_FRAMES),
            open: 0,
            next: [0; MAX_FRAMES],
        }
    }
}

impl Plan {
    /// Makes the plan for a burst of up to [`MAX_FRAMES`].
    pub(crate) fn make(&mut self, burst: &[GuestFrame<'_>]) {
        debug_assert!(burst.len() <= MAX_FRAMES, "a burst has no more frames than a plan");
        self.runs.clear();
        self.open = 0;
        for (index, frame) in burst.iter().enumerate() {
            match classify(frame) {
                Kind::Datagram(datagram) => self.add(burst, index, datagram),
                Kind::Alone => {
                    self.push_alone(index);
                    self.open = self.runs.len();
                }
                Kind::Other => self.push_alone(index),
            }
        }
    }

    /// The runs in the order in which they are sent.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The frames of a run, in order.
    pub(crate) fn frames(&self, run: &Run) -> impl Iterator<Item = usize> + Clone + '_ {
        let mut at = run.first;
        (0..run.count).map(move |_| {
            let index = at;
            at = self.next[index];
            index
        })
    }

    fn push_alone(&mut self, index: usize) {
        self.runs.push(Run {
            first: index,
            last: index,
            count: 1,
            headers: 0,
            payload: 0,
            size: 0,
            closed: true,
        });
    }

    fn add(&mut self, burst: &[GuestFrame<'_>], index: usize, datagram: Datagram) {
        let from = self.open.max(self.runs.len().saturating_sub(MAX_RUNS));
        let head = burst[index].head;
        // Only the latest run of the flow can be continued.
        let candidates = self.runs[from..].iter_mut().rev().filter(|run| run.headers != 0);
        let found = candidates
            .into_iter()
            .find(|run| run.headers == datagram.headers && is_same_flow(burst[run.first].head, head));
        if let Some(run) = found
            && run.takes(burst[run.first].head, head, datagram)
        {
            self.next[run.last] = index;
            run.last = index;
            run.count += 1;
            run.payload += datagram.payload;
            run.closed = datagram.payload < run.size;
            return;
        }
        self.runs.push(Run {
            first: index,
            last: index,
            count: 1,
            headers: datagram.headers,
            payload: datagram.payload,
            size: datagram.payload,
            closed: false,
        });
    }
}

impl Run {
    /// True if the datagram that begins with `head` can join the run, whose first datagram begins with `first`.
    fn takes(&self, first: &[u8], head: &[u8], datagram: Datagram) -> bool {
        let fits = !self.closed
            && self.count < MAX_DATAGRAMS
            && datagram.payload <= self.size
            && self.headers - IP + self.payload + datagram.payload <= MAX_PACKET;
        fits && has_same_headers(first, head, datagram.headers) && self.is_next(first, datagram)
    }

    fn is_next(&self, first: &[u8], datagram: Datagram) -> bool {
        let Some(ident) = datagram.ident else { return true };
        let (start, atomic) = (be16(first, IP + 4), be16(first, IP + 6) & DONT_FRAGMENT != 0);
        let passed = u16::try_from(self.count).unwrap_or(u16::MAX);
        atomic || ident == start.wrapping_add(passed)
    }

    /// Writes the headers of the merged frame into `out`, based on those of the first datagram, and returns the
    /// offloads left to the kernel.
    pub(crate) fn headers(&self, first: &[u8], out: &mut [u8; MAX_HEADERS]) -> Offload {
        let out = &mut out[..self.headers];
        out.copy_from_slice(&first[..self.headers]);
        let place = place(self.headers);
        place.write(out, UdpHeader::LEN + self.payload, 0);
        let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Offload {
            checksum: place.partial(),
            segmentation: Segmentation::Udp {
                size: number(self.size),
            },
        }
    }
}

fn classify(frame: &GuestFrame<'_>) -> Kind {
    let head = &frame.parsed;
    if head.tags() > 0 {
        return Kind::Other;
    }
    let transport = head.transport().map(|at| (at.protocol, at.offset + UdpHeader::LEN));
    match (head.ethertype(), transport) {
        (EtherType::Ipv4, Some((protocol::UDP, IPV4_HEADERS))) => ipv4(frame).map_or(Kind::Alone, Kind::Datagram),
        (EtherType::Ipv6, Some((protocol::UDP, IPV6_HEADERS))) => ipv6(frame).map_or(Kind::Alone, Kind::Datagram),
        (EtherType::Ipv4, Some((_, IPV4_HEADERS))) => Kind::Other,
        (EtherType::Ipv6, Some((protocol::TCP, IPV6_HEADERS))) => Kind::Other,
        // Options, extension headers and malformed headers may hide UDP.
        (EtherType::Ipv4 | EtherType::Ipv6, _) => Kind::Alone,
        (EtherType::Arp | EtherType::Other(_), _) => Kind::Other,
    }
}

/// True if a frame is one complete packet with nothing after it.
fn is_whole(frame: &GuestFrame<'_>) -> bool {
    let ends = frame.parsed.transport().map(|at| at.offset + at.len);
    frame.parsed.fault().is_none() && !frame.parsed.is_fragment() && ends == Some(frame.len)
}

fn ipv4(frame: &GuestFrame<'_>) -> Option<Datagram> {
    let head = frame.head;
    let good = is_whole(frame) && Sum::default().bytes(head.get(IP..IP + 20)?).fold() == u16::MAX;
    let ident = be16(head, IP + 4);
    datagram(frame, IPV4_HEADERS).filter(|_| good).map(|datagram| Datagram {
        ident: Some(ident),
        ..datagram
    })
}

fn ipv6(frame: &GuestFrame<'_>) -> Option<Datagram> {
    datagram(frame, IPV6_HEADERS).filter(|_| is_whole(frame))
}

fn datagram(frame: &GuestFrame<'_>, headers: usize) -> Option<Datagram> {
    let head = frame.head;
    let udp = headers - UdpHeader::LEN;
    let payload = frame.len.checked_sub(headers).filter(|n| *n > 0)?;
    let length = frame.len - udp;
    let plain = frame.offload.segmentation == Segmentation::None && usize::from(be16(head, udp + 4)) == length;
    (plain && has_good_checksum(frame, headers, length)).then_some(Datagram {
        headers,
        payload,
        ident: None,
    })
}

/// True if the checksum, full or partial, is correct, so that the kernel would compute the same value.
fn has_good_checksum(frame: &GuestFrame<'_>, headers: usize, length: usize) -> bool {
    let (head, udp) = (frame.head, headers - UdpHeader::LEN);
    let field = be16(head, udp + CHECKSUM);
    let pseudo = place(headers).pseudo_header(head, length);
    match frame.offload.checksum {
        Checksum::Partial { start, offset } => {
            usize::from(start) == udp && usize::from(offset) == CHECKSUM && field == pseudo.fold()
        }
        // Only copied bytes are checked, because the guest may change the rest.
        Checksum::Complete => field != 0 && head.len() == frame.len && pseudo.bytes(&head[udp..]).fold() == u16::MAX,
        Checksum::Valid => false,
    }
}

/// Offsets of the headers of a datagram, which take `headers` bytes in total.
const fn place(headers: usize) -> Place {
    Place {
        transport: Transport::Udp,
        ip: IP,
        l4: headers - UdpHeader::LEN,
    }
}

/// True if two datagrams of the same IP version have the same addresses and ports.
fn is_same_flow(a: &[u8], b: &[u8]) -> bool {
    if a[12] != b[12] {
        return false;
    }
    let range = if a[12] == 8 {
        IP + 12..IPV4_HEADERS - 4
    } else {
        IP + 8..IPV6_HEADERS - 4
    };
    a[range.clone()] == b[range]
}

/// True if the headers of two datagrams of a flow are equal except for lengths, identification and checksums.
fn has_same_headers(a: &[u8], b: &[u8], headers: usize) -> bool {
    if headers == IPV4_HEADERS {
        a[..IP + 2] == b[..IP + 2] && a[IP + 6..IP + 10] == b[IP + 6..IP + 10]
    } else {
        a[..IP + 4] == b[..IP + 4] && a[IP + 6..IP + 8] == b[IP + 6..IP + 8]
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
