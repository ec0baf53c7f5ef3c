//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// Length from which bytes are summed in lanes.
const LONG: usize = 128;
/// Number of 32-bit words summed in parallel.
const LANES: usize = 16;
/// Number of blocks that a lane adds before the sum of its upper halves could overflow.
const BLOCKS: usize = 1 << 16;

/// A one's complement sum that has not been folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. A part of odd length is padded with a zero byte, so only the last part of a message may have one.
    #[must_use]
    #[inline]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        if bytes.len() >= LONG {
            return self.long(bytes);
        }
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

    /// Adds many bytes. The sum of words in the machine's byte order is the sum with its bytes swapped (RFC 1071 2 B).
    /// Lanes that do not depend on each other let the compiler use vectors.
    ///
    /// A lane adds whole 32-bit words, losing the carries, and separately their upper halves. The lower halves follow
    /// from these two sums, so no word has to be widened.
    fn long(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<{ LANES * 4 }>();
        let mut sum = 0;
        for blocks in blocks.chunks(BLOCKS) {
            let (mut words, mut upper) = ([0_u32; LANES], [0_u32; LANES]);
            for block in blocks {
                let (block, _) = block.as_chunks::<4>();
                for ((word, words), upper) in block.iter().zip(&mut words).zip(&mut upper) {
                    let word = u32::from_ne_bytes(*word);
                    *words = words.wrapping_add(word);
                    *upper = upper.wrapping_add(word >> 16);
                }
            }
            for (words, upper) in words.iter().zip(&upper) {
                sum += u64::from(words.wrapping_sub(upper << 16)) + u64::from(*upper);
            }
        }
        let (words, last) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        sum += u64::from(match *last {
            [a] => u32::from_ne_bytes([a, 0, 0, 0]),
            [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
            [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
            _ => 0,
        });
        self.word(u16::from_be_bytes(Self(sum).fold().to_ne_bytes()))
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

    /// The folded sum without the complement, which is the content of a partial checksum field.
    #[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum, which is the complement of the folded sum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// The checksum in a protocol where zero means "none" (RFC 768). All ones is sent instead, which has the same value
    /// in ones' complement.
    #[inline]
    pub const fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The checksum of contiguous bytes.
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
    fn long_stretches_sum_to_what_their_words_sum_to() {
        let bytes: Vec<u8> = (0..70_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        for n in (0..400).chain([1447, 1448, 65_535, 70_000]) {
            let words = bytes[..n].chunks(2).map(|word| match *word {
                [a, b] => u16::from_be_bytes([a, b]),
                _ => u16::from_be_bytes([word[0], 0]),
            });
            let expected = words.fold(Sum::default().word(7), Sum::word).fold();
            assert_eq!(Sum::default().word(7).bytes(&bytes[..n]).fold(), expected, "{n} bytes");
        }
        let ones = [0xff; 70_000];
        assert_eq!(Sum::default().bytes(&ones).fold(), 0xffff);
    }

    #[test]
    fn a_message_with_its_checksum_sums_to_all_ones() {
        let mut header = [0x45, 0, 0, 0x54, 1, 2, 0x40, 0, 64, 1, 0, 0, 10, 0, 2, 2, 10, 0, 2, 1];
        let sum = of(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(of(&header), 0);
    }
}
