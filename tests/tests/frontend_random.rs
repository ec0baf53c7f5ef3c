//! Tests with a front end and a guest that do anything in any order. The back end refuses, disconnects or complies, and
//! serves the next front end.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, assert_echo, frame};
use hawser_testkit::frontend::{Region, RingLayout, Vmm, VmmConfig, code, feature};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

const SEQUENCES: u64 = 300;
const STEPS: u64 = 60;

/// Number of panics on any thread.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A pseudo-random sequence (splitmix64) that is determined by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// Returns one of `usual`, or sometimes one of `odd`, which may end the connection.
fn mostly<T: Copy>(random: &mut Random, usual: &[T], odd: &[T]) -> T {
    let from = if random.below(40) == 0 { odd } else { usual };
    random.one_of(from)
}

fn any_ring(random: &mut Random) -> u32 {
    mostly(random, &[0, 0, 0, 1, 1, 1, 2, 3, 4], &[5, 250])
}

fn any_address(random: &mut Random) -> u64 {
    let near = random.below(8 << 20) & !0xfff;
    mostly(random, &[near, (4 << 30) + near], &[near | 3, 1 << 45, u64::MAX - 3])
}

fn any_region(random: &mut Random, vmm: &Vmm) -> Region {
    let mut region = mostly(random, &vmm.ram.regions()[1..], vmm.ram.regions());
    match random.below(100) {
        0 => region.guest = any_address(random),
        1 => region.len = random.one_of(&[0, 1, 4096, 1 << 20, u64::MAX]),
        2 => region.offset = random.one_of(&[1, 4096, u64::MAX]),
        _ => {}
    }
    region
}

/// Performs one action of a front end. It returns an error if the action was refused or the back end disconnected.
fn step(random: &mut Random, vmm: &mut Vmm) -> io::Result<()> {
    let ring = any_ring(random);
    let events = random.one_of(&[code::SET_VRING_KICK, code::SET_VRING_CALL, code::SET_VRING_ERR]);
    let own = usize::try_from(ring)
        .ok()
        .and_then(|i| vmm.rings().nth(i))
        .map(|(_, ring)| ring.handle().unwrap());
    match random.below(16) {
        0 => {
            let size = mostly(random, &[256, 256, 64, 1, 2, 3, 300, 32768], &[0, 70_000]);
            vmm.wire.tell_ring(code::SET_VRING_NUM, ring, size)
        }
        1 => vmm.wire.tell_ring(
            code::SET_VRING_BASE,
            ring,
            u32::try_from(random.below(1 << 17)).unwrap(),
        ),
        2 => {
            let layout = RingLayout {
                size: 256,
                descriptors: any_address(random),
                available: any_address(random),
                used: any_address(random),
            };
            vmm.set_addresses(
                ring,
                own.filter(|_| random.below(2) == 0).map_or(layout, |own| own.layout),
            )
        }
        3 => vmm.wire.tell_event(events, ring, own.as_ref().map(|own| &own.kick)),
        4 => vmm.wire.tell_event(events, ring, None::<&std::fs::File>),
        5 => vmm.wire.get_vring_base(ring).map(drop),
        6 => vmm
            .wire
            .tell_ring(code::SET_VRING_ENABLE, ring, u32::try_from(random.below(3)).unwrap()),
        7 => {
            let features = mostly(
                random,
                &[vmm.features, feature::VERSION_1, feature::MRG_RXBUF],
                &[u64::MAX],
            );
            let protocol = random.one_of(&[feature::PROTOCOL_FEATURES, feature::PROTOCOL_FEATURES, 0]);
            vmm.wire.tell_u64(code::SET_FEATURES, features | protocol)
        }
        8 => vmm.wire.tell(code::RESET_DEVICE, &[], &[]),
        // A removed region can be added again. An existing one cannot.
        9 | 10 => {
            let region = any_region(random, vmm);
            vmm.wire.remove_mem_region(&region)?;
            for _ in 0..random.below(3) {
                vmm.nics[0].transmit.kick.write(1)?;
            }
            vmm.wire.add_mem_region(&region, vmm.ram.fd())
        }
        11 => vmm.wire.set_mem_table(vmm.ram.regions(), vmm.ram.fd()),
        12 => own.map_or(Ok(()), |own| vmm.start_ring(ring, &own, 0)),
        13 => {
            let mut noise = [0; 64];
            noise.iter_mut().for_each(|byte| *byte = random.next().to_le_bytes()[0]);
            let layout = vmm.nics[0].transmit.layout();
            let at = random.one_of(&[layout.descriptors, layout.available, layout.used]);
            vmm.ram.write(at + random.below(4) * 16, &noise);
            vmm.nics[0].transmit.kick.write(1)
        }
        14 if random.below(10) == 0 => {
            let code = u32::try_from(random.below(50)).unwrap();
            let body = vec![random.next().to_le_bytes()[0]; usize::try_from(random.below(64)).unwrap()];
            vmm.wire.tell(code, &body, &[])
        }
        _ => {
            // The ring may be full permanently.
            vmm.nics[0].queue(hawser_testkit::frontend::Header::default(), &frame(1, 100));
            vmm.nics[0].transmit.publish_and_kick()
        }
    }
}

#[test]
fn whatever_a_front_end_does_in_whatever_order_the_next_one_is_served() {
    let backend = Backend::start(2);
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        default_hook(info);
    }));
    for seed in 0..SEQUENCES {
        let mut random = Random(seed);
        let mut vmm = backend.connect(VmmConfig::default());
        for _ in 0..STEPS {
            // A request without an answer would only cause a wait.
            vmm.wire.set_patience(std::time::Duration::from_millis(300)).unwrap();
            if step(&mut random, &mut vmm).is_err() {
                break;
            }
        }
        drop(vmm);
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "sequence {seed} led to a panic");
        if seed % 10 == 0 {
            let mut next = backend.connect(VmmConfig::default());
            assert_echo(&mut next, 0, &[60, 1514]);
        }
    }
}
