//! Compares every possible small ring with a model. A walk along a chain never loops, never leaves its table and counts
//! correctly. Indices are correct at every position of their 16-bit range.
//!
//! The model has no limit on visits. It remembers the descriptors that it has seen.

use super::tests::PLAIN;
use super::*;
use crate::virtio::testing::{Buffer, DriverRing, INDIRECT, NEXT, TestMemory, WRITE};

const MEMORY: usize = 0x4000;
/// Descriptors of a ring. Miri interprets a smaller model, which ends within minutes.
const DESCRIPTORS: u16 = if cfg!(miri) { 2 } else { 4 };
/// First index of a walk around the circle of the index.
const FIRST: u16 = if cfg!(miri) { 0xfff0 } else { 0 };
/// Length of every buffer that is not empty.
const LEN: u32 = 8;

/// The relevant contents of a descriptor.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Buffer {
        len: u32,
        inside: bool,
        write: bool,
        next: Option<u16>,
    },
    /// An entry that leads to the second table, which has this many bytes and these additional flags.
    Table { bytes: u32, flags: u16 },
}

/// All possible entries of a table of `size`, with every `next` inside the table and one `next` beyond it.
fn entries(size: u16) -> Vec<Entry> {
    let mut all = Vec::new();
    for next in (0..=size).map(Some).chain([None]) {
        for write in [false, true] {
            for (len, inside) in [(0, true), (LEN, true), (LEN, false)] {
                // If the buffer is outside memory, the next descriptor does not matter.
                if inside || next.is_none() {
                    all.push(Entry::Buffer {
                        len,
                        inside,
                        write,
                        next,
                    });
                }
            }
        }
    }
    all
}

fn tables() -> Vec<Entry> {
    let lengths = [(16, 0), (32, 0), (0, 0), (8, 0), (32, NEXT), (32, WRITE)];
    lengths.map(|(bytes, flags)| Entry::Table { bytes, flags }).into()
}

struct Bench {
    memory: TestMemory,
    ring: Ring,
    second: u64,
    segments: Segments,
}

/// Number of readable and of writable buffers, and the bytes of both together.
type Walked = (usize, usize, usize);

impl Bench {
    fn new(size: u16) -> Self {
        let mut memory = TestMemory::new(MEMORY);
        let driver = DriverRing::new(&mut memory, size);
        let second = memory.take(64, 16);
        Self {
            ring: Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap(),
            second,
            memory,
            segments: Segments::default(),
        }
    }

    /// Address of the buffer with number `place`. Each buffer has its own address.
    fn address(place: usize, inside: bool) -> u64 {
        let start = if inside { 0x100 } else { MEMORY as u64 };
        start + 16 * place as u64
    }

    fn write(&self, table: u64, first_place: usize, entries: &[Entry]) {
        let mut bytes = Vec::with_capacity(16 * entries.len());
        for (i, entry) in entries.iter().enumerate() {
            let (address, len, flags, next) = match *entry {
                Entry::Buffer {
                    len,
                    inside,
                    write,
                    next,
                } => {
                    let flags = if write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
                    (Self::address(first_place + i, inside), len, flags, next.unwrap_or(0))
                }
                Entry::Table { bytes, flags } => (self.second, bytes, INDIRECT | flags, 0),
            };
            bytes.extend(address.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        self.memory.write(table, &bytes);
    }

    /// Walks from `head` and compares the result with the model. `second` contains the entries of the second table.
    fn check(&mut self, first: &[Entry], second: &[Entry], head: u16) {
        self.segments.clear();
        self.ring.forget_visited();
        let walked = self.ring.walk(head, &mut self.segments);
        let expected = model(first, second, head);
        let case = || format!("{first:?} {second:?} from {head}");
        assert!(self.ring.visited() <= first.len() + second.len(), "{}", case());
        let Some((buffers, expected)) = expected else {
            assert!(walked.is_err(), "{}: {walked:?}", case());
            assert!(self.segments.is_empty(), "{}", case());
            return;
        };
        let chain = walked.unwrap_or_else(|error| panic!("{}: {error}", case()));
        assert_eq!((chain.readable, chain.writable, chain.len), expected, "{}", case());
        let raw = self.segments.raw(chain.segments());
        assert_eq!(raw.len(), buffers.len(), "{}", case());
        for (buffer, place) in raw.iter().zip(buffers) {
            let host = self.memory.map.range(Self::address(place, true), LEN.into()).unwrap();
            assert_eq!(
                (buffer.iov_base.cast(), buffer.iov_len),
                (host, LEN as usize),
                "{}",
                case()
            );
        }
    }
}

/// Expected result of a walk from `head`: the positions of the buffers and their sums. `None` for an error.
fn model(first: &[Entry], second: &[Entry], head: u16) -> Option<(Vec<usize>, Walked)> {
    let (mut table, mut first_place, mut is_second) = (first, 0, false);
    let (mut index, mut seen) = (usize::from(head), Vec::new());
    let (mut buffers, mut sums) = (Vec::new(), (0, 0, 0));
    loop {
        let entry = *table.get(index)?;
        if seen.contains(&(is_second, index)) {
            return None;
        }
        seen.push((is_second, index));
        match entry {
            Entry::Table { bytes, flags } => {
                let is_whole = bytes != 0 && bytes % 16 == 0;
                if is_second || !is_whole || flags & NEXT != 0 {
                    return None;
                }
                table = &second[..second.len().min(bytes as usize / 16)];
                (first_place, is_second, index) = (first.len(), true, 0);
            }
            Entry::Buffer {
                len,
                inside,
                write,
                next,
            } => {
                if len > 0 && !inside {
                    return None;
                }
                let added = usize::from(len > 0);
                buffers.extend((0..added).map(|_| first_place + index));
                sums.2 += len as usize;
                if write {
                    sums.1 += added;
                } else if sums.1 == 0 {
                    sums.0 += added;
                } else {
                    return None;
                }
                let Some(next) = next else {
                    return Some((buffers, sums));
                };
                index = usize::from(next);
            }
        }
    }
}

/// Calls `check` with every table of `count` entries taken from `all`.
fn every_table(all: &[Entry], count: usize, check: &mut dyn FnMut(&[Entry])) {
    let mut digits = vec![0; count];
    let mut table = vec![all[0]; count];
    loop {
        check(&table);
        let Some(digit) = digits.iter().position(|&digit| digit + 1 < all.len()) else {
            return;
        };
        for (i, digit) in digits[..digit].iter_mut().enumerate() {
            *digit = 0;
            table[i] = all[0];
        }
        digits[digit] += 1;
        table[digit] = all[digits[digit]];
    }
}

#[test]
fn every_chain_of_four_descriptors_is_walked_as_the_model_says() {
    let mut bench = Bench::new(DESCRIPTORS);
    let all = entries(DESCRIPTORS);
    let count = usize::from(DESCRIPTORS);
    let table = bench.ring.layout().descriptors;
    every_table(&all, count, &mut |entries| {
        bench.write(table, 0, entries);
        // Another head is equivalent to another order of the same entries, which the loop also covers.
        bench.check(entries, &[], 0);
    });
    for head in [DESCRIPTORS, DESCRIPTORS + 1, u16::MAX] {
        bench.check(&vec![all[0]; count], &[], head);
    }
}

#[test]
fn every_indirect_table_is_walked_as_the_model_says() {
    let mut bench = Bench::new(2);
    let table = bench.ring.layout().descriptors;
    let (mut first, mut second) = (entries(2), entries(2));
    first.extend(tables());
    second.extend(tables());
    if cfg!(miri) {
        // Every kind of entry, in fewer combinations.
        (first, second) = [first, second].map(|all| all.into_iter().step_by(4).collect()).into();
    }
    let at = bench.second;
    every_table(&second, 2, &mut |second| {
        bench.write(at, 2, second);
        every_table(&first, 2, &mut |first| {
            bench.write(table, 0, first);
            bench.check(first, second, 0);
        });
    });
}

/// All indices or, for Miri, those around `start` and the ends of the range.
fn indices(start: u16) -> Vec<u16> {
    if !cfg!(miri) {
        return (0..=u16::MAX).collect();
    }
    let near = |at: u16| (0..6).map(move |n: u16| at.wrapping_add(n).wrapping_sub(3));
    [start, 0, 0x8000].into_iter().flat_map(near).collect()
}

#[test]
fn at_every_index_the_ring_takes_what_is_posted_and_no_more() {
    for size in [1u16, 2, 4] {
        let bench = Bench::new(size);
        let layout = bench.ring.layout();
        for start in [0, 1, 2, 3, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff] {
            bench.memory.write(layout.used + 2, &u16::to_le_bytes(start));
            let layout = RingLayout {
                next_avail: start,
                ..layout
            };
            let mut ring = Ring::new(Arc::clone(&bench.memory.map), layout, PLAIN).unwrap();
            for idx in indices(start) {
                bench.memory.write(layout.available + 2, &idx.to_le_bytes());
                let posted = idx.wrapping_sub(start);
                let expected = if posted <= size {
                    Ok(posted)
                } else {
                    Err(RingError::AvailIndex(posted, size))
                };
                assert_eq!(ring.available(), expected, "{idx} after {start} in a ring of {size}");
            }
        }
    }
}

#[test]
fn used_elements_go_round_the_circle_of_the_index() {
    let mut memory = TestMemory::new(MEMORY);
    let mut driver = DriverRing::new(&mut memory, 4);
    driver.start_at(&memory, FIRST);
    let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
    for n in u32::from(FIRST)..=u32::from(u16::MAX) + 8 {
        let head = u16::try_from(n % 4).unwrap();
        ring.push_used(head, n);
        assert!(driver.take_used(&memory).is_empty(), "visible before it is published");
        ring.publish();
        assert_eq!(driver.take_used(&memory), [(head, n)]);
    }
}

#[test]
fn taken_chains_go_round_the_circle_of_the_index() {
    let mut memory = TestMemory::new(MEMORY);
    let mut driver = DriverRing::new(&mut memory, 4);
    driver.start_at(&memory, FIRST);
    let mut ring = Ring::new(Arc::clone(&memory.map), driver.layout, PLAIN).unwrap();
    let buffer = Buffer {
        address: memory.take(u64::from(LEN), 1),
        len: LEN,
        writable: false,
    };
    let mut segments = Segments::with_capacity(1);
    for n in u32::from(FIRST)..=u32::from(u16::MAX) + 8 {
        let head = driver.post(&memory, &[buffer]);
        let chain = ring.pop(&mut segments).unwrap().unwrap();
        assert_eq!((chain.head, u32::from(chain.position)), (head, n & 0xffff));
        assert_eq!(ring.pop(&mut segments), Ok(None), "only one chain is posted");
        segments.clear();
    }
}
