//! Tests of the basis of live migration: every page that the device writes is logged exactly while the front end
//! requires it, and rings continue elsewhere.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, PATIENCE, SILENCE, assert_echo, frame};
use hawser_testkit::frontend::{DirtyLog, Header, Region, Vmm, VmmConfig, code, feature};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const FRAMES: u16 = 20;

/// Guest-physical numbers of all pages, with their contents.
fn snapshot(vmm: &Vmm) -> Vec<(u64, Vec<u8>)> {
    let mut pages = Vec::new();
    for region in vmm.ram.regions() {
        let mut bytes = vec![0; usize::try_from(region.len).unwrap()];
        vmm.ram.read(region.guest, &mut bytes);
        let first = region.guest / PAGE as u64;
        pages.extend((first..).zip(bytes.chunks(PAGE).map(<[u8]>::to_vec)));
    }
    pages
}

/// Echoes some large frames, so that only the device writes to guest memory. Returns the changed
/// pages.
fn pages_the_device_writes(vmm: &mut Vmm, seed: u32) -> BTreeSet<u64> {
    let nic = &mut vmm.nics[0];
    let goal = (nic.receive.device_idx(), nic.transmit.device_idx());
    for i in 0..FRAMES {
        assert!(nic.queue(Header::default(), &frame(seed + u32::from(i), 1900)));
    }
    let before = snapshot(vmm);
    // From here on the driver writes only one index. The device may check the ring without a kick.
    let nic = &mut vmm.nics[0];
    let ours = nic.transmit.layout().available / PAGE as u64;
    nic.transmit.publish();
    nic.transmit.kick.write(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let done = |now: u16, start: u16| now.wrapping_sub(start) >= FRAMES;
    while !(done(nic.receive.device_idx(), goal.0) && done(nic.transmit.device_idx(), goal.1)) {
        assert!(Instant::now() < deadline, "the frames do not come back");
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = snapshot(vmm);
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b);
    let changed = changed.map(|(page, _)| page.0).filter(|page| *page != ours).collect();
    let nic = &mut vmm.nics[0];
    for i in 0..FRAMES {
        let got = nic.recv(PATIENCE).unwrap().expect("the frame came back");
        assert!(got.frame == frame(seed + u32::from(i), 1900), "frame {i}");
    }
    changed
}

fn log_all(vmm: &Vmm, on: bool) {
    let features = if on {
        vmm.features | feature::LOG_ALL
    } else {
        vmm.features
    };
    vmm.wire.tell_u64(code::SET_FEATURES, features).unwrap();
}

/// A change of guest memory, usually of this region.
type Change = fn(&Vmm, Region);

fn assert_logged(log: &DirtyLog, written: &BTreeSet<u64>, when: &str) {
    assert!(!written.is_empty());
    let logged = log.take();
    let missed: Vec<_> = written.difference(&logged).collect();
    assert!(
        missed.is_empty(),
        "{when}: pages {missed:x?} were written but not logged"
    );
    let idle: Vec<_> = logged.difference(written).collect();
    assert!(idle.is_empty(), "{when}: pages {idle:x?} were logged but not written");
}

#[test]
fn every_page_the_device_writes_is_logged_while_log_all_is_on() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let log = DirtyLog::new(&vmm.ram).unwrap();
    pages_the_device_writes(&mut vmm, 0);

    vmm.wire.set_log_base(&log).unwrap();
    log_all(&vmm, true);
    for round in 1..=3 {
        let written = pages_the_device_writes(&mut vmm, round * 100);
        assert_logged(&log, &written, "while migrating");
    }

    // The migration is cancelled.
    log_all(&vmm, false);
    log.take();
    pages_the_device_writes(&mut vmm, 500);
    assert_eq!(log.take(), BTreeSet::new(), "logged without being asked");

    // The migration starts again.
    let again = DirtyLog::new(&vmm.ram).unwrap();
    vmm.wire.set_log_base(&again).unwrap();
    log_all(&vmm, true);
    let written = pages_the_device_writes(&mut vmm, 600);
    assert_logged(&again, &written, "at the second attempt");
    assert_eq!(log.take(), BTreeSet::new(), "the old log is done with");
}

#[test]
fn the_log_outlives_changes_of_memory() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let log = DirtyLog::new(&vmm.ram).unwrap();
    vmm.wire.set_log_base(&log).unwrap();
    log_all(&vmm, true);
    let spare = vmm.ram.regions()[1];
    let steps: [(&str, Change); 3] = [
        ("a region was removed", |vmm, spare| {
            vmm.wire.remove_mem_region(&spare).unwrap();
        }),
        ("a region was added", |vmm, spare| {
            vmm.wire.add_mem_region(&spare, vmm.ram.fd()).unwrap();
        }),
        ("a new memory table came", |vmm, _| {
            vmm.wire.set_mem_table(vmm.ram.regions(), vmm.ram.fd()).unwrap();
        }),
    ];
    for (seed, (when, step)) in (1..).zip(steps) {
        step(&vmm, spare);
        let written = pages_the_device_writes(&mut vmm, seed * 100);
        assert_logged(&log, &written, when);
    }
}

#[test]
fn the_log_is_switched_a_thousand_times_under_traffic_and_swapped_in_each_pass() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let log = DirtyLog::new(&vmm.ram).unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..1000 {
        // The frame is on its way while the log goes on and off.
        let sent = frame(round, 1000);
        vmm.nics[0].send(&sent).unwrap();
        let started = Instant::now();
        vmm.wire.set_log_base(&log).unwrap();
        log_all(&vmm, true);
        log_all(&vmm, false);
        slowest = slowest.max(started.elapsed());
        let got = vmm.nics[0].recv(PATIENCE).unwrap().expect("the frame comes back");
        assert!(got.frame == sent, "round {round}");
    }
    assert!(slowest < PATIENCE, "{slowest:?}");
    log.take();
    pages_the_device_writes(&mut vmm, 1);
    assert_eq!(log.take(), BTreeSet::new(), "it is off");

    // cloud-hypervisor sends a new log in each pass, and reads the old one afterwards.
    vmm.wire.set_log_base(&log).unwrap();
    log_all(&vmm, true);
    let mut before = log;
    for pass in 0..20 {
        let written = pages_the_device_writes(&mut vmm, pass * 100);
        let next = DirtyLog::new(&vmm.ram).unwrap();
        vmm.wire.set_log_base(&next).unwrap();
        assert_logged(&before, &written, "in a pass");
        assert_eq!(next.take(), BTreeSet::new(), "nothing of the pass before");
        before = next;
    }
    assert_eq!(vmm.stop_all().unwrap().len(), 2);
}

#[test]
fn a_log_that_cannot_be_used_is_accepted_and_the_rings_rest_while_it_would_be_needed() {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let mut log = DirtyLog::new(&vmm.ram).unwrap();
    let whole = log.len;
    for len in [16, whole * 1000] {
        assert_echo(&mut vmm, 0, &[60, 1500]);
        log.len = len;
        vmm.wire.set_log_base(&log).unwrap();
        log_all(&vmm, true);
        for (index, ring) in vmm.rings() {
            vmm.set_addresses(index, ring.layout()).unwrap();
        }
        // Nothing is written that would have to be logged.
        let before = snapshot(&vmm);
        backend.port.set_link(true);
        std::thread::sleep(SILENCE);
        let after = snapshot(&vmm);
        assert!(before == after);
        vmm.nics[0].send(&frame(1, 300)).unwrap();
        assert!(vmm.nics[0].recv(SILENCE).unwrap().is_none());
        // The migration is cancelled: the frame was kept.
        log_all(&vmm, false);
        let got = vmm.nics[0].recv(PATIENCE).unwrap().expect("the frame comes back");
        assert!(got.frame == frame(1, 300));
    }
    // Another attempt with a log that can be used.
    log.len = whole;
    vmm.wire.set_log_base(&log).unwrap();
    log_all(&vmm, true);
    let written = pages_the_device_writes(&mut vmm, 100);
    assert_logged(&log, &written, "at the last attempt");
}

#[test]
fn a_guest_continues_in_another_process() {
    let (source, target) = (Backend::start(1), Backend::start(1));
    let mut vmm = source.connect(VmmConfig::default());
    for round in 0..4 {
        assert_echo(&mut vmm, 0, &[60, 1514, 700]);
        vmm.stop_all().unwrap();
        // The guest still sends, but no back end receives.
        for seed in 0..10 {
            vmm.nics[0].send(&frame(seed, 300)).unwrap();
        }
        let next = if round % 2 == 0 { &target } else { &source };
        vmm.reconnect(next.stream()).unwrap();
        for seed in 0..10 {
            let got = vmm.nics[0].recv(PATIENCE).unwrap().expect("the frame comes back");
            assert!(got.frame == frame(seed, 300), "frame {seed}");
        }
    }
}
