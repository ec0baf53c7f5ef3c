use super::*;

const LONGEST: Duration = Duration::from_micros(150);
const TURN: Duration = Duration::from_micros(100);
const NOTHING: Moved = Moved { frames: 0, bytes: 0 };

/// A simulated flow to the guest, in virtual time.
struct Flow {
    moderation: Moderation,
    now: Instant,
    busy: Duration,
    /// Rate in bytes per second, given the current rest.
    rate: fn(Duration) -> u64,
    /// Fixed processor time of a turn. Each byte takes another tenth of a nanosecond.
    turn: Duration,
}

impl Flow {
    fn new(rate: fn(Duration) -> u64) -> Self {
        Self {
            moderation: Moderation::new(LONGEST),
            now: Instant::from_nanos(1_000_000_000),
            busy: Duration::ZERO,
            rate,
            turn: Duration::from_micros(20),
        }
    }

    /// Returns the rests during this many turns of GSO frames.
    fn run(&mut self, turns: u32) -> Vec<Duration> {
        let mut rest = Duration::ZERO;
        let turn = |_| {
            let passed = TURN + rest;
            self.now = self.now + passed;
            let bytes = (self.rate)(rest) / 1_000_000 * u64::try_from(passed.as_nanos()).unwrap() / 1000;
            self.busy += self.turn + Duration::from_nanos(bytes / 10);
            let frames = bytes.div_ceil(65_000);
            let moved = [NOTHING, Moved { frames, bytes }];
            rest = self.moderation.rest(self.now, moved, || self.busy).unwrap_or_default();
            rest
        };
        (0..turns).map(turn).collect()
    }

    /// Returns the rest once it has settled.
    fn settle(&mut self) -> Duration {
        self.run(10_000);
        let rests = self.run(20_000);
        rests.iter().sum::<Duration>() / 20_000
    }
}

fn steady(_: Duration) -> u64 {
    1_500_000_000
}

/// The rate of a flow that is limited by its window: 100 kB per turn, however long the turn.
fn by_window(rest: Duration) -> u64 {
    100_000 * 1_000_000 / micros(TURN + rest)
}

#[test]
fn where_rests_cost_no_speed_they_grow_up_to_the_longest() {
    let mut flow = Flow::new(steady);
    let beginning = flow.run(100);
    assert!(beginning.iter().all(Duration::is_zero), "a flow begins without");
    let late = flow.settle();
    assert!(late > LONGEST * 9 / 10, "{late:?}");
}

#[test]
fn they_grow_until_a_turn_moves_the_goal() {
    let mut flow = Flow::new(|_| 3_000_000_000);
    flow.turn *= 2;
    let late = flow.settle();
    let ideal = Duration::from_micros(GOAL.to_guest / 3_000) - TURN;
    assert!(late > ideal * 3 / 4 && late < ideal * 5 / 4, "{late:?} not {ideal:?}");
    let mut flow = Flow::new(|_| 8_000_000_000);
    assert_eq!(flow.settle(), Duration::ZERO, "turns of 800 kB are long enough");
}

#[test]
fn where_rests_make_a_flow_slower_there_are_next_to_none() {
    let late = Flow::new(by_window).settle();
    assert!(late < Duration::from_micros(2), "{late:?}");
}

#[test]
fn where_rests_save_nothing_there_are_next_to_none() {
    let mut flow = Flow::new(steady);
    flow.turn = Duration::ZERO;
    let late = flow.settle();
    assert!(late < Duration::from_micros(2), "{late:?}");
}

#[test]
fn it_follows_a_flow_that_changes() {
    let mut flow = Flow::new(steady);
    flow.settle();
    flow.rate = by_window;
    let late = flow.settle();
    assert!(late < Duration::from_micros(5), "{late:?}");
    flow.rate = steady;
    flow.run(100_000);
    let late = flow.settle();
    assert!(late > LONGEST * 9 / 10, "{late:?}");
}

#[test]
fn small_frames_and_small_turns_are_not_kept_waiting() {
    let mut flow = Flow::new(steady);
    flow.settle();
    let acknowledgment = Moved { frames: 1, bytes: 66 };
    let flood = Moved {
        frames: 1000,
        bytes: 1_400_000,
    };
    let bulk = Moved {
        frames: 2,
        bytes: 130_000,
    };
    // The trial's periods without rests are skipped.
    while flow.run(1)[0] < LONGEST {}
    let mut rest = |moved| flow.moderation.rest(flow.now, moved, || flow.busy);
    assert_eq!(rest([acknowledgment, acknowledgment]), None);
    assert_eq!(rest([flood, NOTHING]), None);
    assert_eq!(rest([bulk, acknowledgment]), Some(LONGEST));
}

#[test]
fn after_a_pause_it_begins_anew_whatever_small_things_moved_in_it() {
    let mut flow = Flow::new(steady);
    flow.settle();
    for _ in 0..200 {
        flow.now = flow.now + Duration::from_millis(1);
        let moved = [Moved { frames: 1, bytes: 1500 }; 2];
        assert_eq!(flow.moderation.rest(flow.now, moved, || flow.busy), None);
    }
    assert!(flow.run(100).iter().all(Duration::is_zero));
}

#[test]
fn with_a_longest_rest_of_zero_it_never_rests() {
    let mut flow = Flow::new(steady);
    flow.moderation = Moderation::new(Duration::ZERO);
    assert_eq!(flow.settle(), Duration::ZERO);
}
