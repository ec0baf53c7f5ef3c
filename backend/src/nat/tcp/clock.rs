//! Timestamps between the guest and hawser (RFC 7323 3 to 5).
//!
//! They let the guest's receiver measure the round-trip time. Without the option, a Linux guest takes the shortest time
//! in which a full window arrived as the round-trip time. It then never opens the window further, because a window
//! seldom arrives that quickly again. For hawser, timestamps provide protection against old duplicates (PAWS).

use crate::packet::Timestamps;
use crate::time::Instant;

/// Nanoseconds per tick. RFC 7323 5.4 requires a tick between a millisecond and a second.
const TICK_NANOS: u64 = 1_000_000;

/// The timestamp clock of one connection. It is a common clock plus a private offset, so that one connection reveals
/// nothing about another (RFC 7323 5.4).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Offset from the common clock.
    pub offset: u32,
}

impl Clock {
    /// A clock with this value at the time `now`.
    pub(super) const fn showing(value: u32, now: Instant) -> Self {
        let common = Self { offset: 0 };
        Self {
            offset: value.wrapping_sub(common.value(now)),
        }
    }

    /// The value at the time `now`.
    #[allow(clippy::cast_possible_truncation, reason = "timestamps are modulo 2^32")]
    pub(super) const fn value(self, now: Instant) -> u32 {
        ((now.as_nanos() / TICK_NANOS) as u32).wrapping_add(self.offset)
    }

    /// The option for a segment that is sent now and echoes `echo`.
    pub(super) const fn stamp(self, now: Instant, echo: u32) -> Timestamps {
        Timestamps {
            value: self.value(now),
            echo,
        }
    }
}

/// True if `value` is older than `recent` (TS.Recent), modulo 2³².
///
/// TS.Recent never becomes 24 days old (RFC 7323 5.5), because the guest is probed every two hours.
pub(super) const fn is_older(value: u32, recent: u32) -> bool {
    value.wrapping_sub(recent) > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_computed_across_the_wrap_of_the_numbers() {
        assert!(is_older(u32::MAX, 5));
        assert!(!is_older(5, u32::MAX));
        assert!(!is_older(7, 7));
    }
}
