//! Rate limits of a port: token buckets that read no clock.
//!
//! A bucket is a single number that all workers of a port share: the time at which it would be full again. Taking
//! tokens moves that time later. If the time is further ahead than the bucket's depth, the bucket is in debt. So no
//! refilling is needed, and a worker reads the number once per burst.
//!
//! A frame without tokens waits where it is: in the guest's ring, in a socket or in a device queue. Each direction of a
//! worker has a [`Gate`]. The gate passes frames while there are tokens and overdraws by at most one frame. Then it
//! closes until tokens for one millisecond, the resolution of timers, have accumulated.

use crate::config::{Rate, RateLimit};
use crate::frame::{Budget, GuestBurst, Segmentation};
use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NANOS: u64 = 1_000_000_000;
/// Fractional bits in the price of a token.
const FRACTION: u32 = 32;
/// Tokens that a closed gate waits for, as nanoseconds at the limit's rate.
const CHUNK: u64 = 1_000_000;
/// Minimum depth of a bucket, as nanoseconds of tokens. It is several chunks, so that no tokens are lost while a worker
/// sleeps.
const MIN_DEPTH: u64 = 4 * CHUNK;

/// A token bucket shared by several workers.
#[derive(Debug)]
struct Bucket {
    /// Time, in nanoseconds of the clock, at which the bucket is full again if no more tokens are taken.
    full_at: AtomicU64,
    /// Nanoseconds per token, as a fixed-point number with [`FRACTION`] fractional bits.
    price: u64,
    /// Nanoseconds in which an empty bucket is filled.
    depth: u64,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let price = (u128::from(NANOS) << FRACTION) / u128::from(rate.per_second.max(1));
        let price = u64::try_from(price).unwrap_or(u64::MAX).max(1);
        Self {
            full_at: AtomicU64::new(0),
            price,
            depth: worth(rate.burst, price).max(MIN_DEPTH),
        }
    }

    /// Number of tokens in the bucket.
    fn level(&self, now: Instant) -> u64 {
        let missing = self.full_at.load(Ordering::Relaxed).saturating_sub(now.as_nanos());
        let tokens = (u128::from(self.depth.saturating_sub(missing)) << FRACTION) / u128::from(self.price);
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Takes tokens. The level may become negative.
    fn take(&self, now: Instant, tokens: u64) {
        let worth = worth(tokens, self.price);
        let later = |full_at: u64| Some(full_at.max(now.as_nanos()).saturating_add(worth));
        // The closure always returns a value.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Time at which the bucket contains enough tokens to be worth a wake-up.
    fn refilled(&self) -> Instant {
        let full_at = self.full_at.load(Ordering::Relaxed);
        Instant::from_nanos((full_at + CHUNK).saturating_sub(self.depth))
    }
}

/// Nanoseconds in which `tokens` accumulate.
fn worth(tokens: u64, price: u64) -> u64 {
    u64::try_from((u128::from(tokens) * u128::from(price)) >> FRACTION).unwrap_or(u64::MAX / 2)
}

/// The buckets of one direction of a port.
#[derive(Debug)]
pub struct Limiter {
    bytes: Option<Bucket>,
    packets: Option<Bucket>,
}

impl Limiter {
    /// The buckets of a limit. `None` if the limit has none.
    pub fn new(limit: RateLimit) -> Option<Arc<Self>> {
        let limiter = Self {
            bytes: limit.bytes.map(Bucket::new),
            packets: limit.packets.map(Bucket::new),
        };
        (limiter.bytes.is_some() || limiter.packets.is_some()).then(|| Arc::new(limiter))
    }
}

/// The gate of one direction of one worker.
#[derive(Debug, Default)]
pub struct Gate {
    limiter: Option<Arc<Limiter>>,
    now: Instant,
    budget: Option<Budget>,
    /// Frames that have passed since tokens were last taken.
    passed: Passed,
    closed_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    bytes: u64,
    packets: u64,
}

impl Gate {
    /// A gate controlled by `limiter`. Without a limiter it is always open.
    pub fn new(limiter: Option<Arc<Limiter>>) -> Self {
        Self {
            limiter,
            ..Self::default()
        }
    }

    /// Replaces the limit. Frames that waited for tokens of the old limit must be tried again.
    pub fn replace(&mut self, now: Instant, limiter: Option<Arc<Limiter>>) {
        self.settle();
        *self = Self::new(limiter);
        self.look(now);
    }

    /// Reads the buckets at time `now`. True if the gate was closed and has opened.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.limiter.is_none() {
            return false;
        }
        self.settle();
        self.now = now;
        if self.closed_until.is_some_and(|at| at > now) {
            return false;
        }
        self.budget = Some(self.level());
        self.closed_until.take().is_some()
    }

    /// Number of bytes and packets that may pass now.
    pub fn budget(&self) -> Budget {
        match (&self.limiter, self.budget) {
            (Some(_), Some(budget)) => budget,
            (Some(_), None) => Budget { bytes: 0, packets: 0 },
            (None, _) => Budget::UNLIMITED,
        }
    }

    /// True if a frame may pass. If no frame may, the gate stays closed for a while.
    #[inline]
    pub fn admits(&mut self) -> bool {
        self.limiter.is_none() || !self.closes()
    }

    fn closes(&mut self) -> bool {
        if self.budget().is_spent() && self.closed_until.is_none() {
            self.close();
        }
        self.closed_until.is_some()
    }

    fn close(&mut self) {
        self.settle();
        if let Some(limiter) = &self.limiter {
            let buckets = [&limiter.bytes, &limiter.packets];
            let refilled = buckets.into_iter().flatten().map(Bucket::refilled).max();
            // The time must not be in the past, because the worker would spin.
            let soonest = self.now + Duration::from_nanos(CHUNK / 10);
            self.closed_until = refilled.map(|at| at.max(soonest));
        }
        self.budget = None;
    }

    /// Records a frame that passes.
    #[inline]
    pub fn pass(&mut self, bytes: usize, segmentation: Segmentation) {
        if self.limiter.is_some() {
            let (bytes, packets) = (bytes as u64, packets(bytes, segmentation));
            self.budget = self.budget.map(|budget| budget.after(bytes, packets));
            self.passed.bytes += bytes;
            self.passed.packets += packets;
        }
    }

    /// Records all frames of a burst.
    #[inline]
    pub fn pass_all(&mut self, burst: &GuestBurst<'_>) {
        if self.limiter.is_some() {
            burst
                .iter()
                .for_each(|frame| self.pass(frame.len, frame.offload.segmentation));
        }
    }

    /// Time at which the gate opens again, if it is closed.
    pub const fn opens_at(&self) -> Option<Instant> {
        self.closed_until
    }

    /// Takes the tokens for the frames that have passed.
    pub fn settle(&mut self) {
        let passed = std::mem::take(&mut self.passed);
        if let Some(limiter) = self.limiter.as_deref().filter(|_| passed.packets != 0) {
            if let Some(bytes) = &limiter.bytes {
                bytes.take(self.now, passed.bytes);
            }
            if let Some(packets) = &limiter.packets {
                packets.take(self.now, passed.packets);
            }
        }
    }

    fn level(&self) -> Budget {
        let Some(limiter) = &self.limiter else {
            return Budget::UNLIMITED;
        };
        let level = |bucket: &Option<Bucket>| bucket.as_ref().map_or(u64::MAX, |b| b.level(self.now));
        Budget {
            bytes: level(&limiter.bytes),
            packets: level(&limiter.packets),
        }
    }
}

/// Number of packets in a frame of `bytes`. Headers count as payload, because an error of one packet in a large frame
/// does not matter to a limit.
fn packets(bytes: usize, segmentation: Segmentation) -> u64 {
    let size = match segmentation {
        Segmentation::None => return 1,
        Segmentation::Tcp4 { mss, .. } | Segmentation::Tcp6 { mss, .. } => mss,
        Segmentation::Udp { size } => size,
    };
    (bytes as u64).div_ceil(u64::from(size.max(1)))
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
