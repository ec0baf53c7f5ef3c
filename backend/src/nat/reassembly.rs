//! Reassembles the guest's IP fragments (RFC 791 3.2, RFC 8200 4.5) before any protocol handles them.
//!
//! The number of datagrams in progress is limited, and so is memory: each datagram has one buffer of at most 64 KiB,
//! kept for the next datagram. If all buffers are in use, the oldest datagram is dropped. Overlapping fragments are an
//! attack, not a mistake, so their datagram is dropped together with its later fragments (RFC 5722). A duplicate
//! fragment is harmless.

use crate::counters::{Counters, DropReason};
use crate::frame::GuestFrame;
use crate::packet::{EthernetHeader, FragmentInfo, Headers, Ipv4Header, Ipv6Header, Network};
use crate::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

/// Maximum datagrams in progress; at 64 KiB each, 4 MiB in total.
const MAX_DATAGRAMS: usize = 64;

/// Longest time for a datagram: Linux's net.ipv4.ipfrag_time. RFC 8200 allows 60 s, but for paths that are longer than
/// the one from the guest.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum bytes after the network header.
const MAX_PAYLOAD: usize = 65_535;

/// Maximum number of separate ranges of bytes that a datagram may have. Fragments in order form a single range. A
/// sender with 1280-byte packets causes at most 53 ranges.
const MAX_STRETCHES: usize = 64;

/// Identifies a datagram. In RFC 791 the key is addresses, protocol and identification. In RFC 8200 the protocol is not
/// part of the key, but may not differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: Option<u8>,
    ident: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Collecting,
    /// Fragments overlapped, so all later ones are dropped.
    Poisoned,
}

#[derive(Debug)]
struct Datagram {
    state: State,
    key: Key,
    since: Instant,
    /// Ethernet and network header, then the payload at its offset.
    bytes: Vec<u8>,
    /// Ranges of payload bytes that have arrived, sorted and separate from each other.
    have: Vec<(usize, usize)>,
    /// Length of the payload, once the last fragment has arrived.
    total: Option<usize>,
    /// Headers of the first fragment, once it has arrived.
    first: Option<Headers>,
}

/// Collects fragments into datagrams.
#[derive(Debug, Default)]
pub struct Reassembler {
    datagrams: Vec<Datagram>,
}

impl Reassembler {
    /// Adds a fragment. Once the datagram is complete, returns the whole frame, beginning with the Ethernet header, as
    /// if it had never been fragmented.
    pub fn on_fragment(
        &mut self,
        now: Instant,
        counters: &Counters,
        headers: &Headers,
        frame: &GuestFrame<'_>,
    ) -> Option<&[u8]> {
        self.on_timer(now, counters);
        let Some(piece) = Piece::of(headers, frame) else {
            counters.count_drop(DropReason::BadFragment);
            return None;
        };
        let index = self.find_or_start(piece.key, now, counters);
        let datagram = &mut self.datagrams[index];
        if !datagram.add(&piece, headers, frame) {
            counters.count_drop(DropReason::BadFragment);
            return None;
        }
        datagram.finish()
    }

    /// Drops datagrams that have been incomplete for too long.
    pub fn on_timer(&mut self, now: Instant, counters: &Counters) {
        for datagram in &mut self.datagrams {
            if datagram.state != State::Free && now.since(datagram.since) >= TIMEOUT {
                if datagram.state == State::Collecting {
                    counters.count_drop(DropReason::FragmentTimeout);
                }
                datagram.state = State::Free;
            }
        }
    }

    /// Time at which the oldest datagram in progress is dropped.
    pub fn deadline(&self) -> Option<Instant> {
        let in_use = self.datagrams.iter().filter(|d| d.state != State::Free);
        in_use.map(|d| d.since + TIMEOUT).min()
    }

    fn find_or_start(&mut self, key: Key, now: Instant, counters: &Counters) -> usize {
        let in_use = |d: &Datagram| d.state != State::Free;
        if let Some(found) = self.datagrams.iter().position(|d| in_use(d) && d.key == key) {
            return found;
        }
        let index = match self.datagrams.iter().position(|d| !in_use(d)) {
            Some(free) => free,
            None if self.datagrams.len() < MAX_DATAGRAMS => {
                self.datagrams.push(Datagram::new(key));
                self.datagrams.len() - 1
            }
            None => {
                counters.count_drop(DropReason::FragmentLimit);
                let ages = self.datagrams.iter().enumerate();
                ages.min_by_key(|(_, d)| d.since).map_or(0, |(oldest, _)| oldest)
            }
        };
        self.datagrams[index].start(key, now);
        index
    }
}

/// A fragment that was checked on its own.
struct Piece {
    key: Key,
    /// Number of bytes before the payload, in the frame and in the whole datagram.
    header_len: usize,
    whole_header_len: usize,
    start: usize,
    end: usize,
    more: bool,
}

impl Piece {
    fn of(headers: &Headers, frame: &GuestFrame<'_>) -> Option<Self> {
        let (src, dst) = headers.network.addresses()?;
        let (protocol, header_len, len) = headers.network.transport()?;
        let (info, key_protocol, whole_header_len) = match headers.network {
            Network::Ipv4(h) => (h.fragment?, Some(protocol), Ipv4Header::LEN),
            Network::Ipv6(h) => {
                let info = h.fragment?;
                check_fragment_header_is_last(frame.head, header_len, info)?;
                (info, None, Ipv6Header::LEN)
            }
            Network::Arp | Network::Other(_) => return None,
        };
        let start = usize::from(info.offset);
        let piece = Self {
            key: Key {
                src,
                dst,
                protocol: key_protocol,
                ident: info.ident,
            },
            header_len,
            whole_header_len: EthernetHeader::LEN + whole_header_len,
            start,
            end: start + len,
            more: info.more,
        };
        let limit = match src {
            IpAddr::V4(_) => MAX_PAYLOAD - Ipv4Header::LEN,
            IpAddr::V6(_) => MAX_PAYLOAD,
        };
        let fits = len > 0 && piece.end <= limit && (!piece.more || len.is_multiple_of(8));
        (fits && header_len + len <= frame.len).then_some(piece)
    }
}

/// Refuses extension headers between the fragment header and the transport header. No known sender uses them, and they
/// could only be parsed in the reassembled datagram.
fn check_fragment_header_is_last(head: &[u8], header_len: usize, info: FragmentInfo) -> Option<()> {
    let start = header_len.checked_sub(Ipv6Header::FRAGMENT_LEN)?;
    let fragment: &[u8; Ipv6Header::FRAGMENT_LEN] = head.get(start..)?.first_chunk()?;
    let field = info.offset | u16::from(info.more);
    // Two reserved bits are between offset and M.
    let found = u16::from_be_bytes([fragment[2], fragment[3]]) & !0b110;
    (fragment[4..] == info.ident.to_be_bytes() && found == field).then_some(())
}

impl Datagram {
    const fn new(key: Key) -> Self {
        Self {
            state: State::Free,
            key,
            since: Instant::from_nanos(0),
            bytes: Vec::new(),
            have: Vec::new(),
            total: None,
            first: None,
        }
    }

    fn start(&mut self, key: Key, now: Instant) {
        self.state = State::Collecting;
        self.key = key;
        self.since = now;
        self.bytes.clear();
        self.have.clear();
        self.total = None;
        self.first = None;
    }

    /// Adds a fragment; false if it was refused.
    fn add(&mut self, piece: &Piece, headers: &Headers, frame: &GuestFrame<'_>) -> bool {
        if self.state == State::Poisoned {
            return false;
        }
        if self.repeats(piece) {
            return true;
        }
        if !self.fits(piece) {
            self.state = State::Poisoned;
            return false;
        }
        let at = piece.whole_header_len;
        self.bytes.resize(self.bytes.len().max(at + piece.end), 0);
        frame.copy_to(piece.header_len, &mut self.bytes[at + piece.start..at + piece.end]);
        if !piece.more {
            self.total = Some(piece.end);
        }
        if piece.start == 0 {
            self.first = Some(*headers);
        }
        self.insert(piece.start, piece.end);
        true
    }

    /// True if the fragment contains nothing new. Its neighbours may have arrived in the meantime, so it is enough that
    /// it lies within one range and agrees about the end of the datagram. Its content does not matter, because the
    /// bytes that arrived first are kept.
    fn repeats(&self, piece: &Piece) -> bool {
        let within = |&(from, to): &(usize, usize)| from <= piece.start && piece.end <= to;
        let ends_alike = piece.more != (self.total == Some(piece.end));
        ends_alike && self.have.iter().any(within)
    }

    fn fits(&self, piece: &Piece) -> bool {
        let overlaps = |&(from, to): &(usize, usize)| piece.start < to && from < piece.end;
        let furthest = self.have.last().map_or(0, |&(_, to)| to);
        let end_agrees = match self.total {
            Some(total) => piece.more && piece.end <= total,
            None => piece.more || furthest <= piece.end,
        };
        end_agrees && self.have.len() < MAX_STRETCHES && !self.have.iter().any(overlaps)
    }

    /// Records that bytes `[start, end)` have arrived, and joins them with their neighbours.
    fn insert(&mut self, start: usize, end: usize) {
        let at = self.have.partition_point(|&(from, _)| from < start);
        self.have.insert(at, (start, end));
        if self.have.get(at + 1).is_some_and(|next| next.0 == end) {
            self.have[at].1 = self.have.remove(at + 1).1;
        }
        if at > 0 && self.have[at - 1].1 == start {
            self.have[at - 1].1 = self.have.remove(at).1;
        }
    }

    /// If no byte is missing, writes the headers, frees the slot and returns the frame.
    fn finish(&mut self) -> Option<&[u8]> {
        let total = self.total?;
        let first = self.first.as_ref()?;
        if self.have.as_slice() != [(0, total)] {
            return None;
        }
        first.ethernet.emit(&mut self.bytes);
        let network = &mut self.bytes[EthernetHeader::LEN..];
        match first.network {
            Network::Ipv4(h) => Ipv4Header {
                fragment: None,
                dont_fragment: false,
                header_len: Ipv4Header::LEN,
                payload_len: total,
                ..h
            }
            .emit(network),
            Network::Ipv6(h) => Ipv6Header {
                fragment: None,
                header_len: Ipv6Header::LEN,
                payload_len: total,
                ..h
            }
            .emit(network),
            Network::Arp | Network::Other(_) => return None,
        }
        self.state = State::Free;
        Some(&self.bytes)
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
