//! UDP (RFC 768).

use super::{Malformed, be16};

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Length of the payload in bytes.
    pub payload_len: usize,
}

impl UdpHeader {
    /// Length on the wire in bytes.
    pub const LEN: usize = 8;

    /// Parses the header at the start of `bytes`. The IP payload has `available` bytes. In a frame with several
    /// datagrams (`segmented`) the length field need not match, and the payload is everything after the header.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::Length`].
    #[inline]
    pub fn parse(bytes: &[u8], available: usize, segmented: bool) -> Result<Self, Malformed> {
        let h: &[u8; Self::LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        if available < Self::LEN {
            return Err(Malformed::Length);
        }
        let length = usize::from(be16(h, 4));
        let length = if segmented { available } else { length };
        if length < Self::LEN || length > available {
            return Err(Malformed::Length);
        }
        Ok(Self {
            src_port: be16(h, 0),
            dst_port: be16(h, 2),
            payload_len: length - Self::LEN,
        })
    }

    /// Writes the header with the checksum field `checksum` to the start of `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8], checksum: u16) {
        let length = u16::try_from(Self::LEN + self.payload_len).unwrap_or(u16::MAX);
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&length.to_be_bytes());
        out[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}
