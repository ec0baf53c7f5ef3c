//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A one's complement sum that has not been folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; a part of odd length is padded with a zero, so only the last part
    /// of a message may have one.
    #[must_use]
    #[inline]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            self.0 += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        match *words.remainder() {
            [a] => self.0 += u64::from(a) << 24,
            [a, b] => self.0 += u64::from(u16::from_be_bytes([a, b])) << 16,
            [a, b, c] => self.0 += u64::from(u32::from_be_bytes([a, b, c, 0])),
            _ => {}
        }
        self
    }

    /// Adds one 16-bit field.
    #[must_use]
    #[inline]
    pub const fn word(self, value: u16) -> Self {
        Self(self.0 + value as u64)
    }

    /// Adds the pseudo-header of IPv4 or IPv6 (RFC 793 3.1, RFC 8200 8.1).
    #[must_use]
    #[inline]
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.bytes(&s.octets()).bytes(&d.octets()),
            (IpAddr::V6(s), IpAddr::V6(d)) => self.bytes(&s.octets()).bytes(&d.octets()),
            _ => self,
        };
        Self(sum.0 + length as u64 + u64::from(protocol))
    }

    /// The folded sum, not complemented: what a partial checksum field holds.
    #[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Checksum of one stretch of bytes.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn odd_lengths_are_padded_at_the_end() {
        for n in 0..9 {
            let bytes: Vec<u8> = (1..=n).collect();
            let mut padded = bytes.clone();
            padded.resize(16, 0);
            assert_eq!(of(&bytes), of(&padded), "{n} bytes");
        }
    }

    #[test]
    fn a_message_with_its_checksum_sums_to_all_ones() {
        let mut header = [0x45, 0, 0, 0x54, 1, 2, 0x40, 0, 64, 1, 0, 0, 10, 0, 2, 2, 10, 0, 2, 1];
        let sum = of(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(of(&header), 0);
    }
}
