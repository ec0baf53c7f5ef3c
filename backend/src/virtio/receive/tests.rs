use super::*;
use crate::counters::{Count, DropReason};
use crate::frame::{Checksum, Segmentation};
use crate::virtio::features::LOG_ALL;
use crate::virtio::ring::MAX_SEGMENTS;
use crate::virtio::testing::{Buffer, DriverRing, TestMemory};
use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_GUEST_CSUM;

mod hostile;
mod steps;

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const MERGE: u64 = VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF;
const CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;

struct Guest {
    memory: TestMemory,
    driver: DriverRing,
    receive: Receive,
    counters: Arc<Counters>,
    /// The buffers of each posted chain, with the chain's head.
    posted: Vec<(u16, Vec<Buffer>)>,
}

impl Guest {
    fn new(features: u64) -> Self {
        let mut memory = TestMemory::new(0x800_0000);
        let driver = DriverRing::new(&mut memory, 256);
        let counters = Arc::new(Counters::default());
        let mut receive = Receive::new(Arc::clone(&counters));
        let features = Features(features);
        receive.set_features(features);
        receive.start(Ring::new(Arc::clone(&memory.map), driver.layout, features).unwrap());
        Self {
            memory,
            driver,
            receive,
            counters,
            posted: Vec::new(),
        }
    }

    /// Posts a chain of writable buffers with these lengths.
    fn post(&mut self, lengths: &[u32]) -> u16 {
        let buffers: Vec<_> = lengths
            .iter()
            .map(|&len| Buffer {
                address: self.memory.take(len.into(), 8),
                len,
                writable: true,
            })
            .collect();
        let head = self.driver.post(&self.memory, &buffers);
        self.posted.retain(|(h, _)| *h != head);
        self.posted.push((head, buffers));
        head
    }

    fn used(&mut self) -> Vec<(u16, u32)> {
        self.receive.publish();
        self.driver.take_used(&self.memory)
    }

    fn bytes_of(&self, head: u16, len: u32) -> Vec<u8> {
        let (_, buffers) = self.posted.iter().find(|(h, _)| *h == head).unwrap();
        let mut bytes: Vec<u8> = buffers
            .iter()
            .flat_map(|b| self.memory.read(b.address, b.len as usize))
            .collect();
        bytes.truncate(len as usize);
        bytes
    }

    /// Frames that the guest has received, as pairs of virtio header and frame.
    fn frames(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let used = self.used();
        let mut frames = Vec::new();
        let mut rest = used.as_slice();
        while let Some((&(head, len), more)) = rest.split_first() {
            let mut bytes = self.bytes_of(head, len);
            let count = u16::from_le_bytes([bytes[10], bytes[11]]);
            let (merged, more) = more.split_at(usize::from(count) - 1);
            merged.iter().for_each(|&(h, l)| bytes.extend(self.bytes_of(h, l)));
            frames.push((bytes[..12].to_vec(), bytes[12..].to_vec()));
            rest = more;
        }
        frames
    }

    /// Fills the payload room as the kernel would.
    fn fill(slices: &mut [GuestSliceMut<'_>], mut bytes: &[u8]) {
        for slice in slices {
            let n = slice.copy_from(bytes);
            bytes = &bytes[n..];
        }
        assert!(bytes.is_empty(), "it fits");
    }

    /// Reserves one frame, fills it, and commits it with a header of ones.
    fn bulk(&mut self, payload: &[u8], room: usize) -> Vec<u8> {
        let layout = Layout {
            header: 54,
            payload: room,
            count: 1,
        };
        assert_eq!(self.receive.reserve(layout), Ok(1));
        Self::fill(self.receive.payload_all(), payload);
        self.receive.commit(&[payload.len()], &mut |_, _, head| {
            head.fill(1);
            Offload::NONE
        });
        [vec![1; 54], payload.to_vec()].concat()
    }
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + salt).to_le_bytes()[0]).collect()
}

fn room(slices: &[GuestSliceMut<'_>]) -> usize {
    slices.iter().map(GuestSliceMut::len).sum()
}

#[test]
fn a_small_frame_goes_into_one_buffer() {
    let mut guest = Guest::new(MERGE | CSUM);
    let head = guest.post(&[1536]);
    assert_eq!(guest.receive.send(Offload::VALID, &[&[7; 14], &[8; 50]]), Ok(()));
    assert_eq!(guest.driver.used_idx(&guest.memory), 0, "not before the turn ends");
    assert_eq!(guest.used(), [(head, 12 + 64)]);
    let bytes = guest.bytes_of(head, 76);
    assert_eq!(bytes[..12], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[12..], [vec![7; 14], vec![8; 50]].concat());
    assert_eq!(
        (
            guest.counters.count(Count::RxFrames),
            guest.counters.count(Count::RxBytes)
        ),
        (1, 64)
    );
}

#[test]
fn a_frame_spreads_over_merged_buffers_and_says_how_many() {
    let mut guest = Guest::new(MERGE | CSUM);
    for _ in 0..44 {
        guest.post(&[1536]);
    }
    let payload = pattern(60_000, 0);
    let frame = guest.bulk(&payload, 65_000);
    let frames = guest.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].0[10..12], [40, 0]);
    assert!(frames[0].1 == frame, "the same bytes");
    // The next frame uses the rest of the reservation.
    let small = guest.bulk(&pattern(1000, 1), 1000);
    assert_eq!(guest.frames()[0].1, small);
    assert_eq!(guest.receive.ring().unwrap().layout().next_avail, 43);
}

#[test]
fn headers_span_buffers_of_any_size() {
    for sizes in [
        vec![12, 14, 40, 60],
        vec![13, 13, 13, 13, 13, 13, 13, 13, 13, 13],
        vec![12, 100, 1],
    ] {
        let mut guest = Guest::new(MERGE | CSUM);
        guest.post(&sizes);
        for _ in 0..10 {
            guest.post(&[12]);
        }
        let frame = guest.bulk(&pattern(30, 3), 30);
        assert_eq!(guest.frames()[0].1, frame, "{sizes:?}");
    }
}

#[test]
fn a_header_spans_chains_of_the_smallest_size() {
    let mut guest = Guest::new(MERGE | CSUM);
    for _ in 0..20 {
        guest.post(&[12]);
    }
    let frame = guest.bulk(&pattern(100, 3), 100);
    let frames = guest.frames();
    assert_eq!(frames[0].0[10..12], [14, 0], "166 bytes in pieces of 12");
    assert_eq!(frames[0].1, frame);
}

#[test]
fn without_merging_each_frame_has_one_chain() {
    let mut guest = Guest::new(VERSION_1 | CSUM);
    let heads = [
        guest.post(&[12, 1514]),
        guest.post(&[12, 1514]),
        guest.post(&[12, 1514]),
    ];
    let layout = Layout {
        header: 54,
        payload: 4000,
        count: 4,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(3));
    assert_eq!(room(guest.receive.payload(1)), 1460, "all bytes in the chain");
    assert_eq!(room(guest.receive.payload_all()), 3 * 1460);
    Guest::fill(guest.receive.payload(0), &pattern(1460, 0));
    Guest::fill(guest.receive.payload(1), &pattern(10, 1));
    guest.receive.commit(&[1460, 10], &mut |i, len, head| {
        head.fill(u8::try_from(i).unwrap());
        assert_eq!(len, [1460, 10][i]);
        Offload::NONE
    });
    assert_eq!(guest.used(), [(heads[0], 1526), (heads[1], 76)]);
    assert_eq!(
        guest.bytes_of(heads[1], 76)[..13],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    );
    assert_eq!(guest.bytes_of(heads[1], 76)[66..], pattern(10, 1));
}

#[test]
fn a_legacy_guest_has_a_short_header() {
    let mut guest = Guest::new(0);
    let head = guest.post(&[10, 1514]);
    assert_eq!(guest.receive.send(Offload::NONE, &[&[7; 60]]), Ok(()));
    assert_eq!(guest.used(), [(head, 70)]);
    assert_eq!(guest.bytes_of(head, 70), [vec![0; 10], vec![7; 60]].concat());
}

#[test]
fn giving_a_reservation_back_changes_nothing() {
    let mut guest = Guest::new(MERGE | CSUM);
    let heads: Vec<_> = (0..4).map(|_| guest.post(&[1536])).collect();
    let layout = Layout {
        header: 54,
        payload: 4000,
        count: 1,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(1));
    guest.receive.commit(&[], &mut |_, _, _| unreachable!());
    assert_eq!(guest.receive.reserve(layout), Ok(1));
    assert_eq!(guest.receive.send(Offload::NONE, &[&[7; 60]]), Ok(()));
    assert_eq!(guest.used(), [(heads[0], 72)]);
    assert_eq!(
        guest.receive.stop().unwrap().next_avail,
        1,
        "the others were never taken"
    );
    assert_eq!(guest.driver.take_used(&guest.memory), [(0u16, 0u32); 0]);
}

#[test]
fn room_for_payload_is_never_empty() {
    for (features, lengths) in [(MERGE, [62, 1]), (VERSION_1, [62, 63])] {
        let mut guest = Guest::new(features);
        guest.post(&lengths[..1]);
        let layout = Layout {
            header: 50,
            payload: 100,
            count: 1,
        };
        assert_eq!(guest.receive.reserve(layout), Err(NoRoom));
        guest.post(&lengths[1..]);
        if features == VERSION_1 {
            assert_eq!(guest.receive.reserve(layout), Ok(1));
            assert_eq!(room(guest.receive.payload_all()), 1);
        }
    }
}

#[test]
fn later_frames_of_a_reservation_are_whole_and_the_first_takes_what_there_is() {
    let mut guest = Guest::new(MERGE | CSUM);
    for _ in 0..5 {
        guest.post(&[1000]);
    }
    let layout = |payload, count| Layout {
        header: 50,
        payload,
        count,
    };
    assert_eq!(guest.receive.reserve(layout(1900, 9)), Ok(2));
    assert_eq!(room(guest.receive.payload(0)), 1900);
    assert_eq!(guest.receive.reserve(layout(60_000, 2)), Ok(1));
    assert_eq!(room(guest.receive.payload(0)), 5000 - 62);
}

#[test]
fn short_frames_leave_their_chains_to_the_next_reservation() {
    let mut guest = Guest::new(MERGE | CSUM);
    let heads: Vec<_> = (0..6).map(|_| guest.post(&[1000])).collect();
    let layout = Layout {
        header: 50,
        payload: 1900,
        count: 3,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(3));
    guest.receive.commit(&[100, 1900], &mut |_, _, _| Offload::NONE);
    assert_eq!(guest.used(), [(heads[0], 162), (heads[2], 1000), (heads[3], 962)]);
    assert_eq!(guest.receive.send(Offload::NONE, &[&[7; 60]]), Ok(()));
    assert_eq!(guest.used(), [(heads[1], 72)], "the skipped chain");
    assert_eq!(guest.receive.stop().unwrap().next_avail, 4);
}

#[test]
fn a_chain_passed_over_goes_back_empty_when_the_ring_stops() {
    let mut guest = Guest::new(MERGE | CSUM);
    let heads: Vec<_> = (0..6).map(|_| guest.post(&[1000])).collect();
    let layout = Layout {
        header: 50,
        payload: 1900,
        count: 2,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(2));
    guest.receive.commit(&[100, 100], &mut |_, _, _| Offload::NONE);
    let stopped = guest.receive.stop().unwrap();
    let used = guest.driver.take_used(&guest.memory);
    assert_eq!(used, [(heads[0], 162), (heads[2], 162), (heads[1], 0)]);
    assert_eq!(stopped.next_avail, 3, "as many as were returned");
}

#[test]
fn no_room_is_remembered() {
    let mut guest = Guest::new(MERGE | CSUM);
    assert!(!guest.receive.is_starved());
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Err(NoRoom));
    assert!(guest.receive.is_starved());
    guest.receive.forget_starved();
    guest.post(&[40]);
    assert_eq!(
        guest.receive.send(Offload::NONE, &[&[0; 60]]),
        Err(NoRoom),
        "not all of it"
    );
    assert!(guest.receive.is_starved());
    guest.post(&[40]);
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Ok(()));
    assert_eq!(guest.used().len(), 2);
    let mut none = Receive::new(Arc::default());
    assert_eq!(none.send(Offload::NONE, &[&[0; 60]]), Err(NoRoom), "no ring");
}

#[test]
fn a_guest_without_checksum_offload_gets_them_complete() {
    let mut udp = vec![0; 14 + 20 + 8 + 30];
    udp[12] = 8;
    udp[14] = 0x45;
    udp[14 + 3] = 58;
    udp[14 + 9] = 17;
    udp[34 + 5] = 38;
    udp[42..].fill(3);
    let mut expected = udp.clone();
    crate::virtio::complete::complete(Offload::VALID, &mut expected, &[], 0);
    assert_ne!(udp, expected);
    let mut guest = Guest::new(MERGE);
    guest.post(&[1536]);
    guest.post(&[40]);
    guest.post(&[1536]);
    assert_eq!(guest.receive.send(Offload::VALID, &[&udp]), Ok(()));
    let layout = Layout {
        header: 42,
        payload: 30,
        count: 1,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(1));
    Guest::fill(guest.receive.payload(0), &[3; 30]);
    guest.receive.commit(&[30], &mut |_, _, head| {
        head.copy_from_slice(&udp[..42]);
        // A mode would leave such a checksum to a guest that computes it.
        let pseudo = crate::packet::checksum::Sum::default().word(17).word(38).fold();
        head[40..42].copy_from_slice(&pseudo.to_be_bytes());
        Offload {
            checksum: Checksum::Partial { start: 34, offset: 6 },
            segmentation: Segmentation::None,
        }
    });
    for (header, frame) in guest.frames() {
        assert_eq!(header[0], 0, "nothing is left to the guest");
        assert_eq!(frame, expected);
    }
}

#[test]
fn thousands_of_frames_of_changing_size_arrive_whole() {
    let mut guest = Guest::new(MERGE | CSUM);
    let mut posted = 0;
    for (round, size) in (0..3000).zip([700, 1000, 1300, 1600, 1900].into_iter().cycle()) {
        while posted < 200 {
            guest.post(&[size]);
            posted += 1;
        }
        let payload = pattern(1 + (round * 37) % 9000, round);
        let frame = guest.bulk(&payload, payload.len() + (round * 13) % 5000);
        let frames = guest.frames();
        assert!(frames.len() == 1 && frames[0].1 == frame, "round {round}");
        posted -= usize::from(frames[0].0[10]);
        assert!(guest.receive.segments.len() < 5000, "the list is swept");
    }
}

#[test]
fn written_pages_are_logged_and_others_are_not() {
    use crate::virtio::testing::DirtyLog;
    let mut guest = Guest::new(MERGE | CSUM | LOG_ALL);
    let log = DirtyLog::attach(&guest.memory);
    // There are three buffers, each on its own pages.
    let pages: Vec<u64> = (0..3).map(|_| guest.memory.take(0x2000, 0x1000)).collect();
    for &address in &pages {
        let buffer = Buffer {
            address,
            len: 0x1000,
            writable: true,
        };
        guest.driver.post(&guest.memory, &[buffer]);
    }
    // The fake driver also writes through the logged memory.
    log.take();
    guest.bulk(&pattern(5000, 0), 12_000);
    guest.receive.publish();
    let used_page = guest.driver.layout.used / 0x1000;
    let mut expected = vec![used_page, pages[0] / 0x1000, pages[1] / 0x1000];
    expected.sort_unstable();
    assert_eq!(log.take(), expected);
    guest.receive.set_features(Features(MERGE | CSUM));
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Ok(()));
    guest.receive.publish();
    assert_eq!(log.take(), [0u64; 0], "LOG_ALL is off again");
}
