//! How many frames a guest may have copied to all endpoints: tokens, without a clock.

use crate::time::Instant;
use std::time::Duration;

/// Frames a second. Each crosses once for every endpoint of the network.
const PER_SECOND: u64 = 1000;
/// Frames in one go, after a time of silence.
const BURST: u64 = 1000;
/// Nanoseconds in which a token comes.
const PRICE: u64 = 1_000_000_000 / PER_SECOND;
/// Time in which all tokens come.
const DEPTH: Duration = Duration::from_nanos(PRICE * BURST);

/// The tokens of one worker. One number is all there is: when they would be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flood {
    full_at: Instant,
}

impl Flood {
    /// Takes a token. False if there is none.
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
