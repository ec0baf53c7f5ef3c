//! Initial sequence numbers (RFC 6528): a clock plus a keyed hash of the connection. The other half
//! of the hash is the offset of its timestamps (RFC 7323 5.4).

use crate::time::Instant;
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use super::clock::Clock;
use super::seq::Seq;

/// The secret key of one port.
#[derive(Clone)]
pub struct IsnSecret([u8; 16]);

/// Nanoseconds per tick of the ISN clock; about RFC 9293's 4 microseconds.
const TICK_NANOS: u64 = 4096;

impl IsnSecret {
    /// Draws a secret.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        Ok(Self(secret))
    }

    /// The initial sequence number and the timestamp clock of a connection that opens now.
    #[allow(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
    pub fn initial(&self, now: Instant, guest: SocketAddr, remote: SocketAddr) -> (Seq, Clock) {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        (guest, remote).hash(&mut hasher);
        let hash = hasher.finish();
        let iss = Seq((now.as_nanos() / TICK_NANOS) as u32) + (hash as u32);
        let offset = (hash >> 32) as u32;
        (iss, Clock { offset })
    }
}

impl std::fmt::Debug for IsnSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IsnSecret(..)")
    }
}
