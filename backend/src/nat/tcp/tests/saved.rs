//! Tests of connections that move between processes. They are saved at any moment, and loaded with the same host socket
//! where the clock shows a different time.

use super::pair::{Conditions, Opener, Pair, Rng};
use super::properties::transfer_while;
use crate::nat::tcp::connection::{Connection, Readable, Receiving, Sending, State};
use crate::nat::tcp::testing::Player;
use crate::nat::tcp::timer::Timer;
use crate::time::Instant;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// A time that the clock of another host may show.
fn some_time(rng: &mut Rng) -> Instant {
    const LATEST: u64 = 1 << 50;
    let latest = 1 << rng.below(LATEST.ilog2().into());
    Instant::from_nanos(rng.below(latest))
}

/// Number of different marks that [`standing`] can return.
const MARKS: usize = 19;

/// Marks for the aspects of the connection's current state that are hard to restore.
fn standing(c: &Connection) -> impl Iterator<Item = &'static str> {
    let is_open = c.state() == State::Established;
    let marks: [_; MARKS] = [
        (c.state() == State::SynSent, "SYN-SENT"),
        (c.state() == State::SynReceived, "SYN-RECEIVED"),
        (c.state() == State::TimeWait, "TIME-WAIT"),
        (
            c.sending == Sending::FinSent && c.receiving == Receiving::Open,
            "FIN-WAIT-1",
        ),
        (
            is_open && c.sending == Sending::Closed && c.receiving == Receiving::Open,
            "FIN-WAIT-2",
        ),
        (
            is_open && c.sending == Sending::Open && c.receiving == Receiving::Closed,
            "CLOSE-WAIT",
        ),
        (
            c.sending == Sending::FinSent && c.receiving == Receiving::Closed,
            "CLOSING or LAST-ACK",
        ),
        (c.receiving == Receiving::Draining, "draining"),
        (is_open && c.snd_una != c.snd_nxt, "in flight"),
        (is_open && c.snd_nxt.before(c.snd_max), "gone back"),
        (c.dup_acks > 0, "a hole at the guest"),
        (c.retries > 0, "sent again"),
        (is_open && c.snd_wnd == 0, "the guest's window is closed"),
        (matches!(c.timer, Timer::Persist(_)), "probing the window"),
        (is_open && c.window_field() == 0, "our window is closed"),
        (c.window_tight, "our window is small"),
        (!c.spill.is_empty(), "bytes kept"),
        (c.ack_due, "an acknowledgment is due"),
        (c.readable == Readable::UntilEnd, "the end is not read"),
    ];
    marks.into_iter().filter(|(is, _)| *is).map(|(_, name)| name)
}

/// Sends bytes both ways and closes both sides, while a new process takes over every `seldom` rounds on average.
fn transfer_by_turns(
    conditions: Conditions,
    opener: Opener,
    bytes: [usize; 2],
    seldom: u64,
    seen: &mut BTreeSet<&'static str>,
) {
    let mut rng = Rng::new(conditions.seed ^ 0x5a5a);
    let mut replace = |pair: &mut Pair| {
        for reads in [&mut pair.guest_reads, &mut pair.world_reads] {
            *reads ^= rng.below(if *reads { 500 } else { 50 }) == 0;
        }
        if rng.below(seldom) == 0 {
            seen.extend(pair.connection.iter().flat_map(standing));
            pair.replace(some_time(&mut rng));
        }
    };
    let mut pair = transfer_while(conditions, opener, bytes, &mut replace);
    pair.run(Duration::from_secs(3600), |pair| {
        replace(pair);
        pair.connection.is_none()
    });
    assert!(!pair.stream.broken, "the world sees FIN, not RST");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_connection_that_changes_processes_delivers_the_same_bytes(
        seed in any::<u32>(),
        lost in 0u64..12,
        doubled in 0u64..20,
        late in 0u64..20,
        mtu in prop_oneof![Just(576u16), Just(1500), Just(65_535)],
        (tso, timestamps) in any::<(bool, bool)>(),
        send_queue in 3_000usize..200_000,
        room in 1usize..40,
        guest_buffer in 2_000usize..65_000,
        from_guest in any::<bool>(),
        bytes in prop::array::uniform2(0usize..60_000),
        seldom in 3u64..400,
    ) {
        let conditions = Conditions {
            seed: seed.into(), lost, doubled, late, mtu, tso, timestamps, send_queue, room, guest_buffer,
        };
        let opener = if from_guest { Opener::Guest } else { Opener::World };
        transfer_by_turns(conditions, opener, bytes, seldom, &mut BTreeSet::new());
    }
}

#[test]
fn connections_change_processes_in_every_state() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut below = |n| usize::try_from(rng.below(n)).unwrap();
        let conditions = Conditions {
            seed,
            lost: below(12) as u64,
            late: below(20) as u64,
            send_queue: 3_000 + below(20_000),
            room: 1 + below(7),
            guest_buffer: 2_000 + below(20_000),
            timestamps: seed % 2 == 0,
            ..Conditions::default()
        };
        let opener = if seed % 4 < 2 { Opener::Guest } else { Opener::World };
        // These are more bytes than the first window, which never shrinks.
        let up = if seed % 5 == 0 { 150_000 } else { below(30_000) };
        let bytes = [up, below(30_000)];
        transfer_by_turns(conditions, opener, bytes, 3, &mut seen);
    }
    assert_eq!(seen.len(), MARKS, "{seen:?}");
}

#[test]
fn a_connection_that_changes_processes_does_what_it_would_have_done() {
    const GAMES: u64 = 200;
    const MOVES: usize = 60;
    for seed in 0..GAMES {
        let mut rng = Rng::new(seed ^ 0xa5a5);
        let (mut stays, mut changes) = (Player::new().unwrap(), Player::new().unwrap());
        for place in 0..MOVES {
            // The clock advances by whole ticks of the timestamp clock, so that both sides show the same value.
            changes.replace(Duration::from_millis(rng.below(1 << 30)));
            let mut byte = || u8::try_from(rng.below(256)).unwrap();
            let next = [byte(), byte(), byte(), byte()];
            let both_go_on = (stays.step(next), changes.step(next));
            assert_eq!(stays.effects(), changes.effects(), "game {seed}, move {place}");
            assert_eq!(stays.save(), changes.save(), "game {seed}, move {place}");
            if both_go_on != (true, true) {
                break;
            }
        }
    }
}
