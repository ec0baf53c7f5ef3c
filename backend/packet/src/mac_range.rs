//! A range of MAC addresses to choose from.

use super::ethernet::{BadMac, MacAddr};
use std::fmt;
use std::str::FromStr;

/// The unicast MACs from `first` to `last`, including both. All of them have the same first byte, so the range contains
/// no multicast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacRange {
    first: MacAddr,
    last: MacAddr,
}

/// The reason why two addresses are not the ends of a [`MacRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacRangeError {
    /// The text has no hyphen between two addresses.
    #[error("give FIRST-LAST, such as 02:00:00:00:00:00-02:ff:ff:ff:ff:ff")]
    Shape,
    /// One of the ends is not a MAC address.
    #[error(transparent)]
    Mac(#[from] BadMac),
    /// One of the ends is a multicast address.
    #[error("these are multicast addresses: give MACs whose first byte is even")]
    Multicast,
    /// The first bytes of the ends differ.
    #[error("the first bytes differ, so the range includes multicast addresses: use the same first byte for both")]
    FirstByte,
    /// The first address is above the last.
    #[error("the range ends before it begins: give the lower MAC first")]
    Backwards,
}

impl MacRange {
    /// The range in KubeMacPool's default manifest: every MAC that begins with 02.
    pub const DEFAULT: Self = Self {
        first: MacAddr([2, 0, 0, 0, 0, 0]),
        last: MacAddr([2, 0xff, 0xff, 0xff, 0xff, 0xff]),
    };

    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// If the two are not the ends of a range of unicast addresses.
    pub fn new(first: MacAddr, last: MacAddr) -> Result<Self, MacRangeError> {
        if first.is_multicast() || last.is_multicast() {
            return Err(MacRangeError::Multicast);
        }
        if first.0[0] != last.0[0] {
            return Err(MacRangeError::FirstByte);
        }
        if first > last {
            return Err(MacRangeError::Backwards);
        }
        Ok(Self { first, last })
    }

    /// The lowest address of the range.
    pub const fn first(&self) -> MacAddr {
        self.first
    }

    /// The highest address of the range.
    pub const fn last(&self) -> MacAddr {
        self.last
    }
}

impl FromStr for MacRange {
    type Err = MacRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').ok_or(MacRangeError::Shape)?;
        Self::new(first.parse()?, last.parse()?)
    }
}

impl fmt::Display for MacRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_macs_has_two_ends_and_no_multicast_between() {
        for (text, why) in [
            ("02:00:00:00:00:00", "FIRST-LAST"),
            ("02:00:00:00:00-02:00:00:00:00:ff", "is not a MAC address"),
            ("03:00:00:00:00:00-03:00:00:00:00:01", "multicast"),
            ("02:00:00:00:00:00-04:00:00:00:00:01", "first bytes differ"),
            ("02:00:00:00:00:02-02:00:00:00:00:01", "ends before it begins"),
        ] {
            let error = MacRange::from_str(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
