//! Initial sequence numbers (RFC 6528): a clock plus a keyed hash of the connection. The other half of the hash is the
//! offset of the connection's timestamps (RFC 7323 5.4).
//!
//! The secret and the readings of both clocks move with the connections to another process. So if the guest opens a
//! connection again, it starts above the sequence numbers and timestamps of its predecessor (RFC 6191), which may still
//! be in TIME-WAIT in the guest.

use crate::nat::saved::base64;
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use super::clock::Clock;
use super::seq::Seq;

/// The secret key of one port.
#[derive(Clone)]
pub(super) struct IsnSecret {
    key: [u8; 16],
    /// Offset that is added to the clock of sequence numbers.
    ahead: u32,
    /// The clock of timestamps, to which each connection adds its own offset.
    clock: Clock,
}

/// The secret as a plain value.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSecret {
    #[serde(with = "base64")]
    key: [u8; 16],
    /// Reading of the clock of initial sequence numbers.
    isn_clock: u32,
    /// Reading of the timestamp clock.
    timestamp: u32,
}

/// Nanoseconds per tick of the ISN clock, close to RFC 9293's 4 microseconds.
const TICK_NANOS: u64 = 4096;

impl IsnSecret {
    /// Draws a secret.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        Ok(Self {
            key,
            ahead: 0,
            clock: Clock::default(),
        })
    }

    /// Converts the secret to a plain value.
    pub(super) fn save(&self, now: Instant) -> SavedSecret {
        let Self { key, ahead, clock } = *self;
        SavedSecret {
            key,
            isn_clock: ticks(now).wrapping_add(ahead),
            timestamp: clock.value(now),
        }
    }

    /// Restores the secret of another process, whose clocks continue from their readings.
    pub(super) fn load(saved: &SavedSecret, now: Instant) -> Self {
        Self {
            key: saved.key,
            ahead: saved.isn_clock.wrapping_sub(ticks(now)),
            clock: Clock::showing(saved.timestamp, now),
        }
    }

    /// The initial sequence number and the timestamp clock for a connection that opens now.
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the hash")]
    pub(super) fn initial(&self, now: Instant, guest: SocketAddr, remote: SocketAddr) -> (Seq, Clock) {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        (guest, remote).hash(&mut hasher);
        let hash = hasher.finish();
        let iss = Seq(ticks(now)) + self.ahead + (hash as u32);
        let offset = self.clock.offset.wrapping_add((hash >> 32) as u32);
        (iss, Clock { offset })
    }
}

#[allow(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
const fn ticks(now: Instant) -> u32 {
    (now.as_nanos() / TICK_NANOS) as u32
}

impl std::fmt::Debug for IsnSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IsnSecret(..)")
    }
}

impl std::fmt::Debug for SavedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SavedSecret(..)")
    }
}
