//! Limits the rate of frames from a guest that are copied to all endpoints. A token bucket without a clock of its own.

use crate::time::Instant;
use std::time::Duration;

/// Frames per second. Each is sent once to every endpoint of the network.
const PER_SECOND: u64 = 1000;
/// Frames allowed in one burst after a period of silence.
const BURST: u64 = 1000;
/// Nanoseconds per token.
const PRICE: u64 = 1_000_000_000 / PER_SECOND;
/// Time in which an empty bucket is refilled.
const DEPTH: Duration = Duration::from_nanos(PRICE * BURST);

/// The tokens of one worker, stored as the time at which all of them would be available again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flood {
    full_at: Instant,
}

impl Flood {
    /// Takes a token. Returns false if there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + Duration::from_nanos(PRICE);
        let has_token = full_at.since(now) <= DEPTH;
        if has_token {
            self.full_at = full_at;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_as_many_as_the_rate_and_a_burst_allow() {
        let mut flood = Flood::default();
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let taken = |flood: &mut Flood, now| (0..5000).filter(|_| flood.take(now)).count();
        assert_eq!(taken(&mut flood, at(7)), 1000);
        assert_eq!(taken(&mut flood, at(7)), 0);
        assert_eq!(taken(&mut flood, at(17)), 10);
        assert_eq!(
            taken(&mut flood, at(1_000_017)),
            1000,
            "silence saves no more than a burst"
        );
    }
}
