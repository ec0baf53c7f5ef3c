//! Timestamps between the guest and hawser (RFC 7323 3 to 5).
//!
//! They give the guest's receiver a round trip time: without the option its kernel takes the
//! shortest time in which a window ever arrived for a round trip, and then never opens the window
//! further, because nothing arrives in so short a time. They give hawser protection against old
//! duplicates (PAWS).

use crate::packet::Timestamps;
use crate::time::Instant;

/// Nanoseconds per tick; RFC 7323 5.4 requires a tick between a millisecond and a second.
const TICK_NANOS: u64 = 1_000_000;

/// The clock that one connection shows its guest: a common one plus a private offset, so that
/// connections do not reveal each other (RFC 7323 5.4).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Offset to the common clock.
    pub offset: u32,
}

impl Clock {
    /// A clock that shows `value` now.
    pub(super) const fn showing(value: u32, now: Instant) -> Self {
        let common = Self { offset: 0 };
        Self {
            offset: value.wrapping_sub(common.value(now)),
        }
    }

    /// What it shows now.
    #[allow(clippy::cast_possible_truncation, reason = "timestamps are modulo 2^32")]
    pub(super) const fn value(self, now: Instant) -> u32 {
        ((now.as_nanos() / TICK_NANOS) as u32).wrapping_add(self.offset)
    }

    /// The option of a segment that is sent now and answers `echo`.
    pub(super) const fn stamp(self, now: Instant, echo: u32) -> Timestamps {
        Timestamps {
            value: self.value(now),
            echo,
        }
    }
}

/// True if `value` is older than `recent` (TS.Recent), modulo 2³².
///
/// TS.Recent is never 24 days old (RFC 7323 5.5): a guest is probed every two hours.
pub(super) const fn is_older(value: u32, recent: u32) -> bool {
    value.wrapping_sub(recent) > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_told_across_the_end_of_the_numbers() {
        assert!(is_older(u32::MAX, 5));
        assert!(!is_older(5, u32::MAX));
        assert!(!is_older(7, 7));
    }
}
