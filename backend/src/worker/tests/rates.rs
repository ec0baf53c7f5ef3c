//! Tests of a port's rate limits with the worker's clock. The bounds are wide. The tests of the buckets check exact
//! values.

use super::*;
use crate::config::{PortConfig, Rate, RateLimit, Rates};
use crate::port::testing::config as port;
use std::time::Instant as Clock;

const PACKETS: RateLimit = RateLimit {
    bytes: None,
    packets: Some(Rate {
        per_second: 100,
        burst: 10,
    }),
};

fn limited(rates: Rates) -> PortConfig {
    let mut config = port(1);
    config.policy.rates = rates;
    config
}

/// Time that thirty frames in each direction take.
fn echo_thirty(guest: &mut Guest) -> Duration {
    guest.post_receive(40, 1536);
    let sent: Vec<_> = (0..30).map(|i| frame(i, 60)).collect();
    for frame in &sent {
        guest.post_transmit(frame);
    }
    let start = Clock::now();
    guest.transmit.kick();
    assert!(guest.wait_frames(30) == sent, "all frames, in order");
    start.elapsed()
}

#[test]
fn what_the_guest_may_not_send_yet_waits_in_its_ring() {
    let rates = Rates {
        from_guest: PACKETS,
        ..Rates::default()
    };
    let mut guest = Guest::of(limited(rates)).up(PLAIN);
    let time = echo_thirty(&mut guest);
    assert!(time >= Duration::from_millis(190), "{time:?}");
    assert!(guest.port.counters().count(Count::TxThrottled) > 0);
    assert!(guest.port.report().lines().all(|line| !line.contains("dropped")));
}

#[test]
fn frames_that_the_guest_may_not_get_yet_wait_with_their_owner() {
    let rates = Rates {
        to_guest: PACKETS,
        ..Rates::default()
    };
    let mut guest = Guest::of(limited(rates)).up(EVENTS);
    let time = echo_thirty(&mut guest);
    assert!(time >= Duration::from_millis(190), "{time:?}");
    assert!(guest.port.counters().count(Count::RxThrottled) > 0);
    assert!(guest.port.report().lines().all(|line| !line.contains("dropped")));
}

#[test]
fn waiting_for_tokens_costs_few_turns() {
    let rates = Rates {
        from_guest: PACKETS,
        to_guest: PACKETS,
    };
    let mut guest = Guest::of(limited(rates)).up(PLAIN);
    echo_thirty(&mut guest);
    let counters = guest.port.counters();
    // Each of twenty frames has to wait in each direction, and sometimes again if a timer fires
    // early.
    let waits = counters.count(Count::TxThrottled) + counters.count(Count::RxThrottled);
    assert!((20..200).contains(&waits), "{waits}");
}

#[test]
fn a_queue_that_waits_for_tokens_continues_when_the_limit_is_lifted_and_waits_when_one_is_set() {
    let crawl = RateLimit {
        bytes: None,
        packets: Some(Rate {
            per_second: 1,
            burst: 1,
        }),
    };
    let both = Rates {
        from_guest: crawl,
        to_guest: crawl,
    };
    let mut guest = Guest::of(limited(both)).up(PLAIN);
    guest.post_receive(40, 1536);
    let sent: Vec<_> = (0..30).map(|i| frame(i, 60)).collect();
    for frame in &sent {
        guest.post_transmit(frame);
    }
    guest.transmit.kick();
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.port.counters().count(Count::TxFrames) < 5);
    guest.port.set_rates(Rates::default());
    assert!(guest.wait_frames(30) == sent, "all frames, in order");
    assert_eq!(guest.port.rates(), Rates::default());
    guest.port.set_rates(Rates {
        from_guest: PACKETS,
        ..Rates::default()
    });
    let time = echo_thirty(&mut guest);
    assert!(time >= Duration::from_millis(190), "{time:?}");
}
