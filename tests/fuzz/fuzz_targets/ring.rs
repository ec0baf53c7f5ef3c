//! Serves split rings with any content. The input is features, ring size and the bytes of descriptor tables, rings and
//! buffers. Frames passed to a mode are in guest memory and have the stated length, reserved room is also in guest
//! memory, and a written frame is published whole. There is no panic and no access outside guest memory. No turn visits
//! more descriptors than allowed; memory is large enough for tables longer than any chain.
#![no_main]

use hawser_backend::counters::Counters;
use hawser_backend::packet::Head;
use hawser_backend::frame::{GuestSink, Layout, Offload};
use hawser_backend::frame::Budget;
use hawser_backend::virtio::control::Control;
use hawser_backend::virtio::features::Features;
use hawser_backend::virtio::receive::Receive;
use hawser_backend::virtio::ring::{MAX_VISITS, Ring, RingLayout};
use hawser_backend::virtio::testing::{DriverRing, TestMemory};
use hawser_backend::virtio::transmit::Transmit;
use libfuzzer_sys::fuzz_target;
use std::ops::Range;
use std::sync::Arc;

const MEMORY: usize = 0x20_0000;
/// Number of bytes of guest memory that the input fills.
const FILLED: usize = 0x1_0000;
/// Number of descriptors that a burst may visit: its budget, plus one chain that exceeds it.
const BURST_VISITS: usize = 2048 + MAX_VISITS;
/// Number of descriptors that the receive side may visit in a turn.
const TURN_VISITS: usize = 32_768 + MAX_VISITS;
/// Number of descriptors that the control queue may visit in a turn.
const ORDER_VISITS: usize = 64 * MAX_VISITS;
/// Address at which the fake driver starts to allocate rings.
const NOISE: u64 = 0x1000;

struct Input<'a> {
    features: Features,
    memory: TestMemory,
    layout: RingLayout,
    /// Range of host addresses of guest memory.
    range: Range<usize>,
    picks: &'a [u8],
}

fuzz_target!(|data: &[u8]| {
    let Some((control, noise)) = data.split_first_chunk::<16>() else {
        return;
    };
    for (size, act) in [
        (1 << (control[0] % 9), transmit as fn(&Input)),
        (1 << (control[0] % 9), receive),
        (1 << (control[0] % 5), serve_control),
    ] {
        let mut memory = TestMemory::new(MEMORY);
        let layout = DriverRing::new(&mut memory, size).layout;
        let room = FILLED - NOISE as usize;
        memory.write(NOISE, &noise[..noise.len().min(room)]);
        let start = memory.map.range(0, 1).expect("mapped").addr();
        act(&Input {
            features: Features(u64::from_le_bytes(*control.last_chunk().expect("16 bytes"))),
            memory,
            layout: RingLayout {
                next_avail: u16::from(control[1]),
                ..layout
            },
            range: start..start + MEMORY,
            picks: &control[2..8],
        });
    }
});

impl Input<'_> {
    fn ring(&self) -> Ring {
        Ring::new(Arc::clone(&self.memory.map), self.layout, self.features).expect("it lies well")
    }
}

fn transmit(input: &Input) {
    let counters = Counters::default();
    let mut transmit = Transmit::new(input.ring(), input.features);
    for _ in 0..8 {
        let taken = transmit.burst(
            &counters,
            Budget::UNLIMITED,
            |head, len, _| Ok(Head::parse(head, len)),
            |_, _| {},
            |burst| {
                for frame in burst {
                    let mut bytes = vec![0; frame.len + 1];
                    assert_eq!(frame.copy_to(0, &mut bytes), frame.len);
                    assert_eq!(frame.head.len(), frame.len.min(hawser_backend::frame::HEAD_MAX));
                    let total: usize = frame.slices.iter().map(|s| s.len()).sum();
                    assert_eq!(total, frame.len);
                }
            },
        );
        assert!(transmit.ring().visited() <= BURST_VISITS);
        transmit.ring().wants_call();
        if !matches!(taken, Ok(1..)) || transmit.ring().enable_kicks() != Ok(true) {
            return;
        }
    }
}

fn receive(input: &Input) {
    let counters = Arc::new(Counters::default());
    let mut receive = Receive::new(Arc::clone(&counters));
    receive.set_features(input.features);
    receive.start(input.ring());
    for &pick in input.picks {
        let frame = [pick; 100];
        let _ = receive.send(Offload::VALID, &[&frame[..14], &frame[14..]]);
        let layout = Layout {
            header: 54,
            payload: usize::from(pick) * 16 + 1,
            count: 3,
        };
        if let Ok(frames) = receive.reserve(layout) {
            let mut lengths = Vec::new();
            for i in 0..frames {
                let mut room = 0;
                for slice in receive.payload(i) {
                    let at = slice.as_ptr().addr();
                    assert!(input.range.contains(&at) && at + slice.len() <= input.range.end);
                    room += slice.copy_from(&vec![pick; slice.len()]);
                }
                assert!((1..=layout.payload).contains(&room));
                lengths.push(room / usize::from(pick % 3 + 1));
            }
            receive.commit(&lengths, &mut |_, _, head| {
                head.fill(pick);
                Offload::VALID
            });
        }
        let visited = receive.ring().map_or(0, |ring| ring.visited());
        assert!(visited <= TURN_VISITS);
        receive.publish();
    }
    receive.take_broken();
    receive.stop();
}

fn serve_control(input: &Input) {
    let control = Control::new(Arc::clone(&input.memory.map), input.layout, input.features);
    if let Ok(mut control) = control {
        let _ = control.serve(&mut |_| true);
        assert!(control.visited() <= ORDER_VISITS);
        control.layout();
    }
}
