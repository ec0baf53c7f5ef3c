//! The pseudo-random stream of a seed, and its digest.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read, Write};

/// Bytes moved by one read or write.
const PIECE: usize = 256 * 1024;

/// An endless stream fixed by its seed (splitmix64: any two seeds differ from the first word on).
pub struct Stream {
    state: u64,
}

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Writes the next bytes of the stream over `out`. Only whole words are taken from
    /// the stream, so fill in multiples of 8 until the end.
    pub fn fill(&mut self, out: &mut [u8]) {
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
    pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn piece(left: u64) -> usize {
    usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))
}

/// Sends the first `bytes` bytes of the stream of `seed`; their SHA-256.
pub fn send(to: &mut impl Write, seed: u64, bytes: u64) -> io::Result<String> {
    let (mut stream, mut digest, mut buffer) = (Stream::new(seed), Sha256::new(), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let piece = &mut buffer[..piece(left)];
        stream.fill(piece);
        digest.update(&*piece);
        to.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(hex(digest))
}

/// Takes exactly `bytes` bytes; their SHA-256.
pub fn receive(from: &mut impl Read, bytes: u64) -> io::Result<String> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let got = from.read(&mut buffer[..piece(left)])?;
        if got == 0 {
            let message = format!("the stream ended {left} bytes of {bytes} early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        digest.update(&buffer[..got]);
        left -= got as u64;
    }
    Ok(hex(digest))
}

/// Takes all there is until the end of the stream; how much, and its SHA-256.
pub fn receive_to_end(from: &mut impl Read) -> io::Result<(u64, String)> {
    let (mut digest, mut buffer, mut bytes) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok((bytes, hex(digest)));
        }
        digest.update(&buffer[..got]);
        bytes += got as u64;
    }
}

/// SHA-256 of the first `bytes` bytes of the stream of `seed`.
pub fn digest(seed: u64, bytes: u64) -> io::Result<String> {
    send(&mut io::sink(), seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_the_digest_says() {
        let mut sent = Vec::new();
        let digest = send(&mut sent, 7, 1_000_003).unwrap();
        assert_eq!(receive(&mut sent.as_slice(), 1_000_003).unwrap(), digest);
        assert_eq!(receive_to_end(&mut sent.as_slice()).unwrap(), (1_000_003, digest));
    }

    #[test]
    fn one_bit_changes_the_digest() {
        let mut sent = Stream::bytes(7, 4096);
        sent[1234] ^= 1;
        assert_ne!(receive(&mut sent.as_slice(), 4096).unwrap(), digest(7, 4096).unwrap());
    }

    #[test]
    fn a_short_stream_is_an_error() {
        let error = receive(&mut [0_u8; 10].as_slice(), 11).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
