//! Tests that no frame is lost, duplicated or reordered, whatever a front end changes while frames are in flight.

#![allow(clippy::unwrap_used, reason = "test code, though in no function marked as a test")]

mod common;

use common::{Backend, PATIENCE, frame};
use hawser_testkit::frontend::{Header, Nic, RingHandle, Vmm, VmmConfig, code};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long frames flow.
const DURATION: Duration = Duration::from_millis(1500);
/// Maximum number of frames in flight, which is the number that the echo can hold.
const WINDOW: u32 = 200;

/// A guest that continuously sends frames on its own thread and expects each back.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

fn length(seed: u32) -> usize {
    60 + usize::try_from(seed % 61).unwrap() * 23
}

/// Runs one turn of the guest, in which it sends and receives as much as possible. True if something moved.
fn turn(nic: &mut Nic, sent: &mut u32, received: &mut u32, sending: bool) -> bool {
    let before = (*sent, *received);
    while sending && *sent - *received < WINDOW && nic.queue(Header::default(), &frame(*sent, length(*sent))) {
        *sent += 1;
    }
    nic.transmit.publish_and_kick().unwrap();
    while let Some(got) = nic.poll().unwrap() {
        assert!(
            got.frame == frame(*received, length(*received)),
            "frame {received} was lost, changed, or came out of order"
        );
        *received += 1;
    }
    before != (*sent, *received)
}

impl Flood {
    fn start(mut nic: Nic) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut sent, mut received) = (0, 0);
            let mut moved = Instant::now();
            loop {
                let sending = !stopped.load(Ordering::Relaxed);
                if turn(&mut nic, &mut sent, &mut received, sending) {
                    moved = Instant::now();
                } else if !sending && sent == received {
                    return received;
                } else {
                    assert!(moved.elapsed() < PATIENCE, "{received} of {sent} frames came back");
                    nic.receive.wait_used(Duration::from_millis(10));
                }
            }
        });
        Self { stop, thread }
    }

    /// Stops sending and waits for frames in flight. Returns the number of frames that came back.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Repeats `change` while frames flow.
fn assert_nothing_lost(mut change: impl FnMut(&Vmm, &[RingHandle])) {
    let backend = Backend::start(1);
    let mut vmm = backend.connect(VmmConfig::default());
    let handles: Vec<_> = vmm.rings().map(|(_, ring)| ring.handle().unwrap()).collect();
    let flood = Flood::start(vmm.nics.remove(0));
    let end = Instant::now() + DURATION;
    let mut changes = 0;
    while Instant::now() < end {
        change(&vmm, &handles);
        changes += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let frames = flood.end();
    assert!(changes > 20 && frames > 200, "{changes} changes, {frames} frames");
}

fn restart(vmm: &Vmm, handles: &[RingHandle], ring: u32) {
    let base = vmm.wire.get_vring_base(ring).unwrap();
    vmm.start_ring(ring, &handles[usize::try_from(ring).unwrap()], base)
        .unwrap();
}

#[test]
fn transmit_rings_stop_and_start_while_frames_flow() {
    assert_nothing_lost(|vmm, handles| restart(vmm, handles, 1));
}

#[test]
fn memory_is_replaced_while_frames_flow() {
    assert_nothing_lost(|vmm, _| {
        vmm.wire.set_mem_table(vmm.ram.regions(), vmm.ram.fd()).unwrap();
    });
}

#[test]
fn a_region_is_plugged_and_unplugged_while_frames_flow() {
    assert_nothing_lost(|vmm, _| {
        let spare = vmm.ram.regions()[1];
        vmm.wire.remove_mem_region(&spare).unwrap();
        vmm.wire.add_mem_region(&spare, vmm.ram.fd()).unwrap();
    });
}

#[test]
fn interrupts_are_masked_and_unmasked_while_frames_flow() {
    assert_nothing_lost(|vmm, handles| {
        for (ring, handle) in (0..).zip(handles) {
            vmm.wire
                .tell_event(code::SET_VRING_CALL, ring, Some(&handle.call))
                .unwrap();
        }
    });
}

#[test]
fn addresses_are_sent_again_while_frames_flow() {
    assert_nothing_lost(|vmm, handles| {
        for (ring, handle) in (0..).zip(handles) {
            vmm.set_addresses(ring, handle.layout).unwrap();
        }
    });
}

#[test]
fn features_are_set_again_while_frames_flow() {
    assert_nothing_lost(|vmm, _| vmm.wire.tell_u64(code::SET_FEATURES, vmm.features).unwrap());
}
