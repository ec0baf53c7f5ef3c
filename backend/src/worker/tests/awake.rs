//! Tests that a worker stays awake during a rapid exchange, and sleeps otherwise.

use super::guest::{EVENTS, Guest, PLAIN, frame};
use crate::counters::Count;
use std::time::Duration;

fn kicks(guest: &Guest) -> u64 {
    guest.port.counters().count(Count::Kicks)
}

#[test]
fn in_a_conversation_frames_are_taken_without_a_kick() {
    for features in [PLAIN, EVENTS] {
        let mut guest = Guest::awake_for(Duration::from_secs(60), features);
        guest.post_receive(8, 1536);
        for id in 0..2 {
            guest.send(&frame(id, 60));
            guest.wait_frames(1);
        }
        guest.settle();
        let before = kicks(&guest);
        for id in 2..6 {
            guest.post_transmit(&frame(id, 60));
            assert_eq!(guest.wait_frames(1), [frame(id, 60)]);
        }
        assert_eq!(kicks(&guest), before);
    }
}

#[test]
fn a_worker_that_never_stays_awake_asks_for_every_kick() {
    let mut guest = Guest::awake_for(Duration::ZERO, PLAIN);
    guest.post_receive(8, 1536);
    for id in 0..6 {
        guest.send(&frame(id, 60));
        guest.wait_frames(1);
        while guest.transmit.driver.used_flags(&guest.memory) != 0 {
            std::thread::yield_now();
        }
    }
    guest.settle();
    assert_eq!(kicks(&guest), 6);
}
