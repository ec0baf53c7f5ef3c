//! One connection on the channel: what may be sent, what waits to be delivered, and which directions have ended.
//!
//! Flow control is by credit. Each side may send [`WINDOW`] bytes of a connection beyond those that the other one has
//! delivered to its socket. So a connection whose socket accepts nothing holds back neither the channel nor the others,
//! and memory is bounded.

/// Bytes of one connection and direction that may be on the way.
pub const WINDOW: u32 = 256 << 10;
/// Delivered bytes after which they are credited. A quarter, so that the sender never waits while the socket accepts.
const CREDIT_AFTER: u32 = WINDOW / 4;

/// The peer has sent what its credit or an earlier message does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More bytes than were credited.
    #[error("bytes of a connection beyond its credit")]
    Credit,
    /// Bytes after the end.
    #[error("bytes of a connection after its end")]
    AfterEnd,
}

/// How far a direction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Open,
    /// The end has arrived, and bytes before it wait.
    Ending,
    Ended,
}

/// One connection on the channel.
#[derive(Debug)]
pub struct Leg {
    /// Bytes that the peer still accepts.
    credit: u32,
    to_peer: Direction,
    /// Bytes that the peer may still send.
    allowed: u32,
    /// Bytes that wait for the socket, after the first `delivered` ones.
    waiting: Vec<u8>,
    delivered: usize,
    /// Delivered bytes that are not credited yet.
    owed: u32,
    from_peer: Direction,
}

impl Default for Leg {
    fn default() -> Self {
        Self {
            credit: WINDOW,
            to_peer: Direction::Open,
            allowed: WINDOW,
            waiting: Vec::new(),
            delivered: 0,
            owed: 0,
            from_peer: Direction::Open,
        }
    }
}

impl Leg {
    /// Number of bytes of the socket that may be sent to the peer now.
    pub fn may_send(&self) -> usize {
        match self.to_peer {
            Direction::Open => self.credit as usize,
            Direction::Ending | Direction::Ended => 0,
        }
    }

    /// Records that `n` bytes were sent to the peer, at most [`may_send`](Self::may_send).
    pub fn sent(&mut self, n: usize) {
        self.credit = self.credit.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Records that the end of the socket's bytes was sent to the peer.
    pub fn sent_end(&mut self) {
        self.to_peer = Direction::Ended;
    }

    /// Adds credit from the peer.
    ///
    /// # Errors
    /// [`Violation::Credit`]: the peer credits bytes that were never sent.
    pub fn on_credit(&mut self, bytes: u32) -> Result<(), Violation> {
        let credit = self.credit.checked_add(bytes).filter(|credit| *credit <= WINDOW);
        self.credit = credit.ok_or(Violation::Credit)?;
        Ok(())
    }

    /// Adds bytes from the peer, which wait for the socket.
    ///
    /// # Errors
    /// [`Violation`]
    pub fn on_data(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.from_peer != Direction::Open {
            return Err(Violation::AfterEnd);
        }
        let n = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.allowed = self.allowed.checked_sub(n).ok_or(Violation::Credit)?;
        self.waiting.drain(..self.delivered);
        self.delivered = 0;
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    /// Records that the peer sends no more bytes.
    pub fn on_end(&mut self) {
        if self.from_peer == Direction::Open {
            self.from_peer = Direction::Ending;
        }
    }

    /// The bytes that wait for the socket.
    pub fn waiting(&self) -> &[u8] {
        &self.waiting[self.delivered..]
    }

    /// Records that the socket has taken `n` bytes. Returns credit for the peer, if it is time.
    pub fn delivered(&mut self, n: usize) -> Option<u32> {
        self.delivered += n.min(self.waiting.len() - self.delivered);
        if self.delivered == self.waiting.len() {
            // Idle connections are numerous, and keep no buffer.
            self.waiting = Vec::new();
            self.delivered = 0;
        }
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_add(n);
        if self.owed < CREDIT_AFTER || self.from_peer != Direction::Open {
            return None;
        }
        let credit = std::mem::take(&mut self.owed);
        self.allowed = self.allowed.saturating_add(credit);
        Some(credit)
    }

    /// True once: all bytes before the peer's end were delivered, so that the socket must be told of the end.
    pub fn take_end(&mut self) -> bool {
        let is_due = self.from_peer == Direction::Ending && self.waiting().is_empty();
        if is_due {
            self.from_peer = Direction::Ended;
        }
        is_due
    }

    /// True once both directions have ended.
    pub fn is_over(&self) -> bool {
        self.to_peer == Direction::Ended && self.from_peer == Direction::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peer_that_breaks_the_rules_is_noticed() {
        let mut leg = Leg::default();
        assert_eq!(leg.on_credit(1), Err(Violation::Credit));
        assert_eq!(leg.on_data(&vec![0; WINDOW as usize + 1]), Err(Violation::Credit));
        leg.on_data(&vec![0; WINDOW as usize]).unwrap();
        assert_eq!(leg.on_data(&[0]), Err(Violation::Credit));
        leg.on_end();
        assert_eq!(leg.on_data(&[]), Err(Violation::AfterEnd));
        assert!(!leg.take_end(), "bytes wait");
    }

    #[test]
    fn a_direction_ends_after_its_bytes_and_the_connection_with_both() {
        let mut leg = Leg::default();
        leg.on_data(b"last").unwrap();
        leg.on_end();
        assert!(!leg.take_end());
        assert_eq!(leg.delivered(4), None);
        assert!(leg.take_end() && !leg.take_end());
        assert!(!leg.is_over() && leg.may_send() > 0);
        leg.sent_end();
        assert!(leg.is_over() && leg.may_send() == 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Whatever the pieces, and however slowly the sockets take them, all bytes arrive in order and no more than
        /// the window is on the way.
        #[test]
        fn bytes_arrive_in_order_and_within_the_window(steps in proptest::collection::vec((0_usize..90_000, 0_usize..90_000), 1..60)) {
            let (mut near, mut far) = (Leg::default(), Leg::default());
            let (mut sent, mut taken) = (0_usize, 0_usize);
            let byte = |at: usize| u8::try_from(at % 251).unwrap();
            for (offer, take) in steps {
                let n = offer.min(near.may_send());
                let piece: Vec<u8> = (sent..sent + n).map(byte).collect();
                near.sent(n);
                far.on_data(&piece).unwrap();
                sent += n;
                prop_assert!(sent - taken <= WINDOW as usize);
                let n = take.min(far.waiting().len());
                prop_assert!(far.waiting()[..n].iter().enumerate().all(|(i, got)| *got == byte(taken + i)));
                taken += n;
                if let Some(credit) = far.delivered(n) {
                    near.on_credit(credit).unwrap();
                }
                // The sender never waits for a socket that has taken everything.
                prop_assert!(sent > taken || near.may_send() > 0);
            }
        }
    }
}
