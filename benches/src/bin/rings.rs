//! What one frame costs in our ring code: no guest, no socket, a mode that does nothing.
//!
//!     cargo run --release -p hawser-benches --bin rings
//!
//! Prints nanoseconds per frame, the median of many rounds. The fake driver's own time is
//! not counted; its memory is warm, which a guest on another core would not leave it.

use hawser_backend::counters::Counters;
use hawser_backend::frame::{GuestSink, Layout, Offload};
use hawser_backend::virtio::features::Features;
use hawser_backend::virtio::receive::Receive;
use hawser_backend::virtio::ring::Ring;
use hawser_backend::virtio::testing::{Buffer, DriverRing, TestMemory};
use hawser_backend::virtio::transmit::Transmit;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// VERSION_1, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, GUEST_CSUM, CSUM.
const FEATURES: Features = Features(1 << 32 | 1 << 15 | 1 << 28 | 1 << 29 | 1 << 1 | 1);
const RING: u16 = 256;
const ROUNDS: usize = 2000;

fn main() {
    let large: Vec<u32> = [12, 66].into_iter().chain([4096; 16]).collect();
    report("transmit, 60 bytes, one buffer", &mut transmit(&[72], false));
    report("transmit, 1514 bytes, two buffers", &mut transmit(&[12, 1514], false));
    report("transmit, 64 KiB, 18 buffers, indirect", &mut transmit(&large, true));
    report("receive, 60 bytes copied", &mut receive(None));
    report("receive, 1460 bytes reserved", &mut receive(Some(1460)));
    report("receive, 64 KiB reserved, 43 buffers", &mut receive(Some(65_482)));
}

/// Runs rounds, each of which says how long it took and how many frames it moved.
fn report(what: &str, round: &mut dyn FnMut() -> (Duration, u32)) {
    let mut costs: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let (time, frames) = round();
            time.as_secs_f64() * 1e9 / f64::from(frames)
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    println!("{what:40} {:8.1} ns", costs[ROUNDS / 2]);
}

/// A driver, the memory it shares, and the ring in it.
fn pair() -> (TestMemory, DriverRing, Ring) {
    let mut memory = TestMemory::new(0x100_0000);
    let driver = DriverRing::new(&mut memory, RING);
    let ring = Ring::new(Arc::clone(&memory.map), driver.layout, FEATURES).expect("a good ring");
    (memory, driver, ring)
}

fn buffers(memory: &mut TestMemory, lengths: &[u32], writable: bool) -> Vec<Buffer> {
    let buffer = |&len: &u32| Buffer {
        address: memory.take(len.into(), 64),
        len,
        writable,
    };
    lengths.iter().map(buffer).collect()
}

/// Rounds of a full ring of frames, each in buffers of `lengths`.
fn transmit(lengths: &[u32], indirect: bool) -> impl FnMut() -> (Duration, u32) {
    let (mut memory, mut driver, ring) = pair();
    let mut transmit = Transmit::new(ring, FEATURES);
    let counters = Counters::default();
    let chain = buffers(&mut memory, lengths, false);
    let per_ring = if indirect { 1 } else { lengths.len() };
    let frames = u32::try_from(usize::from(RING) / per_ring).expect("a short ring");
    let table = memory.take(0x1000, 16);
    move || {
        for _ in 0..frames {
            if indirect {
                driver.post_table(&memory, table, &chain);
            } else {
                driver.post(&memory, &chain);
            }
        }
        let start = Instant::now();
        let mut taken = 0;
        while taken < frames {
            let burst = transmit.burst(
                &counters,
                |_| Ok(()),
                |burst| {
                    black_box(burst);
                },
            );
            taken += u32::try_from(burst.expect("good chains")).expect("a burst");
            black_box(transmit.ring().wants_call());
        }
        (start.elapsed(), taken)
    }
}

/// Rounds of frames into buffers as Linux posts them: copied, or reserved with so many
/// bytes of payload.
fn receive(payload: Option<usize>) -> impl FnMut() -> (Duration, u32) {
    const BUFFER: u32 = 1536;
    let (mut memory, mut driver, ring) = pair();
    let mut receive = Receive::new(Arc::new(Counters::default()));
    receive.set_features(FEATURES);
    receive.start(ring);
    let all: Vec<_> = (0..RING).map(|_| buffers(&mut memory, &[BUFFER], true)).collect();
    let mut posted = 0;
    move || {
        while posted < usize::from(RING) {
            driver.post(&memory, &all[posted]);
            posted += 1;
        }
        let mut frames = 0;
        let start = Instant::now();
        while one_frame(&mut receive, payload) {
            frames += 1;
        }
        black_box(receive.publish());
        let time = start.elapsed();
        posted -= driver.take_used(&memory).len();
        (time, frames)
    }
}

/// Gives the guest one whole frame; false if there was no room for it.
fn one_frame(receive: &mut Receive, payload: Option<usize>) -> bool {
    let Some(payload) = payload else {
        return receive.send(Offload::VALID, &[&[1; 14], &[2; 46]]).is_ok();
    };
    let layout = Layout {
        header: 54,
        payload,
        count: 1,
    };
    if receive.reserve(layout).is_err() {
        return false;
    }
    let room: usize = receive.payload_all().iter().map(|slice| slice.len()).sum();
    let whole = room == payload;
    let lengths = [payload];
    receive.commit(&lengths[..usize::from(whole)], &mut |_, _, head| {
        head.fill(3);
        Offload::VALID
    });
    whole
}
