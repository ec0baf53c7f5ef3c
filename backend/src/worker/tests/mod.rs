mod awake;
mod guest;
mod rates;

use super::*;
use crate::counters::DropReason;
use crate::mode::Departure;
use crate::virtio::features::LOG_ALL;
use crate::virtio::testing::{DriverRing, TestMemory};
use guest::{EVENTS, End, Guest, ModeCall, NEVER_MS, PLAIN, RING, SOON_MS, eventfd, frame, rings};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::channel;

#[test]
fn frames_go_in_and_come_back_whole_and_in_order() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::started(features);
        let mut id = 0;
        for round in 0..40 {
            guest.post_receive(20, 1536);
            let sent: Vec<_> = (0..4)
                .map(|i| {
                    id += 1;
                    frame(id % 0x80, 60 + round * 130 % 6000 + i)
                })
                .collect();
            for frame in &sent {
                guest.post_transmit(frame);
            }
            guest.transmit.kick();
            let back = guest.wait_frames(4);
            assert!(back == sent, "round {round}");
            guest.renew_receive_ring();
        }
        assert_eq!(guest.port.counters().count(Count::RxFrames), 160);
        assert_eq!(guest.port.counters().count(Count::TxFrames), 160);
    }
}

/// Number of interrupts that this many frames cause if they are sent together and echoed.
fn interrupts_for(frames: u8) -> u64 {
    let mut guest = Guest::awake_for(Duration::ZERO, PLAIN);
    guest.post_receive(usize::from(frames) + 1, 1536);
    guest.send(&frame(0, 60));
    guest.wait_frames(1);
    guest.settle();
    // A worker that is awake would not wait for the kick.
    for i in 0..frames {
        guest.post_transmit(&frame(i, 60));
    }
    let before = guest.port.counters().count(Count::Calls);
    guest.transmit.kick();
    assert_eq!(guest.wait_frames(frames.into()).len(), usize::from(frames));
    guest.settle();
    guest.port.counters().count(Count::Calls) - before
}

#[test]
fn a_burst_makes_one_interrupt() {
    assert_eq!(interrupts_for(30), 2, "each ring has its own");
}

#[test]
fn a_guest_that_filled_its_ring_hears_of_the_first_half_before_the_second_is_sent() {
    assert_eq!(
        interrupts_for(40),
        3,
        "of 64: after 32, after all, and of what came back"
    );
}

#[test]
fn a_starved_mode_is_called_when_the_guest_posts_and_only_then() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::started(features);
        guest.post_receive(1, 1536);
        guest.receive.kick();
        assert!(guest.hears_nothing(), "no frame waits for room");
        for id in 1..=3 {
            guest.send(&frame(id, 100));
        }
        assert_eq!(guest.wait_frames(1), [frame(1, 100)]);
        assert!(guest.hears_nothing(), "there is no room to report");
        guest.post_receive(2, 1536);
        guest.receive.kick();
        assert_eq!(guest.hears(), ModeCall::Room);
        assert_eq!(guest.wait_frames(2), [frame(2, 100), frame(3, 100)]);
    }
}

#[test]
fn kicks_are_asked_for_only_while_they_are_needed() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(1, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    assert_eq!(
        guest.receive.driver.used_flags(&guest.memory),
        1,
        "no frame waits for room"
    );
    guest.send(&frame(2, 60));
    // Kicks are enabled when there is no room for the second frame; then the worker sleeps.
    while guest.receive.driver.used_flags(&guest.memory) == 1 {
        std::thread::yield_now();
    }
    guest.post_receive(1, 1536);
    guest.receive.kick();
    assert_eq!(guest.hears(), ModeCall::Room);
    guest.wait_frames(1);
    assert_eq!(guest.receive.driver.used_flags(&guest.memory), 1);
}

#[test]
fn buffers_posted_before_the_start_are_served_without_a_kick() {
    let mut guest = Guest::new();
    guest.post_receive(4, 1536);
    guest.post_transmit(&frame(9, 60));
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    guest.worker().set_features(PLAIN);
    guest.start();
    assert_eq!(guest.wait_frames(1), [frame(9, 60)]);
}

#[test]
fn frames_wait_in_the_ring_until_the_guest_can_be_answered() {
    let mut guest = Guest::new();
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    guest.worker().set_features(PLAIN);
    guest.worker().set_enabled(RingRole::Transmit, true);
    guest.worker().start_ring(RingRole::Transmit, guest.transmit.setup());
    guest.send(&frame(7, 60));
    guest.settle();
    assert_eq!(guest.transmit.driver.used_idx(&guest.memory), 0);
    guest.post_receive(1, 1536);
    guest.worker().set_enabled(RingRole::Receive, true);
    guest.worker().start_ring(RingRole::Receive, guest.receive.setup());
    assert_eq!(guest.wait_frames(1), [frame(7, 60)]);
}

#[test]
fn threads_of_a_port_with_a_long_name_have_different_names() {
    assert_eq!(thread_name("nic", 0), "nic-0");
    assert_eq!(
        thread_name("a-name-longer-than-the-kernel-keeps", 11),
        "a-name-longe-11"
    );
}

#[test]
fn the_order_of_set_up_does_not_matter() {
    let mut guest = Guest::new();
    guest.post_receive(4, 1536);
    guest.post_transmit(&frame(9, 60));
    let worker = guest.worker();
    for (role, end) in [
        (RingRole::Receive, &guest.receive),
        (RingRole::Transmit, &guest.transmit),
    ] {
        worker.set_enabled(role, true);
        worker.start_ring(role, end.setup());
    }
    worker.set_features(PLAIN);
    worker.set_memory(Arc::clone(&guest.memory.map));
    assert_eq!(guest.wait_frames(1), [frame(9, 60)]);
}

#[test]
fn a_disabled_ring_takes_and_gives_nothing() {
    let mut guest = Guest::started(PLAIN);
    guest.worker().set_enabled(RingRole::Transmit, false);
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    assert!(!rings(&guest.receive.call, NEVER_MS) || guest.frames().is_empty());
    assert_eq!(guest.transmit.driver.used_idx(&guest.memory), 0);
    guest.worker().set_enabled(RingRole::Transmit, true);
    assert_eq!(guest.hears(), ModeCall::LinkUp);
    assert_eq!(guest.wait_frames(1), [frame(1, 60)]);
}

#[test]
fn nothing_passes_a_link_the_operator_took_down_whatever_the_front_end_enables() {
    let mut guest = Guest::started(PLAIN);
    guest.port.set_link(false);
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert!(!guest.port.link().is_up());
    guest.start();
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    assert!(guest.hears_nothing());
    assert_eq!(guest.transmit.driver.used_idx(&guest.memory), 0);
    guest.port.set_link(true);
    assert_eq!(guest.hears(), ModeCall::LinkUp);
    assert_eq!(guest.wait_frames(1), [frame(1, 60)]);
}

#[test]
fn a_stopped_ring_reports_its_place_and_starts_again_there() {
    let mut guest = Guest::started(EVENTS);
    guest.post_receive(10, 1536);
    for id in 0..3 {
        guest.send(&frame(id, 60));
    }
    guest.wait_frames(3);
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), Some(3));
    assert_eq!(guest.worker().stop_ring(RingRole::Transmit), Some(3));
    assert_eq!(
        guest.worker().stop_ring(RingRole::Transmit),
        None,
        "it has been removed"
    );
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    for end in [&mut guest.receive, &mut guest.transmit] {
        end.driver.layout.next_avail = 3;
    }
    guest.start();
    assert_eq!(guest.hears(), ModeCall::LinkUp);
    guest.send(&frame(4, 60));
    assert_eq!(guest.wait_frames(1), [frame(4, 60)]);
}

#[test]
fn once_logging_is_on_every_write_is_logged() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(1, 1536);
    let (busy, resume) = guest.hold_the_worker();
    busy.recv_timeout(Duration::from_secs(5)).unwrap();
    std::thread::scope(|scope| {
        let (told, is_told) = channel();
        let worker = guest.worker();
        scope.spawn(move || {
            worker.set_features(PLAIN | LOG_ALL);
            told.send(()).unwrap();
        });
        let early = is_told.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "the worker is still in a turn that does not log");
        resume.send(()).unwrap();
        is_told.recv_timeout(Duration::from_secs(5)).unwrap();
    });
}

#[test]
fn a_call_descriptor_without_a_reader_does_not_hold_the_worker() {
    let mut guest = Guest::started(PLAIN);
    // User-Mode Linux passes such a pipe: writes block while it is full.
    let (_unread, call) = io::pipe().unwrap();
    let call = File::from(OwnedFd::from(call));
    guest
        .worker()
        .set_call(RingRole::Transmit, Some(call.try_clone().unwrap()));
    guest.settle();
    // SAFETY: no memory is passed; the descriptor is open.
    let flags = unsafe { libc::fcntl(call.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_NONBLOCK, 0, "it fills up without blocking the worker");
    while (&call).write(&[0; 4096]).is_ok() {}
    guest.post_receive(1, 1536);
    guest.send(&frame(1, 60));
    assert_eq!(guest.wait_frames(1), [frame(1, 60)]);
    guest.settle();
}

#[test]
fn a_ring_whose_memory_comes_back_continues() {
    let mut guest = Guest::started(EVENTS);
    guest.post_receive(2, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    // QEMU resizes a region by removing it, then adding it with the new size.
    let without = TestMemory::with_regions(&[(0x1_0000_0000, 0x1000)]).map;
    guest.worker().set_memory(without);
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    guest.post_transmit(&frame(2, 60));
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    assert_eq!(guest.hears(), ModeCall::LinkUp);
    assert_eq!(guest.wait_frames(1), [frame(2, 60)]);
}

#[test]
fn new_memory_is_used_and_the_old_one_let_go() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    let old = std::mem::replace(
        &mut guest.memory.map,
        Arc::new(GuestMap::new(Arc::clone(&guest.memory.memory), None)),
    );
    guest.worker().set_memory(Arc::clone(&guest.memory.map));
    assert_eq!(Arc::strong_count(&old), 1, "only the test still holds it");
    guest.send(&frame(2, 60));
    assert_eq!(guest.wait_frames(1), [frame(2, 60)]);
    assert!(guest.hears_nothing(), "neither the guest's driver nor the mode notices");
}

#[test]
fn a_mode_that_waits_for_room_still_does_with_new_memory() {
    let mut guest = Guest::started(EVENTS);
    guest.send(&frame(1, 60));
    guest.settle();
    let map = GuestMap::new(Arc::clone(&guest.memory.memory), None);
    guest.worker().set_memory(Arc::new(map));
    guest.post_receive(1, 1536);
    guest.receive.kick();
    assert_eq!(guest.wait_frames(1), [frame(1, 60)]);
}

#[test]
fn a_mode_sees_a_reset_before_the_next_driver_comes() {
    let guest = Guest::started(PLAIN);
    guest.worker().stop_ring(RingRole::Transmit);
    guest.worker().reset();
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert_eq!(guest.hears(), ModeCall::Reset);
    guest.start();
    assert_eq!(guest.hears(), ModeCall::LinkUp);
}

#[test]
fn what_comes_on_a_pair_that_was_switched_off_is_taken_and_counted() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::started(features);
        guest.post_receive(4, 1536);
        for role in [RingRole::Receive, RingRole::Transmit] {
            guest.worker().set_enabled(role, false);
        }
        assert_eq!(guest.hears(), ModeCall::LinkDown);
        for sent in 1..=3 {
            guest.send(&frame(sent, 60));
            let started = std::time::Instant::now();
            while guest.transmit.driver.used_idx(&guest.memory) != u16::from(sent) {
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "frame {sent} stays in the ring"
                );
                std::thread::yield_now();
            }
        }
        assert_eq!(guest.dropped(DropReason::PairOff), 3);
        for role in [RingRole::Receive, RingRole::Transmit] {
            guest.worker().set_enabled(role, true);
        }
        assert_eq!(guest.hears(), ModeCall::LinkUp);
        guest.send(&frame(9, 60));
        assert_eq!(guest.wait_frames(1), [frame(9, 60)]);
    }
}

#[test]
fn memory_taken_away_stops_the_rings_and_nothing_else() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest
        .worker()
        .set_memory(TestMemory::with_regions(&[(0x1_0000_0000, 0x1000)]).map);
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert!(rings(&guest.transmit.error, SOON_MS) && rings(&guest.receive.error, SOON_MS));
    guest.send(&frame(1, 60));
    assert_eq!(guest.dropped(DropReason::BrokenRing), 2);
    guest.worker().clear_memory(Departure::Disconnected);
    assert_eq!(guest.hears(), ModeCall::FrontEndGone);
    let mut again = Guest {
        receive: End::new(&mut guest.memory),
        transmit: End::new(&mut guest.memory),
        ..guest
    };
    again.worker().set_memory(Arc::clone(&again.memory.map));
    again.worker().set_features(PLAIN);
    again.start();
    assert_eq!(again.hears(), ModeCall::LinkUp);
    again.post_receive(4, 1536);
    again.send(&frame(2, 60));
    assert_eq!(again.wait_frames(1), [frame(2, 60)]);
}

#[test]
fn a_front_end_that_is_gone_leaves_the_port_to_the_next() {
    let guest = Guest::started(PLAIN);
    guest.worker().clear_memory(Departure::Disconnected);
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert_eq!(Arc::strong_count(&guest.memory.map), 1);
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), None);
}

#[test]
fn a_malformed_transmit_ring_stops_alone_and_is_reported() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    guest.transmit.driver.set_avail_idx(&guest.memory, 0x8000);
    guest.transmit.kick();
    assert!(rings(&guest.transmit.error, SOON_MS));
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert_eq!(guest.dropped(DropReason::BrokenRing), 1);
    guest.transmit.kick();
    assert!(!rings(&guest.transmit.error, NEVER_MS), "a stopped ring is ignored");
    assert_eq!(guest.worker().stop_ring(RingRole::Transmit), Some(1));
    assert_eq!(guest.worker().stop_ring(RingRole::Receive), Some(1));
}

#[test]
fn a_malformed_receive_ring_stops_alone_and_is_reported() {
    let mut guest = Guest::started(PLAIN);
    guest.receive.driver.post_head(&guest.memory, RING);
    guest.send(&frame(1, 60));
    assert!(rings(&guest.receive.error, SOON_MS));
    assert_eq!(guest.hears(), ModeCall::LinkDown);
    assert_eq!(guest.dropped(DropReason::BrokenRing), 1);
}

#[test]
fn rings_that_lie_outside_memory_or_have_no_size_are_reported() {
    for (size, descriptors) in [(0, 0x1000), (3, 0x1000), (RING, 0x1000_0000), (RING, !15)] {
        let guest = Guest::started(PLAIN);
        let setup = RingSetup {
            size,
            descriptors,
            ..guest.transmit.setup()
        };
        guest.worker().start_ring(RingRole::Transmit, setup);
        assert!(rings(&guest.transmit.error, SOON_MS));
        assert_eq!(guest.hears(), ModeCall::LinkDown);
    }
}

#[test]
fn a_ring_may_come_back_in_another_size() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    for size in [8, 1024, 2] {
        guest.worker().stop_ring(RingRole::Transmit);
        assert_eq!(guest.hears(), ModeCall::LinkDown);
        guest.transmit.driver = DriverRing::new(&mut guest.memory, size);
        guest.worker().start_ring(RingRole::Transmit, guest.transmit.setup());
        assert_eq!(guest.hears(), ModeCall::LinkUp);
        guest.send(&frame(3, 60));
        assert_eq!(guest.wait_frames(1), [frame(3, 60)]);
    }
}

#[test]
fn kicks_without_buffers_do_nothing() {
    let guest = Guest::started(EVENTS);
    for _ in 0..1000 {
        guest.transmit.kick();
        guest.receive.kick();
    }
    assert!(!rings(&guest.transmit.error, NEVER_MS));
    assert_eq!(guest.dropped(DropReason::BrokenRing), 0);
    assert!(guest.hears_nothing());
}

#[test]
fn a_timer_of_the_mode_fires_while_the_guest_is_idle() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(0xdd, 60));
    assert_eq!(guest.hears(), ModeCall::Timer);
}

#[test]
fn a_ring_whose_kick_cannot_be_watched_stays_stopped_until_it_gets_another() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.worker().stop_ring(RingRole::Transmit);
    // A plain file never becomes ready.
    let setup = RingSetup {
        kick: tempfile::tempfile().unwrap(),
        ..guest.transmit.setup()
    };
    guest.worker().start_ring(RingRole::Transmit, setup);
    assert!(rings(&guest.transmit.error, SOON_MS));
    assert_eq!(guest.dropped(DropReason::BrokenRing), 1);
    guest.worker().stop_ring(RingRole::Transmit);
    guest.worker().start_ring(RingRole::Transmit, guest.transmit.setup());
    guest.send(&frame(5, 60));
    assert_eq!(guest.wait_frames(1), [frame(5, 60)]);
}

#[test]
fn a_new_call_descriptor_is_signalled_once_in_case_the_old_one_was_not() {
    let guest = Guest::started(PLAIN);
    let call = eventfd();
    guest
        .worker()
        .set_call(RingRole::Receive, Some(call.try_clone().unwrap()));
    assert!(rings(&call, SOON_MS));
}

#[test]
fn the_report_names_what_happened() {
    let mut guest = Guest::started(PLAIN);
    guest.post_receive(4, 1536);
    guest.send(&frame(1, 60));
    guest.wait_frames(1);
    let mut spoofed = frame(2, 60);
    spoofed[6] = 3;
    guest.send(&spoofed);
    while guest.dropped(DropReason::SpoofedMac) == 0 {
        std::thread::yield_now();
    }
    let report = guest.port.report();
    for line in [
        "port test:",
        "  tx_frames 1",
        "  rx_bytes 60",
        "  dropped spoofed_mac 1",
    ] {
        assert!(report.lines().any(|l| l == line), "{line:?} is in {report}");
    }
}
