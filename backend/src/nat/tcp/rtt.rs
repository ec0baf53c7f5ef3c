//! Retransmission time-out towards the guest (RFC 6298).

use super::seq::Seq;
use crate::nat::saved::{LoadError, Nanos, is_default, within};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// RTO before the first measurement (RFC 6298 2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// Minimum RTO (RFC 6298 2.4). A guest answers in microseconds and its link loses almost nothing, but a busy host may
/// delay it for a while. A longer wait is cheaper than sending megabytes again.
const MIN: Duration = Duration::from_secs(1);
/// Longest measured round trip, in microseconds. Eight times this value, about nine minutes, fits into 32 bits.
const LONGEST: u32 = u32::MAX / 8;
/// Maximum RTO, including back-off.
const MAX: Duration = Duration::from_secs(60);

/// Estimates the round-trip time to the guest, measured on one segment at a time (by Karn's rule, never on a
/// retransmitted segment).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RttEstimator {
    /// Smoothed round-trip time in microseconds. An integer takes half the space of a `Duration`, and every idle flow
    /// has one.
    smoothed: Option<u32>,
    variance: u32,
    /// The sequence number that ends the current measurement when it is acknowledged.
    running: Option<Seq>,
    /// Start of the current measurement.
    since: Instant,
    backoff: u8,
}

/// [`RttEstimator`] as a plain value.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedRtt {
    #[serde(rename = "s", alias = "smoothed_micros")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    smoothed_micros: Option<u32>,
    #[serde(rename = "v", alias = "variance_micros", default, skip_serializing_if = "is_default")]
    variance_micros: u32,
    #[serde(rename = "r", alias = "running", default, skip_serializing_if = "Option::is_none")]
    running: Option<SavedMeasurement>,
    #[serde(rename = "b", alias = "backoff", default, skip_serializing_if = "is_default")]
    backoff: u8,
}

/// A running measurement: the sequence number that ends it, and its duration so far.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct SavedMeasurement {
    end: Seq,
    age: Nanos,
}

impl SavedRtt {
    pub(super) fn load(&self, now: Instant) -> Result<RttEstimator, LoadError> {
        let smoothed = self.smoothed_micros.map(|s| within("smoothed_micros", s, 0..=LONGEST));
        Ok(RttEstimator {
            smoothed: smoothed.transpose()?,
            variance: within("variance_micros", self.variance_micros, 0..=LONGEST)?,
            running: self.running.map(|running| running.end),
            since: self.running.map_or(now, |running| running.age.before(now)),
            backoff: self.backoff,
        })
    }
}

impl RttEstimator {
    /// Converts the estimate to a plain value.
    pub(super) fn save(&self, now: Instant) -> SavedRtt {
        let Self {
            smoothed,
            variance,
            running,
            since,
            backoff,
        } = *self;
        SavedRtt {
            smoothed_micros: smoothed,
            variance_micros: variance,
            running: running.map(|end| SavedMeasurement {
                end,
                age: Nanos::since(since, now),
            }),
            backoff,
        }
    }

    /// Records a sent segment that ends before `end`. Starts a measurement if none is running.
    pub(super) fn sent(&mut self, now: Instant, end: Seq) {
        if self.running.is_none() {
            (self.running, self.since) = (Some(end), now);
        }
    }

    /// Records that everything before `una` was acknowledged. This ends the measurement that waits for it, and the
    /// back-off.
    pub(super) fn acknowledged(&mut self, now: Instant, una: Seq) {
        if self.running.take_if(|end| !una.before(*end)).is_some() {
            self.sample(now.since(self.since));
            self.backoff = 0;
        }
    }

    /// Records a retransmission, which makes the measurement ambiguous.
    pub(super) fn retransmitted(&mut self) {
        self.running = None;
    }

    /// Ends the back-off, because the path to the guest is known to work.
    pub(super) fn forget_back_off(&mut self) {
        self.backoff = 0;
    }

    /// Records a time-out. The next one takes twice as long.
    pub(super) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    fn sample(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).min(LONGEST);
        if let Some(smoothed) = self.smoothed {
            self.variance = (self.variance * 3 + smoothed.abs_diff(rtt)) / 4;
            self.smoothed = Some((smoothed * 7 + rtt) / 8);
        } else {
            self.smoothed = Some(rtt);
            self.variance = rtt / 2;
        }
    }

    /// The time-out for a segment that is sent now.
    pub(super) fn timeout(&self) -> Duration {
        let base = self.smoothed.map_or(INITIAL, |s| {
            Duration::from_micros(u64::from(s) + u64::from(self.variance) * 4).max(MIN)
        });
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
        rtt.sent(at(0), Seq(7));
        rtt.acknowledged(at(100), Seq(6));
        assert_eq!(rtt.timeout(), INITIAL, "a different segment is measured");
        rtt.acknowledged(at(400), Seq(7));
        assert_eq!(rtt.timeout(), Duration::from_millis(1200));
    }

    #[test]
    fn backs_off_up_to_a_limit_and_recovers() {
        let mut rtt = RttEstimator::default();
        rtt.sent(at(0), Seq(1));
        rtt.acknowledged(at(1), Seq(1));
        assert_eq!(rtt.timeout(), MIN);
        rtt.back_off();
        assert_eq!(rtt.timeout(), MIN * 2);
        (0..100).for_each(|_| rtt.back_off());
        assert_eq!(rtt.timeout(), MAX);
        rtt.sent(at(5), Seq(2));
        rtt.retransmitted();
        rtt.acknowledged(at(9000), Seq(2));
        rtt.forget_back_off();
        assert_eq!(rtt.timeout(), MIN, "a retransmitted segment is not measured");
    }
}
