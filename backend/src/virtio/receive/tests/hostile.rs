//! Tests with rings and buffers that a well-behaved driver never posts.

use super::*;

#[test]
fn buffers_that_hold_no_frame_go_back_and_are_counted() {
    let mut guest = Guest::new(VERSION_1 | CSUM);
    let (small, good) = (guest.post(&[20]), guest.post(&[1526]));
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Ok(()));
    assert_eq!(guest.used(), [(small, 0), (good, 72)]);
    assert_eq!(guest.counters.dropped(DropReason::BufferTooSmall), 1);
    guest.post(&[100]);
    assert_eq!(
        guest.receive.send(Offload::NONE, &[&[0; 89]]),
        Ok(()),
        "waiting would not help"
    );
    assert_eq!(guest.counters.dropped(DropReason::BufferTooSmall), 2);
    assert_eq!(
        guest.receive.send(Offload::NONE, &[&[0; 88]]),
        Ok(()),
        "the buffer was kept"
    );
    assert_eq!(guest.used().len(), 1);
}

#[test]
fn chains_for_reading_in_the_receive_ring_go_back_and_are_counted() {
    let mut guest = Guest::new(MERGE | CSUM);
    let wrong = Buffer {
        address: 0x100,
        len: 2000,
        writable: false,
    };
    let wrong = guest.driver.post(&guest.memory, &[wrong]);
    let good = guest.post(&[1536]);
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Ok(()));
    assert_eq!(guest.used(), [(wrong, 0), (good, 72)]);
    assert_eq!(guest.counters.dropped(DropReason::BadChain), 1);
}

#[test]
fn a_malformed_ring_is_reported_and_nothing_more_is_taken() {
    let mut guest = Guest::new(MERGE | CSUM);
    guest.driver.post_head(&guest.memory, 256);
    assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Err(NoRoom));
    assert_eq!(guest.receive.take_broken(), Some(RingError::DescriptorIndex(256)));
}

#[test]
fn a_guest_that_merges_specks_cannot_make_us_gather_without_end() {
    let mut guest = Guest::new(MERGE | CSUM);
    for _ in 0..256 {
        guest.post(&[12]);
    }
    let layout = Layout {
        header: 54,
        payload: 65_000,
        count: 4,
    };
    assert_eq!(guest.receive.reserve(layout), Ok(1));
    assert_eq!(room(guest.receive.payload(0)), 256 * 12 - 66);
}

#[test]
fn no_reservation_needs_more_buffers_than_one_system_call_takes() {
    let mut guest = Guest::new(MERGE | CSUM);
    for _ in 0..2 {
        guest.post(&vec![16; 100]);
    }
    guest.driver = DriverRing::new(&mut guest.memory, 4096);
    let features = guest.receive.features;
    let ring = Ring::new(Arc::clone(&guest.memory.map), guest.driver.layout, features).unwrap();
    guest.receive.start(ring);
    for _ in 0..40 {
        guest.post(&vec![16; 100]);
    }
    let layout = Layout {
        header: 54,
        payload: 3000,
        count: 20,
    };
    let frames = guest.receive.reserve(layout).unwrap();
    assert!(guest.receive.payload_all().len() <= MAX_RESERVED_SEGMENTS);
    let lengths = vec![3000; frames];
    assert_eq!(room(guest.receive.payload_all()), lengths.iter().sum::<usize>());
    guest.receive.commit(&lengths, &mut |_, _, _| Offload::NONE);
    assert_eq!(guest.frames().len(), frames);
}

#[test]
fn a_turn_looks_at_so_many_descriptors_and_the_next_continues() {
    let mut guest = Guest::new(MERGE | 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC);
    let address = guest.memory.take(64, 16);
    let table = guest.memory.take(16 * MAX_SEGMENTS as u64, 16);
    let mut buffers = vec![
        Buffer {
            address,
            len: 0,
            writable: true
        };
        MAX_SEGMENTS
    ];
    // These buffers are too small for a frame, so each is returned.
    buffers[0].len = 4;
    for _ in 0..200 {
        guest.driver.post_table(&guest.memory, table, &buffers);
    }
    let mut turns = 0;
    let mut used = 0;
    while used < 200 {
        assert_eq!(guest.receive.send(Offload::NONE, &[&[0; 60]]), Err(NoRoom));
        let visited = guest.receive.ring().unwrap().visited();
        assert!(
            visited <= room::VISITS_PER_TURN + crate::virtio::ring::MAX_VISITS,
            "{visited}"
        );
        used += guest.used().len();
        turns += 1;
    }
    assert_eq!(
        turns,
        200usize.div_ceil(room::VISITS_PER_TURN.div_ceil(1 + MAX_SEGMENTS))
    );
    assert_eq!(guest.counters.dropped(DropReason::BufferTooSmall), 200);
}
