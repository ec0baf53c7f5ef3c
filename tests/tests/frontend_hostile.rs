//! Tests that a hostile guest harms only itself. Its ring stops, the front end gets an error event, and everything else
//! continues.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, PATIENCE, assert_echo, frame, resident};
use hawser_backend::counters::DropReason;
use hawser_testkit::frontend::{Buffer, Vmm, VmmConfig, feature};
use std::time::Duration;

const LENGTHS: [usize; 3] = [60, 1514, 700];
const F_NEXT: u16 = 1;
const F_INDIRECT: u16 = 4;
const TRANSMIT: u32 = 1;
const RECEIVE: u32 = 0;
/// An address without guest memory.
const NOWHERE: u64 = 1 << 40;

/// A hostile act on the rings, and the ring that must stop because of it.
type Act = (&'static str, u32, fn(&mut Vmm));

fn readable(at: u64, len: u32) -> Buffer {
    Buffer {
        at,
        len,
        writable: false,
    }
}

/// Writes one transmit descriptor and offers it.
fn offer(vmm: &mut Vmm, buffer: Buffer, flags: u16, next: u16) {
    let ring = &mut vmm.nics[0].transmit;
    ring.set_descriptor(0, buffer, flags, next);
    ring.offer(0);
    ring.publish();
    ring.kick.write(1).unwrap();
}

/// Posts an indirect table of `entries` descriptors, each chained to `next`.
fn offer_table(vmm: &mut Vmm, entries: u32, flags: u16, next: u16) {
    let table = vmm.ram.allocate(u64::from(entries) * 16, 16);
    let inner = vmm.ram.allocate(64, 64);
    for i in 0..u64::from(entries) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&inner.to_le_bytes());
        bytes[8..12].copy_from_slice(&64_u32.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        vmm.ram.write(table + i * 16, &bytes);
    }
    offer(vmm, readable(table, entries * 16), F_INDIRECT, 0);
}

const BREAKING: &[Act] = &[
    ("an available index far ahead", TRANSMIT, |vmm| {
        let ring = &vmm.nics[0].transmit;
        ring.set_avail_idx(ring.avail_idx().wrapping_add(300));
        ring.kick.write(1).unwrap();
    }),
    ("an available index that went back", TRANSMIT, |vmm| {
        let ring = &vmm.nics[0].transmit;
        ring.set_avail_idx(ring.avail_idx().wrapping_sub(1));
        ring.kick.write(1).unwrap();
    }),
    ("a head outside the table", TRANSMIT, |vmm| {
        let ring = &mut vmm.nics[0].transmit;
        ring.offer(40_000);
        ring.publish();
        ring.kick.write(1).unwrap();
    }),
    ("a chain that leaves the table", TRANSMIT, |vmm| {
        offer(vmm, readable(0x10000, 100), F_NEXT, 9999);
    }),
    ("a chain that ends in itself", TRANSMIT, |vmm| {
        offer(vmm, readable(0x10000, 100), F_NEXT, 0);
    }),
    ("a buffer outside memory", TRANSMIT, |vmm| {
        offer(vmm, readable(NOWHERE, 100), 0, 0);
    }),
    ("a buffer that runs out of memory", TRANSMIT, |vmm| {
        let last = vmm.ram.regions()[1];
        offer(vmm, readable(last.guest + last.len - 50, 100), 0, 0);
    }),
    ("a buffer around the end of the address space", TRANSMIT, |vmm| {
        offer(vmm, readable(u64::MAX - 10, 100), 0, 0);
    }),
    ("a buffer of four gigabytes", TRANSMIT, |vmm| {
        offer(vmm, readable(0, u32::MAX), 0, 0);
    }),
    ("an indirect table outside memory", TRANSMIT, |vmm| {
        offer(vmm, readable(NOWHERE, 64), F_INDIRECT, 0);
    }),
    ("an indirect table of no whole descriptors", TRANSMIT, |vmm| {
        offer(vmm, readable(0x10000, 65), F_INDIRECT, 0);
    }),
    ("an indirect table within an indirect table", TRANSMIT, |vmm| {
        offer_table(vmm, 2, F_INDIRECT, 0);
    }),
    ("an indirect chain that ends in itself", TRANSMIT, |vmm| {
        offer_table(vmm, 4, F_NEXT, 1);
    }),
    ("an indirect chain that leaves its table", TRANSMIT, |vmm| {
        offer_table(vmm, 4, F_NEXT, 4);
    }),
    ("receive buffers outside memory", RECEIVE, |vmm| {
        let nic = &mut vmm.nics[0];
        for index in 0..nic.receive.layout().size {
            let buffer = Buffer {
                at: NOWHERE,
                len: 4096,
                writable: true,
            };
            nic.receive.set_descriptor(index, buffer, 0, 0);
        }
        nic.send(&frame(1, 100)).unwrap();
    }),
    ("receive buffers in chains without end", RECEIVE, |vmm| {
        let nic = &mut vmm.nics[0];
        for index in 0..nic.receive.layout().size {
            let buffer = Buffer {
                at: 0x10000,
                len: 1,
                writable: true,
            };
            nic.receive.set_descriptor(index, buffer, F_NEXT, index);
        }
        nic.send(&frame(1, 100)).unwrap();
    }),
    ("memory taken away under a ring in use", RECEIVE, |vmm| {
        let first = vmm.ram.regions()[0];
        vmm.wire.remove_mem_region(&first).unwrap();
        let _ = vmm.nics[0].send(&frame(1, 100));
    }),
];

/// The rings are in the first region, so that the second can be removed without them.
fn guest() -> VmmConfig {
    VmmConfig {
        memory: vec![(0, 24 << 20), (4 << 30, 8 << 20)],
        ..VmmConfig::default()
    }
}

#[test]
fn a_malformed_ring_is_stopped_counted_and_reported_and_nothing_else_is() {
    let (hostile, peaceful) = (Backend::start(1), Backend::start(1));
    let mut neighbour = peaceful.connect(VmmConfig::default());
    for (name, ring, act) in BREAKING {
        let before = hostile.port.counters().dropped(DropReason::BrokenRing);
        let mut vmm = hostile.connect(guest());
        assert_echo(&mut vmm, 0, &LENGTHS);
        act(&mut vmm);
        let broken = vmm.rings().find(|(index, _)| index == ring).unwrap().1;
        assert!(broken.wait_error(PATIENCE), "{name}: the front end was told nothing");
        let after = hostile.port.counters().dropped(DropReason::BrokenRing);
        assert!(after > before, "{name}: not counted");
        assert_echo(&mut neighbour, 0, &LENGTHS);
        drop(vmm);
    }
    // The port serves the next guest.
    assert_echo(&mut hostile.connect(guest()), 0, &LENGTHS);
}

#[test]
fn a_broken_ring_works_again_once_the_driver_has_set_it_up_anew() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(guest());
    for (name, _, act) in &BREAKING[..BREAKING.len() - 1] {
        assert_echo(&mut vmm, 0, &LENGTHS);
        act(&mut vmm);
        std::thread::sleep(Duration::from_millis(5));
        vmm.stop_all().unwrap_or_else(|e| panic!("{name}: {e}"));
        vmm.reload_driver(64).unwrap();
        vmm.start_all().unwrap();
        vmm.post_all().unwrap();
    }
    assert_echo(&mut vmm, 0, &LENGTHS);
}

#[test]
fn one_queue_pair_that_is_broken_leaves_the_others_running() {
    let backend = Backend::start(2);
    let mut vmm = backend.connect(VmmConfig {
        queue_pairs: 2,
        features: feature::LINUX | feature::MQ | feature::CTRL_VQ,
        memory: vec![(0, 64 << 20)],
        ..VmmConfig::default()
    });
    assert_echo(&mut vmm, 1, &LENGTHS);
    offer(&mut vmm, readable(NOWHERE, 100), 0, 0);
    assert!(vmm.nics[0].transmit.wait_error(PATIENCE));
    assert_echo(&mut vmm, 1, &LENGTHS);
}

#[test]
fn chains_without_a_frame_are_returned_and_the_ring_continues() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(guest());
    let at = vmm.ram.allocate(1 << 20, 64);
    let writable = Buffer {
        writable: true,
        ..readable(at, 100)
    };
    // These are buffers without an Ethernet header, without a virtio header, writable, and larger than any frame.
    for buffer in [readable(at, 12), readable(at, 5), writable, readable(at, 1 << 20)] {
        let used = vmm.nics[0].transmit.device_idx();
        offer(&mut vmm, buffer, 0, 0);
        assert!(vmm.nics[0].transmit.wait_used(PATIENCE), "{buffer:?} did not come back");
        assert_eq!(vmm.nics[0].transmit.device_idx(), used.wrapping_add(1));
        vmm.nics[0].reap();
    }
    assert_echo(&mut vmm, 0, &LENGTHS);
}

#[test]
fn kicks_without_buffers_change_nothing() {
    let backend = Backend::start(1);
    let mut vmm = Vmm::connect(backend.stream(), guest()).unwrap();
    for _ in 0..1000 {
        vmm.nics[0].transmit.kick.write(1).unwrap();
        vmm.nics[0].receive.kick.write(1).unwrap();
    }
    // Frames are sent before there is a single receive buffer.
    for seed in 0..50 {
        vmm.nics[0].send(&frame(seed, 200)).unwrap();
    }
    vmm.post_all().unwrap();
    for seed in 0..50 {
        let got = vmm.nics[0].recv(PATIENCE).unwrap().expect("the frame comes back");
        assert!(got.frame == frame(seed, 200), "frame {seed}");
    }
}

#[test]
fn a_used_index_the_guest_has_written_over_misleads_only_the_guest() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(guest());
    assert_echo(&mut vmm, 0, &LENGTHS);
    vmm.nics[0].transmit.set_used_idx(9999);
    vmm.stop_all().unwrap();
    vmm.start_all().unwrap();
    let _ = vmm.nics[0].send(&frame(1, 60));
    drop(vmm);
    assert_echo(&mut backend.connect(guest()), 0, &LENGTHS);
}

#[test]
fn memory_stays_flat_however_often_guests_misbehave() {
    let backend = Backend::start(1);
    let round = || {
        for (_, _, act) in BREAKING {
            let mut vmm = backend.connect(guest());
            act(&mut vmm);
        }
    };
    for _ in 0..3 {
        round();
    }
    let before = resident();
    for _ in 0..30 {
        round();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more after 30 rounds");
}

#[test]
fn a_front_end_that_lies_about_memory_ends_its_own_connection_only() {
    let backend = Backend::start(1);
    for (guest, len, host) in [
        (u64::MAX - 4096, 1 << 20, 0x1000),
        (0, u64::MAX, 0x1000),
        (0, 0, 0x1000),
        (0, 1 << 20, u64::MAX - 10),
        (0, 1 << 62, 0x1000),
    ] {
        let mut vmm = backend.connect(VmmConfig::default());
        let mut region = vmm.ram.regions()[0];
        (region.guest, region.len, region.host) = (guest, len, host);
        // Either the request is refused, or the connection ends.
        let _ = vmm.wire.add_mem_region(&region, vmm.ram.fd());
        let _ = vmm.nics[0].send(&frame(1, 60));
    }
    assert_echo(&mut backend.connect(VmmConfig::default()), 0, &LENGTHS);
}
