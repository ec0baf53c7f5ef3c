//! Limits the rate of ICMPv6 errors from the gateway with a token bucket (RFC 4443 2.4 f). The RFC's example for small
//! devices is a burst of ten and ten per second.

use crate::time::Instant;
use std::time::Duration;

/// Maximum errors in a burst.
const BURST: u32 = 10;

/// Interval at which a token is added.
const EVERY: Duration = Duration::from_millis(100);

/// A token bucket for errors.
#[derive(Debug)]
pub struct ErrorRate {
    tokens: u32,
    /// The time for which tokens have been added.
    given: Instant,
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self {
            tokens: BURST,
            given: Instant::from_nanos(0),
        }
    }
}

impl ErrorRate {
    /// Takes a token. Returns false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let new = now.since(self.given).as_nanos() / EVERY.as_nanos();
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(new).min(BURST);
        // The rest of an interval counts towards the next token.
        self.given = if self.tokens == BURST {
            now
        } else {
            self.given + EVERY * new
        };
        let taken = self.tokens.checked_sub(1);
        self.tokens = taken.unwrap_or(0);
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_and_ten_a_second() {
        let mut rate = ErrorRate::default();
        let start = Instant::from_nanos(5_000_000_000);
        let count = |rate: &mut ErrorRate, now| (0..100).filter(|_| rate.take(now)).count();
        assert_eq!(count(&mut rate, start), 10);
        assert_eq!(count(&mut rate, start + Duration::from_millis(99)), 0);
        assert_eq!(count(&mut rate, start + Duration::from_millis(250)), 2);
        assert_eq!(count(&mut rate, start + Duration::from_millis(300)), 1);
        assert_eq!(count(&mut rate, start + Duration::from_secs(3600)), 10);
    }
}
