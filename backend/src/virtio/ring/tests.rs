use super::*;
use crate::virtio::testing::{Buffer, DriverRing, INDIRECT, NEXT, TestMemory};
use proptest::prelude::*;

pub(super) const PLAIN: Features = Features(1 << 32 | 1 << VIRTIO_RING_F_INDIRECT_DESC);
const EVENTS: Features = Features(PLAIN.0 | 1 << VIRTIO_RING_F_EVENT_IDX);
const MEMORY: usize = 0x10_0000;

struct Pair {
    memory: TestMemory,
    driver: DriverRing,
    ring: Ring,
    segments: Segments,
}

impl Pair {
    fn new(size: u16, features: Features) -> Self {
        Self::starting_at(size, features, 0)
    }

    fn starting_at(size: u16, features: Features, index: u16) -> Self {
        let mut memory = TestMemory::new(MEMORY);
        let mut driver = DriverRing::new(&mut memory, size);
        driver.start_at(&memory, index);
        Self {
            ring: Ring::new(Arc::clone(&memory.map), driver.layout, features).unwrap(),
            memory,
            driver,
            segments: Segments::default(),
        }
    }

    fn buffer(&mut self, len: u32, writable: bool) -> Buffer {
        Buffer {
            address: self.memory.take(len.into(), 16),
            len,
            writable,
        }
    }

    fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        self.ring.pop(&mut self.segments)
    }

    fn read_chain(&self, chain: &Chain) -> Vec<u8> {
        let mut bytes = vec![0; chain.len];
        crate::frame::copy_from_guest(self.segments.slices(chain.segments()), 0, &mut bytes);
        bytes
    }

    fn host(&self, address: u64) -> *mut u8 {
        self.memory.map.range(address, 1).unwrap()
    }
}

fn descriptor(address: u64, len: u32, writable: bool) -> Buffer {
    Buffer { address, len, writable }
}

#[test]
fn a_chain_is_translated_buffer_by_buffer() {
    let mut pair = Pair::new(8, PLAIN);
    let (a, b) = (pair.buffer(10, false), pair.buffer(20, true));
    let head = pair.driver.post(&pair.memory, &[a, b]);
    let chain = pair.pop().unwrap().unwrap();
    assert_eq!(
        (chain.head, chain.readable, chain.writable, chain.len),
        (head, 1, 1, 30)
    );
    let raw = pair.segments.raw(chain.segments());
    assert_eq!(raw[0].iov_base.cast(), pair.host(a.address));
    assert_eq!(raw[1].iov_base.cast(), pair.host(b.address));
    assert_eq!((raw[0].iov_len, raw[1].iov_len), (10, 20));
    assert_eq!(pair.pop(), Ok(None));
}

#[test]
fn an_indirect_chain_is_translated_too() {
    let mut pair = Pair::new(4, PLAIN);
    let buffers: Vec<_> = (0..19).map(|i| pair.buffer(100 + i, false)).collect();
    for (i, buffer) in (0u8..).zip(&buffers) {
        pair.memory.write(buffer.address, &vec![i; buffer.len as usize]);
    }
    pair.driver.post_indirect(&mut pair.memory, &buffers);
    let chain = pair.pop().unwrap().unwrap();
    let expected: Vec<u8> = (0u8..19).flat_map(|i| vec![i; 100 + usize::from(i)]).collect();
    assert_eq!(pair.read_chain(&chain), expected, "more buffers than the ring is long");
}

#[test]
fn an_indirect_table_at_an_odd_address_is_read_right() {
    let mut pair = Pair::new(4, PLAIN);
    let buffer = pair.buffer(33, false);
    let table = pair.memory.take(64, 16) + 3;
    DriverRing::write_descriptor(&pair.memory, table, 0, buffer, 0, 0);
    let whole = descriptor(table, 16, false);
    DriverRing::write_descriptor(&pair.memory, pair.driver.layout.descriptors, 0, whole, INDIRECT, 0);
    pair.driver.post_head(&pair.memory, 0);
    assert_eq!(pair.pop().unwrap().unwrap().len, 33);
}

#[test]
fn a_buffer_across_two_regions_becomes_two_parts() {
    let mut memory = TestMemory::with_regions(&[(0, 0x8000), (0x8000, 0x8000)]);
    let mut driver = DriverRing::new(&mut memory, 4);
    let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
    let bytes: Vec<u8> = (0..64).collect();
    memory.write(0x8000 - 24, &bytes);
    driver.post(&memory, &[descriptor(0x8000 - 24, 64, false)]);
    let mut segments = Segments::default();
    let chain = ring.pop(&mut segments).unwrap().unwrap();
    assert_eq!((chain.readable, chain.len), (2, 64));
    let mut out = [0; 64];
    crate::frame::copy_from_guest(segments.slices(chain.segments()), 0, &mut out);
    assert_eq!(out[..], bytes);
}

#[test]
fn indices_wrap_around_at_65536() {
    let mut pair = Pair::starting_at(4, EVENTS, 0xfffe);
    for i in 0..6u8 {
        let buffer = pair.buffer(16 + u32::from(i), false);
        let head = pair.driver.post(&pair.memory, &[buffer]);
        let chain = pair.pop().unwrap().unwrap();
        assert_eq!((chain.head, chain.len), (head, 16 + usize::from(i)));
        pair.ring.push_used(chain.head, i.into());
        pair.ring.publish();
        assert_eq!(pair.driver.take_used(&pair.memory), [(head, i.into())]);
    }
    assert_eq!(pair.ring.layout().next_avail, 4);
}

#[test]
fn the_guest_sees_a_burst_at_once() {
    let mut pair = Pair::new(8, PLAIN);
    for _ in 0..5 {
        let buffer = pair.buffer(16, true);
        pair.driver.post(&pair.memory, &[buffer]);
        let chain = pair.pop().unwrap().unwrap();
        pair.ring.push_used(chain.head, 9);
    }
    assert_eq!(pair.driver.used_idx(&pair.memory), 0);
    pair.ring.publish();
    assert_eq!(pair.driver.take_used(&pair.memory).len(), 5);
}

#[test]
fn a_ring_of_the_largest_size_works_to_its_end() {
    let mut memory = TestMemory::new(0x40_0000);
    let mut driver = DriverRing::new(&mut memory, MAX_RING_SIZE);
    let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
    let buffer = descriptor(memory.take(64, 16), 64, true);
    for _ in 0..MAX_RING_SIZE {
        driver.post(&memory, &[buffer]);
    }
    let mut segments = Segments::default();
    let mut heads = 0;
    while let Some(chain) = ring.pop(&mut segments).unwrap() {
        assert_eq!(chain.head, heads);
        ring.push_used(chain.head, 1);
        heads += 1;
    }
    ring.publish();
    assert_eq!(driver.take_used(&memory).len(), usize::from(MAX_RING_SIZE));
}

#[test]
fn with_event_idx_a_kick_is_asked_for_the_next_entry() {
    let mut pair = Pair::new(8, EVENTS);
    let buffer = pair.buffer(16, true);
    pair.driver.post(&pair.memory, &[buffer]);
    assert_eq!(pair.ring.enable_kicks(), Ok(true), "one was posted already");
    pair.pop().unwrap().unwrap();
    assert_eq!(pair.ring.enable_kicks(), Ok(false));
    assert_eq!(pair.driver.avail_event(&pair.memory), 1);
    pair.ring.disable_kicks();
    assert_eq!(
        pair.driver.used_flags(&pair.memory),
        0,
        "flags have no meaning with EVENT_IDX"
    );
}

#[test]
fn without_event_idx_kicks_are_switched_by_the_flag() {
    let mut pair = Pair::new(8, PLAIN);
    assert_eq!(pair.ring.enable_kicks(), Ok(false));
    assert_eq!(pair.driver.used_flags(&pair.memory), 0);
    pair.ring.disable_kicks();
    assert_eq!(pair.driver.used_flags(&pair.memory), 1);
}

#[test]
fn with_event_idx_a_call_comes_when_the_entry_asked_for_is_passed() {
    let mut pair = Pair::new(16, EVENTS);
    pair.ring.wants_call();
    pair.driver.set_used_event(&pair.memory, 3);
    let mut calls = Vec::new();
    for i in 0..6 {
        pair.ring.push_used(i, 0);
        pair.ring.publish();
        calls.push(pair.ring.wants_call());
    }
    assert_eq!(calls, [false, false, false, true, false, false]);
    assert!(!pair.ring.wants_call(), "nothing new");
}

#[test]
fn without_event_idx_the_flag_forbids_calls() {
    let mut pair = Pair::new(16, PLAIN);
    pair.ring.wants_call();
    pair.driver.set_avail_flags(&pair.memory, 1);
    pair.ring.push_used(0, 0);
    pair.ring.publish();
    assert!(!pair.ring.wants_call());
    pair.driver.set_avail_flags(&pair.memory, 0);
    pair.ring.push_used(1, 0);
    pair.ring.publish();
    assert!(pair.ring.wants_call());
}

#[test]
fn a_ring_that_lies_wrong_is_refused() {
    let mut memory = TestMemory::new(MEMORY);
    let good = DriverRing::new(&mut memory, 8).layout;
    let try_new = |layout| Ring::new(Arc::clone(&memory.map), layout, PLAIN).err();
    assert_eq!(try_new(good), None);
    for size in [0, 3, 12, 32769, 65535] {
        assert_eq!(try_new(RingLayout { size, ..good }), Some(RingError::Size(size)));
    }
    let odd = RingLayout {
        descriptors: good.descriptors + 8,
        ..good
    };
    assert_eq!(try_new(odd), Some(RingError::Misaligned(odd.descriptors)));
    let odd = RingLayout {
        used: good.used + 2,
        ..good
    };
    assert_eq!(try_new(odd), Some(RingError::Misaligned(odd.used)));
    for outside in [MEMORY as u64, MEMORY as u64 - 16, u64::MAX - 15] {
        let layout = RingLayout {
            descriptors: outside,
            ..good
        };
        assert_eq!(try_new(layout), Some(RingError::Unmapped(outside)));
    }
}

#[test]
fn an_available_index_far_ahead_is_an_error() {
    let mut pair = Pair::new(8, PLAIN);
    pair.driver.set_avail_idx(&pair.memory, 9);
    assert_eq!(pair.pop(), Err(RingError::AvailIndex(9, 8)));
    pair.driver.set_avail_idx(&pair.memory, 0xffff);
    assert_eq!(pair.pop(), Err(RingError::AvailIndex(0xffff, 8)), "it went back");
}

#[test]
fn a_head_outside_the_table_is_an_error() {
    let mut pair = Pair::new(8, PLAIN);
    pair.driver.post_head(&pair.memory, 8);
    assert_eq!(pair.pop(), Err(RingError::DescriptorIndex(8)));
}

#[test]
fn a_next_outside_the_table_is_an_error() {
    let mut pair = Pair::new(8, PLAIN);
    let buffer = pair.buffer(16, false);
    let table = pair.driver.layout.descriptors;
    DriverRing::write_descriptor(&pair.memory, table, 0, buffer, NEXT, 0x8000);
    pair.driver.post_head(&pair.memory, 0);
    assert_eq!(pair.pop(), Err(RingError::DescriptorIndex(0x8000)));
    assert!(pair.segments.is_empty(), "no buffer of the chain is kept");
}

#[test]
fn a_chain_that_loops_is_an_error() {
    for size in [1, 8, MAX_RING_SIZE] {
        let mut memory = TestMemory::new(MEMORY);
        let mut driver = DriverRing::new(&mut memory, size);
        let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
        // Empty buffers take no room in the list, so only the visit count ends the walk.
        for len in [0, 1] {
            let buffer = descriptor(0x10, len, false);
            DriverRing::write_descriptor(&memory, driver.layout.descriptors, 0, buffer, NEXT, 0);
            driver.post_head(&memory, 0);
            assert_eq!(ring.pop(&mut Segments::default()), Err(RingError::ChainTooLong));
            driver.set_avail_idx(&memory, 0);
        }
    }
}

#[test]
fn a_table_longer_than_any_chain_is_an_error() {
    let mut memory = TestMemory::new(0x20_0000);
    let driver = DriverRing::new(&mut memory, 8);
    let table = memory.take(16 * 65_536, 16);
    for (entries, expected) in [
        (65_535, Ok(16)),
        (65_536, Err(RingError::TableTooLong(65_536))),
        (0x0fff_ffff, Err(RingError::TableTooLong(0x0fff_ffff))),
    ] {
        let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
        let whole = descriptor(table, 16 * entries, false);
        DriverRing::write_descriptor(&memory, table, 0, descriptor(0x100, 16, false), 0, 0);
        DriverRing::write_descriptor(&memory, driver.layout.descriptors, 0, whole, INDIRECT, 0);
        memory.write(driver.layout.available, &[0, 0, 1, 0, 0, 0]);
        let popped = ring.pop(&mut Segments::default());
        assert_eq!(popped.map(|chain| chain.unwrap().len), expected, "{entries}");
    }
}

#[test]
fn a_chain_of_nothing_costs_no_more_than_a_chain_may() {
    let mut memory = TestMemory::new(0x20_0000);
    let mut driver = DriverRing::new(&mut memory, 8);
    let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
    let table = memory.take(16 * 65_535, 16);
    // The buffers are empty, and the last of them leads back to the first.
    for i in 0..=u16::MAX - 1 {
        DriverRing::write_descriptor(&memory, table, i, descriptor(0x100, 0, false), NEXT, (i + 1) % 65_535);
    }
    let whole = descriptor(table, 16 * 65_535, false);
    DriverRing::write_descriptor(&memory, driver.layout.descriptors, 0, whole, INDIRECT, 0);
    driver.post_head(&memory, 0);
    assert_eq!(ring.pop(&mut Segments::default()), Err(RingError::ChainTooLong));
    assert_eq!(ring.visited(), 1 + MAX_SEGMENTS);
    // The same number of descriptors in the ring, before the table, at most doubles the count.
    assert!(ring.visited() <= MAX_VISITS);
}

#[test]
fn empty_buffers_count_as_buffers() {
    let mut pair = Pair::new(4, PLAIN);
    let mut buffers = vec![descriptor(0x100, 0, false); MAX_SEGMENTS];
    buffers[MAX_SEGMENTS - 1].len = 60;
    pair.driver.post_indirect(&mut pair.memory, &buffers);
    let chain = pair.pop().unwrap().unwrap();
    assert_eq!((chain.readable, chain.len), (1, 60));
    buffers.insert(0, buffers[0]);
    pair.driver.post_indirect(&mut pair.memory, &buffers);
    assert_eq!(pair.pop(), Err(RingError::ChainTooLong));
}

#[test]
fn buffers_outside_memory_are_errors() {
    let end = MEMORY as u64;
    for (address, len, at) in [
        (end, 1, end),
        (end - 4, 5, end),
        (u64::MAX, 1, u64::MAX),
        (u64::MAX - 3, u32::MAX, u64::MAX - 3),
        (0x100, u32::MAX, end),
    ] {
        let mut pair = Pair::new(8, PLAIN);
        pair.driver.post(&pair.memory, &[descriptor(address, len, true)]);
        assert_eq!(pair.pop(), Err(RingError::OutsideMemory(at)), "{address:#x}+{len}");
    }
}

#[test]
fn a_readable_buffer_behind_a_writable_one_is_an_error() {
    let mut pair = Pair::new(8, PLAIN);
    let (a, b) = (pair.buffer(10, true), pair.buffer(20, false));
    pair.driver.post(&pair.memory, &[a, b]);
    assert_eq!(pair.pop(), Err(RingError::WrongOrder));
}

#[test]
fn malformed_indirect_tables_are_errors() {
    let mut outer = Pair::new(8, PLAIN);
    let table = outer.memory.take(64, 16);
    let whole = |len| descriptor(table, len, false);
    let inner = whole(16);
    DriverRing::write_descriptor(&outer.memory, table, 0, inner, INDIRECT, 0);
    let far = descriptor(MEMORY as u64 - 16, 32, false);
    for (buffer, flags, error) in [
        (whole(16), INDIRECT, RingError::Indirect),
        (whole(0), INDIRECT, RingError::Indirect),
        (whole(17), INDIRECT, RingError::Indirect),
        (whole(16), INDIRECT | NEXT, RingError::Indirect),
        (far, INDIRECT, RingError::OutsideMemory(far.address)),
    ] {
        DriverRing::write_descriptor(&outer.memory, outer.driver.layout.descriptors, 0, buffer, flags, 1);
        outer.driver.post_head(&outer.memory, 0);
        assert_eq!(outer.pop(), Err(error));
        outer.driver.set_avail_idx(&outer.memory, 0);
    }
}

#[test]
fn an_indirect_table_that_was_not_negotiated_is_an_error() {
    let mut pair = Pair::new(8, Features(1 << 32));
    let buffer = pair.buffer(10, false);
    pair.driver.post_indirect(&mut pair.memory, &[buffer]);
    assert_eq!(pair.pop(), Err(RingError::Indirect));
}

#[test]
fn more_buffers_than_one_system_call_takes_are_an_error() {
    let mut pair = Pair::new(4, PLAIN);
    let buffers = vec![descriptor(0x100, 1, false); MAX_SEGMENTS + 1];
    pair.driver.post_indirect(&mut pair.memory, &buffers[1..]);
    assert_eq!(pair.pop().unwrap().unwrap().readable, MAX_SEGMENTS);
    pair.segments.clear();
    pair.driver.post_indirect(&mut pair.memory, &buffers);
    assert_eq!(pair.pop(), Err(RingError::ChainTooLong));
}

#[test]
fn an_interrupt_is_not_lost_when_a_ring_is_taken_up_again() {
    for features in [PLAIN, EVENTS] {
        let mut pair = Pair::new(8, features);
        for head in 0..3 {
            pair.ring.push_used(head, 0);
            pair.ring.publish();
        }
        // The guest waits for the first entry, whose interrupt was never sent.
        pair.driver.set_used_event(&pair.memory, 0);
        let mut again = Ring::new(Arc::clone(&pair.memory.map), pair.ring.layout(), features).unwrap();
        assert!(again.wants_call());
        assert!(!again.wants_call(), "once is enough");
        again.push_used(3, 0);
        again.publish();
        assert_eq!(pair.driver.take_used(&pair.memory), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    }
}

/// Does everything that a device may do with a ring, and returns the number of chains.
fn exercise(ring: &mut Ring, memory: &TestMemory) -> Result<usize, RingError> {
    let mut segments = Segments::default();
    let mut chains = 0;
    // This is as many as a worker takes in a few turns.
    for _ in 0..256 {
        ring.forget_visited();
        let popped = ring.pop(&mut segments);
        assert!(ring.visited() <= MAX_VISITS);
        let Some(chain) = popped? else { break };
        assert!(chain.readable + chain.writable <= MAX_SEGMENTS);
        for buffer in segments.raw(chain.segments()) {
            let base = memory.map.range(0, 1).unwrap().addr();
            let at = buffer.iov_base.addr();
            assert!(
                at >= base && at + buffer.iov_len <= base + MEMORY,
                "inside guest memory"
            );
        }
        ring.push_used(chain.head, 1);
        segments.clear();
        chains += 1;
    }
    ring.publish();
    ring.wants_call();
    ring.enable_kicks()?;
    Ok(chains)
}

/// A descriptor that is often almost valid.
fn any_descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![0..MEMORY as u64, any::<u64>(), Just(0x800u64)];
    let len = prop_oneof![0..2048u32, any::<u32>(), (0..8u32).prop_map(|n| n * 16)];
    (address, len, 0..8u16, prop_oneof![0..16u16, any::<u16>()])
}

proptest! {
    #[test]
    fn whatever_stands_in_the_ring_the_device_stays_inside_memory(
        descriptors in prop::collection::vec(any_descriptor(), 16),
        indirect in prop::collection::vec(any_descriptor(), 16),
        entries in prop::collection::vec(prop_oneof![0..16u16, any::<u16>()], 16),
        avail_idx in prop_oneof![0..17u16, any::<u16>()],
        events in any::<bool>(),
    ) {
        let mut pair = Pair::new(16, if events { EVENTS } else { PLAIN });
        let table = pair.driver.layout.descriptors;
        for (base, list) in [(table, &descriptors), (0x800, &indirect)] {
            for (i, &(address, len, flags, next)) in (0u16..).zip(list) {
                let buffer = descriptor(address, len, false);
                DriverRing::write_descriptor(&pair.memory, base, i, buffer, flags, next);
            }
        }
        for (i, entry) in (0u64..).zip(&entries) {
            pair.memory.write(pair.driver.layout.available + 4 + 2 * i, &entry.to_le_bytes());
        }
        pair.driver.set_avail_idx(&pair.memory, avail_idx);
        let _ = exercise(&mut pair.ring, &pair.memory);
    }

    #[test]
    fn whole_rings_of_noise_are_survived(noise in prop::collection::vec(any::<u8>(), 0x1000)) {
        let mut memory = TestMemory::new(MEMORY);
        let layout = DriverRing::new(&mut memory, 64).layout;
        memory.write(0x1000, &noise);
        let mut ring = Ring::new(Arc::clone(&memory.map), layout, EVENTS).unwrap();
        let _ = exercise(&mut ring, &memory);
    }
}
