//! The bytes and packets that may pass in one turn.

/// A budget of bytes and packets. If either part is zero, no frame may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of frames that may still pass.
    pub bytes: u64,
    /// Packets that may still pass.
    pub packets: u64,
}

impl Budget {
    /// A budget without a limit.
    pub const UNLIMITED: Self = Self {
        bytes: u64::MAX,
        packets: u64::MAX,
    };

    /// True if not even one frame may pass.
    pub const fn is_spent(self) -> bool {
        self.bytes == 0 || self.packets == 0
    }

    /// The remaining budget after a packet of `bytes`.
    #[must_use]
    pub const fn after(self, bytes: u64, packets: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(bytes),
            packets: self.packets.saturating_sub(packets),
        }
    }
}
