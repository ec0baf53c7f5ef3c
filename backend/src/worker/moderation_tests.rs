use super::*;

const LONGEST: Duration = Duration::from_micros(150);
const TURN: Duration = Duration::from_micros(100);

/// A flow of GSO frames for a while; `rate` says the bytes a second by the rest in use.
/// Returns the rests after the turns.
fn run(moderation: &mut Moderation, now: &mut Instant, turns: u32, rate: impl Fn(Duration) -> u64) -> Vec<Duration> {
    let mut rest = Duration::ZERO;
    let mut rests = vec![];
    for _ in 0..turns {
        let passed = TURN + rest;
        *now = *now + passed;
        let bytes = rate(rest) / 1_000_000 * u64::try_from(passed.as_micros()).unwrap();
        let moved = Moved {
            frames: bytes.div_ceil(65_000),
            bytes,
        };
        rest = moderation.rest(*now, Moved::default(), moved).unwrap_or_default();
        rests.push(rest);
    }
    rests
}

fn mean(rests: &[Duration]) -> Duration {
    rests.iter().sum::<Duration>() / u32::try_from(rests.len()).unwrap()
}

fn start() -> (Moderation, Instant) {
    (Moderation::new(LONGEST), Instant::from_nanos(1_000_000_000))
}

#[test]
fn where_rest_costs_nothing_it_becomes_the_longest() {
    let (mut moderation, mut now) = start();
    let rests = run(&mut moderation, &mut now, 1000, |_| 1_500_000_000);
    assert_eq!(rests[0], Duration::ZERO, "a flow begins without");
    assert!(
        rests[500..].iter().all(|rest| *rest == LONGEST),
        "{:?}",
        mean(&rests[500..])
    );
}

#[test]
fn where_rest_makes_a_flow_slower_there_is_next_to_none() {
    let (mut moderation, mut now) = start();
    // A window of 100 kB a turn, however long the turn.
    let by_window = |rest: Duration| 100_000 * 1_000_000 / u64::try_from((TURN + rest).as_micros()).unwrap();
    let rests = run(&mut moderation, &mut now, 20_000, by_window);
    let late = mean(&rests[10_000..]);
    assert!(late < Duration::from_micros(2), "{late:?}");
}

#[test]
fn the_best_of_several_rests_is_kept() {
    let (mut moderation, mut now) = start();
    let best_at_100 = |rest: Duration| match rest.as_micros() {
        0 => 1_000_000_000,
        50 => 1_200_000_000,
        100 => 1_400_000_000,
        _ => 1_000_000_000,
    };
    let rests = run(&mut moderation, &mut now, 20_000, best_at_100);
    let at_best = rests[5000..].iter().filter(|rest| **rest == LONGEST * 2 / 3).count();
    assert!(at_best > 14_000, "{at_best} of 15000");
}

#[test]
fn it_follows_a_flow_that_changes() {
    let (mut moderation, mut now) = start();
    run(&mut moderation, &mut now, 1000, |_| 1_500_000_000);
    assert_eq!(moderation.step, 3);
    let slower_by_rest = |rest: Duration| 1_400_000_000 - u64::try_from(rest.as_micros()).unwrap() * 4_000_000;
    let rests = run(&mut moderation, &mut now, 5000, slower_by_rest);
    let late = mean(&rests[2500..]);
    assert!(late < Duration::from_micros(20), "{late:?}");
}

#[test]
fn small_frames_and_small_turns_are_not_kept_waiting() {
    let (mut moderation, mut now) = start();
    run(&mut moderation, &mut now, 1000, |_| 1_500_000_000);
    let acknowledgment = Moved { frames: 1, bytes: 66 };
    let flood = Moved {
        frames: 1000,
        bytes: 1_400_000,
    };
    let bulk = Moved {
        frames: 2,
        bytes: 130_000,
    };
    assert_eq!(moderation.rest(now, acknowledgment, acknowledgment), None);
    assert_eq!(moderation.rest(now, flood, Moved::default()), None);
    assert_eq!(moderation.rest(now, bulk, acknowledgment), Some(LONGEST));
}

#[test]
fn after_a_pause_it_begins_anew() {
    let (mut moderation, mut now) = start();
    run(&mut moderation, &mut now, 1000, |_| 1_500_000_000);
    now = now + Duration::from_secs(1);
    assert_eq!(run(&mut moderation, &mut now, 1, |_| 1_500_000_000), [Duration::ZERO]);
}

#[test]
fn with_a_longest_rest_of_zero_it_never_rests() {
    let mut moderation = Moderation::new(Duration::ZERO);
    let rests = run(&mut moderation, &mut Instant::from_nanos(1_000_000_000), 1000, |_| {
        1_500_000_000
    });
    assert_eq!(mean(&rests), Duration::ZERO);
}
