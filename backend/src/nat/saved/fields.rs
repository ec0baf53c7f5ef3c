//! Serialised forms of times and bytes in saved values.

use super::{LoadError, within};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A time as nanoseconds before or after the moment of saving.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Nanos(u64);

impl Nanos {
    /// The time from `now` to `at`, or zero if `at` has passed.
    pub(crate) fn until(at: Instant, now: Instant) -> Self {
        Self::from(at.since(now))
    }

    /// The time from `at` to `now`.
    pub(crate) fn since(at: Instant, now: Instant) -> Self {
        Self::from(now.since(at))
    }

    /// The moment this long after `now`.
    pub(crate) fn after(self, now: Instant) -> Instant {
        now + Duration::from_nanos(self.0)
    }

    /// The moment this long before `now`, or the start of the clock if that is later.
    pub(crate) const fn before(self, now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos().saturating_sub(self.0))
    }

    /// Checks that the duration is at most `longest`.
    pub(crate) fn at_most(self, field: &'static str, longest: Duration) -> Result<Self, LoadError> {
        within(field, self.0, 0..=Self::from(longest).0).map(Self)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// True for a value that is left out, for `#[serde(skip_serializing_if)]`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes as text, for `#[serde(with)]`.
pub(crate) mod base64 {
    use data_encoding::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::borrow::Cow;

    pub(crate) fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes.as_ref()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, B: TryFrom<Vec<u8>>>(from: D) -> Result<B, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(D::Error::custom)?;
        B::try_from(bytes).map_err(|_| D::Error::custom("a wrong number of bytes"))
    }
}
