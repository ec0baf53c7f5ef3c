//! Retransmission time-out towards the guest (RFC 6298).

use crate::time::Instant;
use std::time::Duration;

/// RTO before anything was measured (RFC 6298 2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// Least RTO. A guest answers in microseconds, but may be paused for a while.
const MIN: Duration = Duration::from_millis(200);
/// Largest RTO, backed off.
const MAX: Duration = Duration::from_secs(60);

/// Round trips to the guest, measured on one segment at a time (Karn: never on one
/// that was sent again).
#[derive(Clone, Copy, Debug, Default)]
pub struct RttEstimator {
    smoothed: Option<Duration>,
    variance: Duration,
    started: Option<Instant>,
    backoff: u8,
}

impl RttEstimator {
    /// A segment was sent; starts a measurement if none runs.
    pub fn sent(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// Everything in flight was acknowledged: ends the measurement and the back-off.
    pub fn acknowledged(&mut self, now: Instant) {
        self.backoff = 0;
        if let Some(started) = self.started.take() {
            self.sample(now.since(started));
        }
    }

    /// Something is sent again: the measurement would be ambiguous.
    pub fn retransmitted(&mut self) {
        self.started = None;
    }

    /// The time-out expired: wait twice as long for the next.
    pub fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    fn sample(&mut self, rtt: Duration) {
        if let Some(smoothed) = self.smoothed {
            self.variance = (self.variance * 3 + smoothed.abs_diff(rtt)) / 4;
            self.smoothed = Some((smoothed * 7 + rtt) / 8);
        } else {
            self.smoothed = Some(rtt);
            self.variance = rtt / 2;
        }
    }

    /// The time-out for a segment sent now.
    pub fn timeout(&self) -> Duration {
        let base = self.smoothed.map_or(INITIAL, |s| (s + self.variance * 4).max(MIN));
        base.saturating_mul(1 << self.backoff.min(10)).min(MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn the_first_sample_gives_three_times_its_length() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.sent(at(0));
        rtt.acknowledged(at(400));
        assert_eq!(rtt.timeout(), Duration::from_millis(1200));
    }

    #[test]
    fn backs_off_up_to_a_limit_and_recovers() {
        let mut rtt = RttEstimator::default();
        rtt.sent(at(0));
        rtt.acknowledged(at(1));
        assert_eq!(rtt.timeout(), MIN);
        rtt.back_off();
        assert_eq!(rtt.timeout(), MIN * 2);
        (0..100).for_each(|_| rtt.back_off());
        assert_eq!(rtt.timeout(), MAX);
        rtt.sent(at(5));
        rtt.retransmitted();
        rtt.acknowledged(at(9000));
        assert_eq!(rtt.timeout(), MIN, "a retransmitted segment is not measured");
    }
}
