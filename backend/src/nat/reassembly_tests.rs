use super::*;
use crate::frame::Offload;
use crate::nat::fragmenter::Fragmenter;
use crate::nat::link::Packet;
use crate::nat::test_support::{Surroundings, guest, host_seen, ip, parse, with_burst};
use crate::packet::protocol;
use proptest::prelude::*;

const BOTH: [&str; 2] = ["127.0.0.1", "::1"];

struct Bench {
    reassembler: Reassembler,
    counters: Counters,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            reassembler: Reassembler::default(),
            counters: Counters::default(),
            now: Instant::from_nanos(5),
        }
    }

    fn add(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let headers = parse(frame).0;
        with_burst(&[frame.to_vec()], |burst| {
            let whole = self
                .reassembler
                .on_fragment(self.now, &self.counters, &headers, &burst[0]);
            whole.map(<[u8]>::to_vec)
        })
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason)
    }
}

/// The fragments of a datagram whose payload is `body`.
fn fragments(like: &str, mtu: u16, ident: usize, body: &[u8]) -> Vec<Vec<u8>> {
    let mut around = Surroundings::new();
    around.link.mtu = mtu;
    let mut fragmenter = Fragmenter::default();
    let packet = Packet {
        src: guest(ip(like), 0).ip(),
        dst: host_seen(ip(like), 0).ip(),
        protocol: protocol::UDP,
        traffic_class: 0,
        header: &[1, 2, 3, 4, 5, 6, 7, 8],
        body,
    };
    for _ in 0..=ident {
        around.sink.take();
        fragmenter.send(&mut around.context(), &packet, Offload::NONE).unwrap();
    }
    around.sink.take().into_iter().map(|d| d.bytes).collect()
}

/// A synthetic fragment with the payload bytes `[start, end)`, all equal to `fill`.
fn piece(start: usize, end: usize, more: bool, fill: u8) -> Vec<u8> {
    let IpAddr::V4(src) = guest(ip("127.0.0.1"), 0).ip() else {
        unreachable!()
    };
    let mut frame = fragments("127.0.0.1", 1500, 0, &[0; 3000])[0].clone();
    frame.truncate(34);
    Ipv4Header {
        src,
        dst: src,
        protocol: protocol::UDP,
        ttl: 64,
        tos: 0,
        dont_fragment: false,
        fragment: Some(FragmentInfo {
            ident: 7,
            offset: start.try_into().unwrap(),
            more,
        }),
        header_len: 20,
        payload_len: end - start,
    }
    .emit(&mut frame[14..]);
    frame.resize(34 + end - start, fill);
    frame
}

fn payload(frame: &[u8]) -> &[u8] {
    parse(frame).1
}

fn fragment_info(frame: &[u8]) -> Option<FragmentInfo> {
    crate::nat::test_support::fragment_info(&parse(frame).0)
}

proptest! {
    #[test]
    fn fragments_in_any_order_and_repeated_make_the_same_datagram(
        v6 in any::<bool>(),
        mtu in 1280u16..4000,
        len in 4000usize..20_000,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let body: Vec<u8> = (0..len).map(|i| u8::try_from(i * 31 % 253).unwrap()).collect();
        let fragments = fragments(BOTH[usize::from(v6)], mtu, 0, &body);
        let last_needed = fragments.len();
        prop_assert!(last_needed > 1);
        // Some random fragments are sent, then the missing ones. The datagram is complete exactly once, at the last new
        // fragment.
        let mut seen = vec![false; fragments.len()];
        let mut bench = Bench::new();
        let mut whole = None;
        let picks = order.iter().map(|i| i.index(fragments.len())).chain(0..fragments.len());
        for pick in picks {
            if seen.iter().all(|s| *s) {
                break;
            }
            seen[pick] = true;
            let result = bench.add(&fragments[pick]);
            prop_assert_eq!(result.is_some(), seen.iter().all(|s| *s));
            whole = result;
        }
        let whole = whole.expect("all fragments were added");
        let want: Vec<u8> = (1..=8).chain(body).collect();
        prop_assert!(payload(&whole) == want.as_slice());
        prop_assert_eq!(fragment_info(&whole), None);
        prop_assert_eq!(bench.reassembler.deadline(), None);
        prop_assert_eq!(bench.dropped(DropReason::BadFragment), 0);
    }

    #[test]
    fn no_pieces_whatever_make_it_panic_or_grow(
        pieces in proptest::collection::vec((0usize..8190, 1usize..1500, any::<bool>()), 1..200)
    ) {
        let mut bench = Bench::new();
        for (unit, len, more) in pieces {
            let start = unit * 8;
            if start + len <= 65_535 - 20 {
                bench.add(&piece(start, start + len, more, 1));
            }
        }
        prop_assert!(bench.reassembler.datagrams.len() <= MAX_DATAGRAMS);
    }
}

#[test]
fn what_comes_out_is_a_frame_as_if_never_fragmented() {
    for like in BOTH {
        let body = vec![9; 3000];
        let mut bench = Bench::new();
        let whole = fragments(like, 1500, 0, &body)
            .iter()
            .fold(None, |_, fragment| bench.add(fragment))
            .unwrap();
        let (headers, rest) = parse(&whole);
        assert_eq!(rest.len(), 8 + body.len());
        assert_eq!(
            headers.network.addresses().unwrap(),
            (guest(ip(like), 0).ip(), host_seen(ip(like), 0).ip())
        );
        if let Network::Ipv4(h) = headers.network {
            assert!(!h.dont_fragment, "it may be fragmented again");
            assert_eq!(crate::packet::checksum::of(&whole[14..34]), 0);
        }
    }
}

#[test]
fn overlapping_fragments_drop_the_datagram_and_all_that_comes_of_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.add(&piece(0, 16, true, 1)), None);
    assert_eq!(bench.add(&piece(8, 24, true, 2)), None);
    assert_eq!(bench.dropped(DropReason::BadFragment), 1);
    assert_eq!(bench.add(&piece(16, 24, false, 1)), None);
    assert_eq!(bench.dropped(DropReason::BadFragment), 2);
    // After the timeout, the same identification may be used again.
    bench.now = bench.now + TIMEOUT;
    assert_eq!(bench.add(&piece(0, 16, true, 1)), None);
    let whole = bench.add(&piece(16, 24, false, 1)).unwrap();
    assert_eq!(payload(&whole), [1; 24]);
    assert_eq!(
        bench.dropped(DropReason::FragmentTimeout),
        0,
        "it was refused, not late"
    );
}

#[test]
fn fragments_that_disagree_about_the_end_are_refused() {
    for (first, second) in [
        (piece(16, 24, false, 1), piece(24, 32, true, 1)),
        (piece(16, 24, true, 1), piece(8, 16, false, 1)),
        (piece(16, 24, false, 1), piece(32, 40, false, 1)),
        (piece(16, 24, false, 1), piece(16, 24, true, 1)),
    ] {
        let mut bench = Bench::new();
        bench.add(&first);
        bench.add(&second);
        assert_eq!(bench.dropped(DropReason::BadFragment), 1);
    }
}

#[test]
fn fragments_that_make_no_sense_in_themselves_are_refused() {
    for frame in [
        piece(0, 9, true, 1),
        piece(65_528, 65_535, false, 1),
        piece(8, 8, false, 1),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.add(&frame), None);
        assert_eq!(bench.dropped(DropReason::BadFragment), 1);
        assert_eq!(bench.reassembler.deadline(), None, "no byte of it is kept");
    }
}

#[test]
fn a_datagram_that_stays_incomplete_is_counted_after_30_seconds() {
    let mut bench = Bench::new();
    let start = bench.now;
    bench.add(&piece(0, 8, true, 1));
    assert_eq!(bench.reassembler.deadline(), Some(start + TIMEOUT));
    bench.now = start + TIMEOUT;
    bench.reassembler.on_timer(bench.now, &bench.counters);
    assert_eq!(bench.dropped(DropReason::FragmentTimeout), 1);
    assert_eq!(bench.reassembler.deadline(), None);
    assert_eq!(bench.add(&piece(8, 16, false, 1)), None, "the rest comes too late");
}

#[test]
fn the_oldest_datagram_gives_way_when_there_are_too_many() {
    let mut bench = Bench::new();
    let body = vec![3; 2000];
    let datagrams: Vec<_> = (0..=MAX_DATAGRAMS)
        .map(|ident| fragments("::1", 1500, ident, &body))
        .collect();
    for fragments in &datagrams {
        bench.now = bench.now + Duration::from_millis(1);
        assert_eq!(bench.add(&fragments[0]), None);
    }
    assert_eq!(bench.dropped(DropReason::FragmentLimit), 1);
    assert_eq!(bench.reassembler.datagrams.len(), MAX_DATAGRAMS);
    for fragments in &datagrams[1..] {
        assert!(bench.add(&fragments[1]).is_some());
    }
    assert_eq!(bench.add(&datagrams[0][1]), None);
}

#[test]
fn an_atomic_fragment_is_a_datagram_by_itself() {
    let mut frame = fragments("::1", 1500, 0, &[5; 2000])[0].clone();
    // The offset is zero, and no fragments follow (RFC 6946).
    frame[14 + 42..14 + 44].fill(0);
    let mut bench = Bench::new();
    let whole = bench.add(&frame).unwrap();
    assert_eq!(payload(&whole), payload(&frame));
}

#[test]
fn extension_headers_behind_the_fragment_header_are_refused() {
    let mut frame = fragments("::1", 1500, 0, &[5; 2000])[0].clone();
    // The first eight payload bytes are an empty destination options header.
    frame[14 + 40] = 60;
    frame[14 + 48..14 + 56].copy_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
    let mut bench = Bench::new();
    assert_eq!(bench.add(&frame), None);
    assert_eq!(bench.dropped(DropReason::BadFragment), 1);
}
