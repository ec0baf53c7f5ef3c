use super::*;

const SECOND: Duration = Duration::from_secs(1);
const START: Instant = Instant::from_nanos(5_000_000_000);

fn bytes(per_second: u64, burst: u64) -> Option<Arc<Limiter>> {
    Limiter::new(RateLimit {
        bytes: Some(Rate { per_second, burst }),
        packets: None,
    })
}

fn packets_only(per_second: u64, burst: u64) -> Option<Arc<Limiter>> {
    Limiter::new(RateLimit {
        bytes: None,
        packets: Some(Rate { per_second, burst }),
    })
}

/// Sends frames of `len` bytes whenever a gate lets them pass, for `time` beginning at `start`. The worker wakes up to
/// `late` after the time that it requested. Returns the number of bytes sent.
fn flood(gates: &mut [Gate], start: Instant, time: Duration, len: usize, late: Duration) -> u64 {
    let (mut now, mut sent) = (start, 0);
    while now.since(start) < time {
        for gate in &mut *gates {
            gate.look(now);
            while gate.admits() {
                gate.pass(len, Segmentation::None);
                sent += len as u64;
            }
        }
        let woken = gates.iter().filter_map(Gate::opens_at).min().unwrap();
        assert!(woken > now, "a closed gate opens later");
        now = woken + late;
    }
    sent
}

#[track_caller]
fn near(value: u64, wanted: u64, percent: u64) {
    assert!(
        value.abs_diff(wanted) * 100 <= wanted * percent,
        "{value} is not {wanted}"
    );
}

#[test]
fn what_passes_in_the_long_run_is_the_rate() {
    for per_second in [1000, 12_500_000, 125_000_000, 12_500_000_000] {
        for (len, late) in [(64, 0), (1514, 900), (65_549, 1900)] {
            let mut gate = [Gate::new(bytes(per_second, per_second / 20))];
            let late = Duration::from_micros(late);
            // The initially full bucket distorts the rate, so a slow rate is measured for a long time.
            let time = if per_second == 1000 { SECOND * 10_000 } else { SECOND };
            flood(&mut gate, START, time, len, late);
            let sent = flood(&mut gate, START + time, time, len, late);
            let wanted = per_second * time.as_secs();
            near(sent, wanted, if per_second > 1 << 30 { 2 } else { 1 });
        }
    }
}

#[test]
fn workers_share_a_ports_tokens() {
    let limiter = bytes(12_500_000, 0);
    let mut gates = [
        Gate::new(limiter.clone()),
        Gate::new(limiter.clone()),
        Gate::new(limiter),
    ];
    flood(&mut gates, START, SECOND, 1514, Duration::ZERO);
    let sent = flood(&mut gates, START + SECOND, SECOND, 1514, Duration::ZERO);
    near(sent, 12_500_000, 1);
}

#[test]
fn a_burst_passes_at_once_and_no_more() {
    let mut gate = Gate::new(bytes(1_000_000, 100_000));
    gate.look(START);
    let mut sent = 0;
    while gate.admits() {
        gate.pass(1000, Segmentation::None);
        sent += 1000;
    }
    assert_eq!(sent, 100_000);
    // A millisecond later there are tokens for a thousand bytes, and one frame passes.
    let opens = gate.opens_at().unwrap();
    assert_eq!(opens.since(START), Duration::from_millis(1));
    gate.look(START);
    assert!(!gate.admits());
    gate.look(opens);
    assert!(gate.admits());
}

#[test]
fn time_without_traffic_saves_a_burst_and_not_more() {
    let mut gate = Gate::new(packets_only(1000, 10));
    for at in [START, START + SECOND * 3600] {
        gate.look(at);
        let mut sent = 0;
        while gate.admits() {
            gate.pass(64, Segmentation::None);
            sent += 1;
        }
        assert_eq!(sent, 10);
    }
}

#[test]
fn one_frame_more_than_there_is_makes_debt_that_is_paid() {
    let mut gate = Gate::new(bytes(100_000, 1000));
    gate.look(START);
    assert!(gate.admits());
    gate.pass(65_000, Segmentation::None);
    assert!(!gate.admits());
    // This is 65000 bytes minus the burst of 1000, at 100 per millisecond, plus a chunk.
    near(
        u64::try_from(gate.opens_at().unwrap().since(START).as_micros()).unwrap(),
        641_000,
        1,
    );
}

#[test]
fn segments_count_as_packets() {
    let limiter = packets_only(1000, 100);
    let mut gate = Gate::new(limiter);
    gate.look(START);
    gate.pass(64_000, Segmentation::Tcp4 { mss: 1448, ecn: false });
    assert_eq!(gate.budget().packets, 100 - 45);
    gate.pass(64_000, Segmentation::Udp { size: 1200 });
    assert_eq!(gate.budget().packets, 55 - 54);
    gate.pass(64, Segmentation::None);
    assert!(!gate.admits());
}

#[test]
fn the_scarcer_of_bytes_and_packets_decides() {
    let limiter = Limiter::new(RateLimit {
        bytes: Some(Rate {
            per_second: 1_000_000,
            burst: 10_000,
        }),
        packets: Some(Rate {
            per_second: 1000,
            burst: 5,
        }),
    });
    let mut gate = [Gate::new(limiter)];
    flood(&mut gate, START, SECOND, 100, Duration::ZERO);
    near(
        flood(&mut gate, START + SECOND, SECOND, 100, Duration::ZERO),
        100_000,
        1,
    );
    near(
        flood(&mut gate, START + SECOND * 3, SECOND, 10_000, Duration::ZERO),
        1_000_000,
        3,
    );
}

#[test]
fn without_a_limit_nothing_is_counted_and_nothing_waits() {
    let mut gate = Gate::new(Limiter::new(RateLimit::default()));
    gate.look(START);
    for _ in 0..1000 {
        assert!(gate.admits());
        gate.pass(usize::MAX, Segmentation::None);
    }
    assert_eq!((gate.opens_at(), gate.budget()), (None, Budget::UNLIMITED));
}
