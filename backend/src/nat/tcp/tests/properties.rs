//! Property tests: whatever the link does, each side receives exactly the bytes that the other side sent.

use super::pair::{Conditions, Opener, Pair, Rng};
use crate::nat::tcp::testing::Player;
use proptest::prelude::*;
use std::time::Duration;

fn stream_of(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect()
}

/// Sends `up` bytes from the guest and `down` bytes to it, closes both sides, and compares the bytes.
fn transfer(conditions: Conditions, opener: Opener, up: usize, down: usize) {
    transfer_while(conditions, opener, [up, down], |_| {});
}

/// Does the same as [`transfer`], and calls `meanwhile` before each round.
pub(super) fn transfer_while(
    conditions: Conditions,
    opener: Opener,
    [up, down]: [usize; 2],
    mut meanwhile: impl FnMut(&mut Pair),
) -> Pair {
    let up = stream_of(up, conditions.seed);
    let down = stream_of(down, conditions.seed + 1);
    let (mut sent_up, mut sent_down) = (0, 0);
    let mut got_down = Vec::new();
    let mut world_closed = false;
    let mut pair = Pair::new(conditions, opener);
    let expected = (up.clone(), down.clone());
    pair.run(Duration::from_secs(3600), |pair| {
        meanwhile(pair);
        if sent_down < down.len() {
            let n = (down.len() - sent_down).min(9_000);
            pair.world_sends(&down[sent_down..sent_down + n]);
            sent_down += n;
        } else if !world_closed && pair.connection.is_some() {
            pair.world_closes();
            world_closed = true;
        }
        let guest_reads = pair.guest_reads;
        let guest = pair.guest();
        if guest.may_send() && sent_up < up.len() {
            sent_up += guest.send_slice(&up[sent_up..]).unwrap();
        } else if guest.may_send() && sent_up == up.len() {
            guest.close();
        }
        while guest_reads && guest.can_recv() {
            guest
                .recv(|bytes| (bytes.len(), got_down.extend_from_slice(bytes)))
                .unwrap();
        }
        let complete = got_down.len() >= expected.1.len() && pair.stream.received.len() >= expected.0.len();
        complete && pair.stream.write_closed
    });
    assert!(got_down == expected.1, "bytes to the guest differ");
    assert!(pair.stream.received == expected.0, "bytes from the guest differ");
    assert_eq!(pair.resets_to_guest, 0);
    pair
}

#[test]
fn a_clean_link_carries_both_ways() {
    for opener in [Opener::Guest, Opener::World] {
        for (tso, timestamps) in [(true, true), (true, false), (false, true), (false, false)] {
            let conditions = Conditions {
                tso,
                timestamps,
                ..Conditions::default()
            };
            transfer(conditions, opener, 400_000, 400_000);
        }
    }
}

#[test]
fn a_slow_reader_in_the_world_loses_nothing() {
    let conditions = Conditions {
        send_queue: 9_000,
        ..Conditions::default()
    };
    transfer(conditions, Opener::Guest, 300_000, 0);
}

#[test]
fn a_segment_may_be_larger_than_the_queue_of_the_host_socket() {
    let conditions = Conditions {
        mtu: 65_520,
        send_queue: 40_000,
        ..Conditions::default()
    };
    transfer(conditions, Opener::Guest, 300_000, 0);
}

#[test]
fn what_comes_late_after_both_have_closed_changes_no_byte() {
    let conditions = Conditions {
        seed: 2_971_006_959,
        lost: 2,
        doubled: 1,
        late: 11,
        mtu: 576,
        send_queue: 3000,
        room: 7,
        guest_buffer: 35_528,
        ..Conditions::default()
    };
    transfer(conditions, Opener::Guest, 35_377, 1);
}

#[test]
fn a_guest_short_of_buffers_loses_nothing() {
    let conditions = Conditions {
        room: 1,
        guest_buffer: 4_000,
        ..Conditions::default()
    };
    transfer(conditions, Opener::World, 50_000, 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_bad_link_delivers_the_same_bytes(
        seed in any::<u32>(),
        lost in 0u64..12,
        doubled in 0u64..20,
        late in 0u64..20,
        mtu in prop_oneof![Just(576u16), Just(1280), Just(1500), Just(9000), Just(65_535)],
        (tso, timestamps) in any::<(bool, bool)>(),
        send_queue in 3_000usize..200_000,
        room in 1usize..40,
        guest_buffer in 2_000usize..65_000,
        from_guest in any::<bool>(),
        up in 0usize..60_000,
        down in 0usize..60_000,
    ) {
        let conditions = Conditions {
            seed: seed.into(), lost, doubled, late, mtu, tso, timestamps, send_queue, room, guest_buffer,
        };
        let opener = if from_guest { Opener::Guest } else { Opener::World };
        transfer(conditions, opener, up, down);
    }
}

#[test]
fn whatever_guest_and_world_do_bytes_keep_their_places() {
    const GAMES: u64 = 500;
    const MOVES: usize = 60;
    for seed in 0..GAMES {
        let mut rng = Rng::new(seed);
        let mut player = Player::new().unwrap();
        let mut byte = || u8::try_from(rng.below(256)).unwrap();
        for _ in 0..MOVES {
            if !player.step([byte(), byte(), byte(), byte()]) {
                break;
            }
        }
    }
}
