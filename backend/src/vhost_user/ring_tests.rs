use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

#[derive(Debug, PartialEq, Eq)]
enum HostCall {
    Start { size: u16, used: u64, next_avail: u16 },
    Stop,
    Enabled(bool),
    Call(bool),
    Error(bool),
}

/// A worker that records its commands. Each run of a ring advances by `ahead` chains.
struct FakeHost {
    told: Sender<HostCall>,
    ahead: Option<u16>,
}

impl RingHost for FakeHost {
    fn start(&self, setup: RingSetup) {
        let told = HostCall::Start {
            size: setup.size,
            used: setup.used,
            next_avail: setup.next_avail,
        };
        self.told.send(told).unwrap();
    }

    fn stop(&self) -> Option<u16> {
        self.told.send(HostCall::Stop).unwrap();
        self.ahead
    }

    fn set_enabled(&self, enabled: bool) {
        self.told.send(HostCall::Enabled(enabled)).unwrap();
    }

    fn set_call(&self, call: Option<File>) {
        self.told.send(HostCall::Call(call.is_some())).unwrap();
    }

    fn set_error(&self, error: Option<File>) {
        self.told.send(HostCall::Error(error.is_some())).unwrap();
    }
}

const USED: u64 = 0x3000;

struct Bench {
    ring: Ring,
    memory: Memory,
    told: Receiver<HostCall>,
}

fn bench(ahead: Option<u16>) -> Bench {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let memory = GuestMemoryAtomic::new(memory);
    let (sender, told) = channel();
    let host: Box<dyn RingHost> = Box::new(FakeHost { told: sender, ahead });
    let ring = Ring::new(host, memory.clone()).unwrap();
    Bench { ring, memory, told }
}

impl Bench {
    fn told(&self) -> Vec<HostCall> {
        self.told.try_iter().collect()
    }

    /// Sends NUM, BASE, ADDR and KICK.
    fn start(&mut self, base: u16) {
        self.ring.set_size(256);
        self.ring.set_base(base);
        self.ring.set_addresses(at(USED)).unwrap();
        self.ring.set_kick(Some(event()));
    }

    fn set_used_idx(&self, idx: u16) {
        let at = GuestAddress(USED + 2);
        self.memory.memory().write_obj(idx, at).unwrap();
    }
}

/// Addresses of a ring whose used ring is at `used`.
fn at(used: u64) -> Addresses {
    Addresses {
        descriptors: 0x1000,
        available: 0x2000,
        used,
    }
}

fn event() -> File {
    File::options().read(true).write(true).open("/dev/null").unwrap()
}

fn started(next_avail: u16) -> HostCall {
    HostCall::Start {
        size: 256,
        used: USED,
        next_avail,
    }
}

#[test]
fn a_ring_starts_once_when_everything_is_known() {
    let mut bench = bench(Some(0));
    bench.ring.set_size(256);
    bench.ring.set_addresses(at(USED)).unwrap();
    bench.ring.set_call(Some(event()));
    assert_eq!(bench.told(), []);
    bench.ring.set_kick(Some(event()));
    assert_eq!(bench.told(), [started(0)]);
    bench.ring.set_call(Some(event()));
    assert_eq!(bench.told(), [HostCall::Call(true)]);
}

#[test]
fn a_front_end_that_kicks_before_it_names_addresses_starts_the_ring_with_them() {
    let mut bench = bench(Some(0));
    bench.ring.set_size(256);
    bench.ring.set_kick(Some(event()));
    assert_eq!(bench.told(), []);
    bench.ring.set_addresses(at(USED)).unwrap();
    assert_eq!(bench.told(), [started(0)]);
}

#[test]
fn get_vring_base_says_where_the_worker_was() {
    let mut bench = bench(Some(77));
    bench.start(0);
    assert_eq!(bench.ring.stop(), 77);
    assert_eq!(bench.told(), [started(0), HostCall::Stop]);
    assert_eq!(bench.ring.stop(), 77);
    assert_eq!(bench.told(), [], "a stopped ring is not stopped again");
}

#[test]
fn a_ring_whose_worker_lost_its_place_continues_after_the_returned_chains() {
    let mut bench = bench(None);
    bench.set_used_idx(12);
    bench.start(12);
    bench.set_used_idx(15);
    assert_eq!(bench.ring.stop(), 15);
}

#[test]
fn cloud_hypervisor_reconnects_with_the_available_index_and_no_buffer_is_lost() {
    let mut bench = bench(Some(0));
    // 256 receive buffers were posted, and 40 were used before the back end went away.
    bench.set_used_idx(40);
    bench.start(256);
    assert_eq!(bench.told(), [started(40)]);
}

#[test]
fn qemu_repeats_the_addresses_of_running_rings_when_a_migration_starts() {
    let mut bench = bench(Some(5));
    bench.start(0);
    bench.ring.set_addresses(at(USED)).unwrap();
    bench.ring.set_size(256);
    assert_eq!(bench.told(), [started(0)], "the ring was left alone");
}

#[test]
fn other_addresses_or_another_size_restart_a_running_ring_where_it_was() {
    let mut bench = bench(Some(5));
    bench.start(0);
    bench.set_used_idx(5);
    bench.ring.set_size(512);
    let resized = HostCall::Start {
        size: 512,
        used: USED,
        next_avail: 5,
    };
    assert_eq!(bench.told(), [started(0), HostCall::Stop, resized]);
    bench.ring.set_addresses(at(0x5000)).unwrap();
    let moved = HostCall::Start {
        size: 512,
        used: 0x5000,
        next_avail: 0,
    };
    assert_eq!(bench.told(), [HostCall::Stop, moved], "a fresh ring says 0 itself");
}

#[test]
fn a_size_that_is_no_power_of_two_never_reaches_the_worker() {
    let mut bench = bench(Some(5));
    bench.start(0);
    bench.ring.set_size(300);
    assert_eq!(bench.told(), [started(0), HostCall::Stop]);
    bench.ring.set_size(256);
    assert_eq!(bench.told().len(), 1, "a good size starts it again");
}

#[test]
fn interrupts_are_replaced_without_stopping_the_ring() {
    let mut bench = bench(Some(5));
    bench.start(0);
    bench.ring.set_call(Some(event()));
    bench.ring.set_call(None);
    bench.ring.set_error(Some(event()));
    let want = [
        started(0),
        HostCall::Call(true),
        HostCall::Call(false),
        HostCall::Error(true),
    ];
    assert_eq!(bench.told(), want);
}

#[test]
fn a_reset_ring_knows_nothing_of_the_one_before() {
    let mut bench = bench(Some(9));
    bench.start(0);
    bench.ring.set_enabled(true);
    bench.ring.reset();
    let want = [
        started(0),
        HostCall::Enabled(true),
        HostCall::Enabled(false),
        HostCall::Stop,
    ];
    assert_eq!(bench.told(), want);
    assert_eq!(bench.ring.stop(), 0);
    bench.ring.set_kick(Some(event()));
    assert_eq!(bench.told(), [], "no address, no start");
    bench.ring.set_addresses(at(USED)).unwrap();
    assert_eq!(bench.told(), [], "no size, no start");
    bench.ring.set_size(256);
    assert_eq!(bench.told(), [started(0)]);
}
