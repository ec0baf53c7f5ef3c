//! A Geneve header that is ready to be sent.

use super::{
    BASE_LEN, CONTROL, CRITICAL, ETHERNET, FrameOption, GeneveOption, HAS_CRITICAL, HEADER_MAX, OPTION_DATA_MAX,
    OPTION_HEADER_LEN, OPTIONS_MAX, Vni, WORD,
};
use std::fmt;

/// A base header and options, as bytes. A sender builds one header per batch and puts it in front of each segment. No
/// field depends on the segment.
#[derive(Clone, Copy)]
pub struct GeneveHeader {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

/// The reason why an option does not fit into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The data is too long for the option's length field.
    #[error("{0} bytes of data: an option has up to 124, in words of 4")]
    Data(usize),
    /// The options together are too long for the Opt Len field.
    #[error("{0} bytes of options: a header has up to 252")]
    Options(usize),
}

impl GeneveHeader {
    /// The header of an Ethernet frame of a virtual network, without options.
    #[inline]
    pub const fn new(vni: Vni) -> Self {
        let mut bytes = [0; HEADER_MAX];
        let [_, vni @ ..] = vni.get().to_be_bytes();
        [bytes[2], bytes[3]] = ETHERNET.to_be_bytes();
        [bytes[4], bytes[5], bytes[6]] = vni;
        Self { bytes, len: BASE_LEN }
    }

    /// The same header with hawser's own option and the C bit. Send it only to a peer that is known to support the
    /// option, because any other peer drops the packet.
    #[inline]
    pub fn with_frame_option(vni: Vni, option: FrameOption) -> Self {
        let mut header = Self::new(vni);
        header.append(FrameOption::CLASS, FrameOption::KIND, &option.to_data());
        header
    }

    /// Turns the header into that of a control message, by setting the O bit and the protocol type.
    #[inline]
    #[must_use]
    pub const fn into_control(mut self, protocol: u16) -> Self {
        self.bytes[1] |= CONTROL;
        [self.bytes[2], self.bytes[3]] = protocol.to_be_bytes();
        self
    }

    /// Appends an option. A critical option also sets the C bit.
    ///
    /// # Errors
    /// [`OptionError`]; the header is unchanged.
    pub fn add(&mut self, option: &GeneveOption<'_>) -> Result<(), OptionError> {
        let data = option.data.len();
        if data > OPTION_DATA_MAX || !data.is_multiple_of(WORD) {
            return Err(OptionError::Data(data));
        }
        let options = self.options_len() + OPTION_HEADER_LEN + data;
        if options > OPTIONS_MAX {
            return Err(OptionError::Options(options));
        }
        self.append(option.class, option.kind, option.data);
        Ok(())
    }

    /// Appends an option that is known to fit.
    #[allow(clippy::cast_possible_truncation, reason = "lengths of five and six bits")]
    #[inline]
    fn append(&mut self, class: u16, kind: u8, data: &[u8]) {
        let [high, low] = class.to_be_bytes();
        let head = [high, low, kind, (data.len() / WORD) as u8];
        let data_at = self.len + OPTION_HEADER_LEN;
        self.bytes[self.len..data_at].copy_from_slice(&head);
        self.bytes[data_at..data_at + data.len()].copy_from_slice(data);
        self.len = data_at + data.len();
        self.bytes[0] = (self.options_len() / WORD) as u8;
        if kind & CRITICAL != 0 {
            self.bytes[1] |= HAS_CRITICAL;
        }
    }

    /// Length of the options in bytes.
    #[inline]
    pub const fn options_len(&self) -> usize {
        self.len - BASE_LEN
    }

    /// The bytes to send before each frame.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for GeneveHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeneveHeader").field(&self.as_bytes()).finish()
    }
}

impl PartialEq for GeneveHeader {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for GeneveHeader {}
