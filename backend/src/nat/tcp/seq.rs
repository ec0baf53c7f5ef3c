//! Sequence numbers (RFC 9293 3.4): 32 bits, compared modulo 2^32.

use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Sub};

/// A sequence number.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Seq(pub u32);

impl Seq {
    /// True if `self` comes before `other`.
    pub(super) const fn before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) > i32::MAX as u32
    }

    /// True if `self` comes after `other`.
    pub(super) const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// The later of the two.
    #[must_use]
    pub(super) const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// Bytes from `earlier` to `self`, zero if `self` comes first.
    pub(super) const fn since(self, earlier: Self) -> u32 {
        if self.before(earlier) {
            0
        } else {
            self.0.wrapping_sub(earlier.0)
        }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let a = Seq(u32::MAX - 1);
        let b = a + 10;
        assert!(a.before(b) && b.after(a) && !b.before(a) && !a.before(a));
        assert_eq!(b.since(a), 10);
        assert_eq!(a.since(b), 0);
        assert_eq!(a.max(b), b);
        assert_eq!(b - 10, a);
    }
}
