//! The pseudo-random stream of a seed, and the check of the bytes that arrive.
//!
//! Both ends generate the stream. A receiver compares every byte with its own stream, which costs an emulated guest a
//! fraction of a digest.

use std::io::{self, Read, Write};

/// Number of bytes moved by one read or write.
const PIECE: usize = 256 * 1024;

/// An endless stream determined by its seed (splitmix64: streams of different seeds differ from the
/// first word on).
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Writes the next bytes of the stream over `out`. Only whole words are taken from the stream, so all lengths
    /// except the last must be multiples of 8.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            word.copy_from_slice(&z.to_le_bytes()[..word.len()]);
        }
    }

    /// The first `len` bytes of the stream of `seed`.
    pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

fn piece(left: u64) -> usize {
    usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))
}

/// Sends the first `bytes` bytes of the stream of `seed`.
pub(crate) fn send(to: &mut impl Write, seed: u64, bytes: u64) -> io::Result<()> {
    let (mut stream, mut buffer) = (Stream::new(seed), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let piece = &mut buffer[..piece(left)];
        stream.fill(piece);
        to.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Sends the stream of `seed` piece by piece, as long as `lasts` is true. Returns the number of bytes.
pub(crate) fn send_while(to: &mut impl Write, seed: u64, mut lasts: impl FnMut() -> bool) -> io::Result<u64> {
    let (mut stream, mut buffer) = (Stream::new(seed), vec![0; PIECE]);
    let mut sent = 0;
    while lasts() {
        stream.fill(&mut buffer);
        to.write_all(&buffer)?;
        sent += buffer.len() as u64;
    }
    Ok(sent)
}

/// Takes bytes, which must match the stream of `seed`, as long as `lasts` is true. Returns their number.
pub(crate) fn receive_while(from: &mut impl Read, seed: u64, mut lasts: impl FnMut() -> bool) -> io::Result<u64> {
    let (mut comparison, mut buffer) = (Comparison::new(seed), vec![0; PIECE]);
    while lasts() {
        match from.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => comparison.take(&buffer[..got])?,
        }
    }
    Ok(comparison.arrived)
}

/// Compares the bytes that arrive with the stream of a seed.
struct Comparison {
    stream: Stream,
    /// Next bytes of the stream. Those before `at` have arrived.
    expected: Vec<u8>,
    at: usize,
    arrived: u64,
}

impl Comparison {
    fn new(seed: u64) -> Self {
        Self {
            stream: Stream::new(seed),
            expected: vec![0; PIECE],
            at: PIECE,
            arrived: 0,
        }
    }

    /// Takes the bytes that arrived next. Returns an error if one differs from the stream.
    fn take(&mut self, mut got: &[u8]) -> io::Result<()> {
        while !got.is_empty() {
            if self.at == PIECE {
                self.stream.fill(&mut self.expected);
                self.at = 0;
            }
            let expected = &self.expected[self.at..];
            let (now, later) = got.split_at(got.len().min(expected.len()));
            // The whole slice is compared first, because the C library does that fastest.
            if now != &expected[..now.len()] {
                let good = now
                    .iter()
                    .zip(expected)
                    .take_while(|(got, expected)| got == expected)
                    .count();
                let message = format!("byte {} is not that of the stream", self.arrived + good as u64);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.at += now.len();
            self.arrived += now.len() as u64;
            got = later;
        }
        Ok(())
    }
}

/// Takes the first `bytes` bytes of the stream of `seed`. Returns an error if other bytes arrive.
pub(crate) fn receive(from: &mut impl Read, seed: u64, bytes: u64) -> io::Result<()> {
    let (mut comparison, mut buffer) = (Comparison::new(seed), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let got = from.read(&mut buffer[..piece(left)])?;
        if got == 0 {
            let message = format!("the stream ended {left} bytes of {bytes} early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        comparison.take(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(())
}

/// Takes all bytes until the end, which must match the start of the stream of `seed`, and returns their number.
pub(crate) fn receive_to_end(from: &mut impl Read, seed: u64) -> io::Result<u64> {
    let (mut comparison, mut buffer) = (Comparison::new(seed), vec![0; PIECE]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(comparison.arrived),
            got => comparison.take(&buffer[..got])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that returns data in pieces of an odd length.
    struct Pieces<'a>(&'a [u8]);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1447);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        let mut sent = Vec::new();
        send(&mut sent, 7, 1_000_003).unwrap();
        receive(&mut Pieces(&sent), 7, 1_000_003).unwrap();
        assert_eq!(receive_to_end(&mut Pieces(&sent), 7).unwrap(), 1_000_003);
    }

    #[test]
    fn a_stream_that_lasts_is_the_same_stream() {
        let (mut sent, mut pieces) = (Vec::new(), 3);
        let mut lasts = || {
            pieces -= 1;
            pieces >= 0
        };
        assert_eq!(send_while(&mut sent, 7, &mut lasts).unwrap(), 3 * PIECE as u64);
        assert_eq!(receive_to_end(&mut Pieces(&sent), 7).unwrap(), 3 * PIECE as u64);
        let (mut reads, mut pieces) = (0, Pieces(&sent));
        let read = receive_while(&mut pieces, 7, || {
            reads += 1;
            reads <= 100
        });
        assert_eq!(read.unwrap(), 100 * 1447);
        sent[0] ^= 1;
        receive_while(&mut Pieces(&sent), 7, || true).unwrap_err();
    }

    #[test]
    fn one_changed_bit_is_found_wherever_it_is() {
        for at in [0, 1, 1446, 1447, PIECE - 1, PIECE, PIECE + 8, 999_999] {
            let mut sent = Stream::bytes(7, 1_000_000);
            sent[at] ^= 1;
            for error in [
                receive(&mut Pieces(&sent), 7, 1_000_000).unwrap_err(),
                receive_to_end(&mut Pieces(&sent), 7).unwrap_err(),
            ] {
                assert_eq!(error.to_string(), format!("byte {at} is not that of the stream"));
            }
        }
    }

    #[test]
    fn bytes_that_are_missing_doubled_or_of_another_stream_are_found() {
        let sent = Stream::bytes(7, 10_000);
        let without = [&sent[..4096], &sent[4104..]].concat();
        let doubled = [&sent[..4096], &sent[4088..]].concat();
        for wrong in [without, doubled, Stream::bytes(8, 10_000)] {
            assert!(receive_to_end(&mut Pieces(&wrong), 7).is_err());
        }
    }

    #[test]
    fn a_short_stream_is_an_error() {
        let sent = Stream::bytes(7, 10);
        let error = receive(&mut sent.as_slice(), 7, 11).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
