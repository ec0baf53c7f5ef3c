//! TCP headers and options (RFC 9293 3.1, RFC 7323).

use super::{Malformed, be16, be32};

/// Control bits of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// Synchronizes sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Resets the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);

    /// True if all bits of `other` are set.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;

    #[inline]
    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

/// The supported TCP options. All others are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window scale shift (SYN only, RFC 7323 2).
    pub window_scale: Option<u8>,
    /// Timestamps of a segment (RFC 7323 3).
    pub timestamps: Option<Timestamps>,
}

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock (TSval).
    pub value: u32,
    /// Timestamp of the peer that is echoed (TSecr); 0 in a SYN without ACK.
    pub echo: u32,
}

impl Timestamps {
    /// Length of the option in a header, padded to a multiple of four bytes.
    pub const EMITTED_LEN: usize = 12;
}

impl TcpOptions {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    const WINDOW_SCALE: u8 = 3;
    const TIMESTAMPS: u8 = 8;

    #[inline]
    fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                Self::END => break,
                Self::NOP => bytes = rest,
                kind => {
                    let Some(len) = rest.first().map(|l| usize::from(*l)).filter(|l| *l >= 2) else {
                        break;
                    };
                    let Some(body) = bytes.get(2..len) else { break };
                    match (kind, body) {
                        (Self::MSS, &[a, b]) => options.mss = Some(u16::from_be_bytes([a, b])),
                        (Self::WINDOW_SCALE, &[shift]) => options.window_scale = Some(shift.min(14)),
                        (Self::TIMESTAMPS, body) if body.len() == 8 => {
                            options.timestamps = Some(Timestamps {
                                value: be32(body, 0),
                                echo: be32(body, 4),
                            });
                        }
                        _ => {}
                    }
                    bytes = &bytes[len..];
                }
            }
        }
        options
    }

    /// Length of the options in a header, padded to a multiple of four bytes.
    #[inline]
    pub const fn emitted_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        let timestamps = if self.timestamps.is_some() {
            Timestamps::EMITTED_LEN
        } else {
            0
        };
        mss + scale + timestamps
    }

    #[inline]
    fn emit(&self, out: &mut [u8]) {
        let mut at = 0;
        if let Some(mss) = self.mss {
            out[..2].copy_from_slice(&[Self::MSS, 4]);
            out[2..4].copy_from_slice(&mss.to_be_bytes());
            at = 4;
        }
        if let Some(shift) = self.window_scale {
            out[at..at + 4].copy_from_slice(&[Self::NOP, Self::WINDOW_SCALE, 3, shift]);
            at += 4;
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            // RFC 7323 appendix A recommends this position, where receivers look first.
            out[at..at + 4].copy_from_slice(&[Self::NOP, Self::NOP, Self::TIMESTAMPS, 10]);
            out[at + 4..at + 8].copy_from_slice(&value.to_be_bytes());
            out[at + 8..at + 12].copy_from_slice(&echo.to_be_bytes());
        }
    }
}

/// A TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number (SEG.SEQ).
    pub seq: u32,
    /// Acknowledgment number (SEG.ACK).
    pub ack: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window as it is on the wire, without scaling (SEG.WND).
    pub window: u16,
    /// Urgent pointer (SEG.UP), meaningful only if URG is set.
    pub urgent: u16,
    /// Supported options of the segment.
    pub options: TcpOptions,
    /// Length of the header in bytes, including options (20 to 60). `emit` ignores it.
    pub header_len: usize,
}

impl TcpHeader {
    /// Length of a header without options in bytes.
    pub const LEN: usize = 20;

    /// Parses the header at the start of `bytes`. The IP payload has `available` bytes.
    ///
    /// # Errors
    /// Any [`Malformed`].
    #[inline]
    pub fn parse(bytes: &[u8], available: usize) -> Result<Self, Malformed> {
        let h: &[u8; Self::LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < Self::LEN || header_len > available {
            return Err(Malformed::Length);
        }
        let options = bytes.get(Self::LEN..header_len).ok_or(Malformed::HeadersTooLong)?;
        Ok(Self {
            src_port: be16(h, 0),
            dst_port: be16(h, 2),
            seq: be32(h, 4),
            ack: be32(h, 8),
            flags: TcpFlags(h[13]),
            window: be16(h, 14),
            urgent: be16(h, 18),
            options: TcpOptions::parse(options),
            header_len,
        })
    }

    /// Number of bytes that `emit` writes.
    #[inline]
    pub const fn emitted_len(&self) -> usize {
        Self::LEN + self.options.emitted_len()
    }

    /// Writes the header with the checksum field `checksum` to the start of `out`.
    #[inline]
    pub fn emit(&self, out: &mut [u8], checksum: u16) {
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.to_be_bytes());
        out[12] = u8::try_from(self.emitted_len() / 4).unwrap_or(15) << 4;
        out[13] = self.flags.0;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&checksum.to_be_bytes());
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        self.options.emit(&mut out[Self::LEN..]);
    }
}
