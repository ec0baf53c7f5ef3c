use super::*;
use crate::frame::{Checksum, Segmentation};
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};
use std::cell::RefCell;
use std::sync::Arc;

const MODERN: Features = Features(!crate::virtio::features::LOG_ALL);

struct Guest {
    memory: TestMemory,
    driver: DriverRing,
    transmit: Transmit,
    counters: Counters,
}

/// The longest possible chain, with all buffers empty except the last, which has 60 bytes.
fn mostly_nothing(address: u64) -> Vec<Buffer> {
    let mut buffers = vec![
        Buffer {
            address,
            len: 0,
            writable: false
        };
        MAX_SEGMENTS
    ];
    buffers[MAX_SEGMENTS - 1].len = 72;
    buffers
}

/// A frame as a mode sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    head: Vec<u8>,
    bytes: Vec<u8>,
    offload: Offload,
}

impl Guest {
    fn new(size: u16, features: Features) -> Self {
        let mut memory = TestMemory::new(0x400_0000);
        let driver = DriverRing::new(&mut memory, size);
        let ring = Ring::new(Arc::clone(&memory.map), driver.layout, features).unwrap();
        Self {
            memory,
            driver,
            transmit: Transmit::new(ring, features),
            counters: Counters::default(),
        }
    }

    /// Posts `bytes` in buffers of these lengths. The last buffer takes the rest.
    fn post(&mut self, bytes: &[u8], cuts: &[usize]) -> u16 {
        let mut buffers = Vec::new();
        let mut rest = bytes;
        for &cut in cuts.iter().chain([&usize::MAX]) {
            let (part, more) = rest.split_at(cut.min(rest.len()));
            let len = u32::try_from(part.len()).unwrap();
            let address = self.memory.take(len.into(), 1);
            self.memory.write(address, part);
            buffers.push(Buffer {
                address,
                len,
                writable: false,
            });
            rest = more;
        }
        self.driver.post(&self.memory, &buffers)
    }

    fn burst(&mut self) -> (Result<usize, RingError>, Vec<Seen>) {
        self.burst_within(Budget::UNLIMITED)
    }

    fn burst_within(&mut self, budget: Budget) -> (Result<usize, RingError>, Vec<Seen>) {
        let mut seen = Vec::new();
        let admit = |head: &[u8], len, _| {
            if head.first() == Some(&0xbb) {
                Err(DropReason::SpoofedMac)
            } else {
                Ok(Head::parse(head, len))
            }
        };
        let taken = self.transmit.burst(
            &self.counters,
            budget,
            admit,
            |_, _| {},
            |burst| {
                seen.extend(burst.iter().map(|frame| {
                    let mut bytes = vec![0; frame.len];
                    assert_eq!(frame.copy_to(0, &mut bytes), frame.len, "as long as it says");
                    Seen {
                        head: frame.head.to_vec(),
                        bytes,
                        offload: frame.offload,
                    }
                }));
            },
        );
        (taken, seen)
    }
}

fn with_header(frame: &[u8]) -> Vec<u8> {
    [&[0; 12], frame].concat()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect()
}

#[test]
fn a_frame_is_shown_whole_however_it_is_cut() {
    for cuts in [
        vec![],
        vec![12],
        vec![5, 7],
        vec![12, 14, 20, 20],
        vec![40],
        vec![1; 30],
    ] {
        let mut guest = Guest::new(64, MODERN);
        let frame = pattern(2000);
        let head = guest.post(&with_header(&frame), &cuts);
        let (taken, seen) = guest.burst();
        assert_eq!(taken, Ok(1));
        assert_eq!(seen[0].head, frame[..HEAD_MAX], "{cuts:?}");
        assert_eq!(seen[0].bytes, frame, "{cuts:?}");
        assert_eq!(guest.driver.take_used(&guest.memory), [(head, 0)]);
    }
}

#[test]
fn the_whole_of_a_short_frame_is_its_head() {
    let mut guest = Guest::new(64, MODERN);
    guest.post(&with_header(&pattern(60)), &[]);
    let (_, seen) = guest.burst();
    assert_eq!(seen[0].head, seen[0].bytes);
    assert_eq!(guest.counters.count(Count::TxFrames), 1);
    assert_eq!(guest.counters.count(Count::TxBytes), 60);
}

#[test]
fn a_legacy_guest_has_a_short_header() {
    let mut guest = Guest::new(64, Features(0));
    guest.post(&[&[0; 10][..], &pattern(60)].concat(), &[10]);
    assert_eq!(guest.burst().1[0].bytes, pattern(60));
}

#[test]
fn a_segmentation_offload_reaches_the_mode() {
    let mut guest = Guest::new(64, MODERN);
    let mut frame = pattern(65_000);
    frame[12..14].copy_from_slice(&[8, 0]);
    let mut bytes = with_header(&frame);
    bytes[..10].copy_from_slice(&[1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0]);
    guest.post(&bytes, &[12 + 54]);
    let (_, seen) = guest.burst();
    let expected = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segmentation: Segmentation::Tcp4 { mss: 1460, ecn: false },
    };
    assert_eq!(seen[0].offload, expected);
    assert_eq!(seen[0].bytes, frame);
}

#[test]
fn what_is_no_frame_is_dropped_for_its_reason_and_given_back() {
    let mut guest = Guest::new(64, MODERN);
    let mut heads = Vec::new();
    for len in [0, 1, 11, 12] {
        heads.push(guest.post(&vec![0; len], &[]));
    }
    heads.push(guest.post(&vec![0; 12 + MAX_FRAME + 1], &[]));
    let mut bad = with_header(&pattern(60));
    bad[1] = 1;
    heads.push(guest.post(&bad, &[]));
    heads.push(guest.post(&with_header(&[0xbb; 60]), &[]));
    let writable = Buffer {
        address: 0x100,
        len: 100,
        writable: true,
    };
    heads.push(guest.driver.post(&guest.memory, &[writable]));
    heads.push(guest.post(&with_header(&[1; 60]), &[]));
    heads.push(guest.post(&vec![2; 12 + MAX_FRAME], &[]));
    // The header of the last frame is malformed too.
    let (taken, seen) = guest.burst();
    assert_eq!((taken, seen.len()), (Ok(10), 1));
    assert_eq!(seen[0].bytes, [1; 60]);
    let used: Vec<_> = guest.driver.take_used(&guest.memory).iter().map(|u| u.0).collect();
    assert_eq!(used, heads);
    for (reason, n) in [
        (DropReason::BadChain, 5),
        (DropReason::FrameTooLong, 1),
        (DropReason::BadOffload, 2),
        (DropReason::SpoofedMac, 1),
    ] {
        assert_eq!(guest.counters.dropped(reason), n, "{reason}");
    }
}

#[test]
fn bursts_have_a_bound_and_lose_nothing() {
    let mut guest = Guest::new(1024, MODERN);
    for i in 0..600u16 {
        let [high, low] = i.to_be_bytes();
        guest.post(&with_header(&[&[low, high][..], &[1; 58]].concat()), &[]);
    }
    let mut all = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let (taken, seen) = guest.burst();
        let taken = taken.unwrap();
        if taken == 0 {
            break;
        }
        sizes.push(taken);
        all.extend(seen.iter().map(|s| u16::from_be_bytes([s.bytes[1], s.bytes[0]])));
    }
    assert_eq!(sizes, [256, 256, 88]);
    let expected: Vec<u16> = (0..600).filter(|i| i & 0xff != 0xbb).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_burst_leaves_half_of_the_ring_to_the_guest() {
    for (size, burst) in [(256, 128), (64, 32), (2, 1), (1, 1)] {
        let mut guest = Guest::new(size, MODERN);
        for _ in 0..size {
            guest.post(&with_header(&[1; 60]), &[]);
        }
        assert_eq!(guest.burst().0, Ok(burst), "of a ring of {size}");
    }
}

#[test]
fn large_frames_end_a_burst_early() {
    let mut guest = Guest::new(256, MODERN);
    for _ in 0..80 {
        guest.post(&with_header(&pattern(60_000)), &[]);
    }
    assert_eq!(guest.burst().0, Ok(70), "4 MiB and the frame that reaches them");
    assert_eq!(guest.burst().0, Ok(10));
}

#[test]
fn long_chains_end_a_burst_early() {
    let mut guest = Guest::new(32768, MODERN);
    for _ in 0..10 {
        guest.post(&with_header(&pattern(3000)), &[1; 900]);
    }
    assert_eq!(guest.burst().0, Ok(3));
    assert_eq!(guest.burst().1.len(), 3);
}

#[test]
fn frames_before_a_malformed_chain_are_handled() {
    let mut guest = Guest::new(64, MODERN);
    let head = guest.post(&with_header(&[1; 60]), &[]);
    guest.driver.post_head(&guest.memory, 64);
    let (taken, seen) = guest.burst();
    assert_eq!(taken, Err(RingError::DescriptorIndex(64)));
    assert_eq!(seen.len(), 1);
    assert_eq!(guest.driver.take_used(&guest.memory), [(head, 0)]);
}

#[test]
fn a_burst_allocates_nothing_once_warm() {
    let mut guest = Guest::new(64, MODERN);
    let mut room = None;
    for _ in 0..20 {
        guest.post(&with_header(&pattern(100)), &[12]);
        assert_eq!(guest.burst().0, Ok(1));
        let now = (guest.transmit.frames.as_ptr().addr(), guest.transmit.frames.capacity());
        assert_eq!(*room.get_or_insert(now), now, "the same allocation every time");
    }
}

#[test]
fn chains_beyond_the_budget_stay_in_the_ring() {
    let mut guest = Guest::new(64, MODERN);
    for _ in 0..6 {
        guest.post(&with_header(&pattern(1000)), &[]);
    }
    let budget = |bytes, packets| Budget { bytes, packets };
    assert_eq!(guest.burst_within(budget(0, 9)).0, Ok(0));
    assert_eq!(guest.burst_within(budget(9000, 2)).0, Ok(2));
    // The last frame may exceed the remaining bytes.
    assert_eq!(guest.burst_within(budget(1013, 9)).0, Ok(2));
    assert_eq!(guest.burst().0, Ok(2));
}

#[test]
fn a_burst_ends_when_it_has_looked_at_enough_descriptors_whatever_is_in_them() {
    let mut guest = Guest::new(256, MODERN);
    let address = guest.memory.take(72, 16);
    let table = guest.memory.take(16 * MAX_SEGMENTS as u64, 16);
    for _ in 0..128 {
        guest.driver.post_table(&guest.memory, table, &mostly_nothing(address));
    }
    let mut taken = 0;
    while taken < 128 {
        let (burst, seen) = guest.burst();
        taken += burst.unwrap();
        assert_eq!(seen.len(), 2, "of 1,024 descriptors each");
        assert!(guest.transmit.ring().visited() <= VISIT_BUDGET + crate::virtio::ring::MAX_VISITS);
    }
}

#[test]
fn a_malformed_frame_is_reported_with_the_part_of_a_head_it_has() {
    let mut guest = Guest::new(16, MODERN);
    let frame = [vec![0; 12], vec![7; 60]].concat();
    guest.post(&frame[..12], &[]);
    guest.post(&[vec![0; 12], vec![7; MAX_FRAME + 1]].concat(), &[]);
    // This offload is not valid.
    guest.post(&[vec![1, 0x7f], vec![0; 10], vec![7; 60]].concat(), &[]);
    guest.post(&frame, &[]);
    let told = RefCell::new(Vec::new());
    let taken = guest.transmit.burst(
        &guest.counters,
        Budget::UNLIMITED,
        |head, _, _| {
            told.borrow_mut().push((head.to_vec(), Ok(())));
            Ok(Head::default())
        },
        |head, reason| told.borrow_mut().push((head.to_vec(), Err(reason))),
        |burst| assert_eq!(burst.len(), 1),
    );
    assert_eq!(taken, Ok(4));
    let expected = [
        (vec![], Err(DropReason::BadChain)),
        (vec![7; HEAD_MAX], Err(DropReason::FrameTooLong)),
        (vec![7; 60], Err(DropReason::BadOffload)),
        (vec![7; 60], Ok(())),
    ];
    assert_eq!(told.into_inner(), expected);
}
