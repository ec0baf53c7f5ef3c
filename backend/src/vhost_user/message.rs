//! vhost-user messages as bytes: a header of three 32-bit words in the machine's byte
//! order, a body, and file descriptors that travel with the first byte.
//!
//! Nothing here does I/O. An [`Assembler`] takes bytes as they arrive and never requests more than the rest of the
//! current message, so descriptors stay with the message they belong to. Request numbers and body layouts come from the
//! `vhost` crate.

use std::os::fd::OwnedFd;
use vhost::vhost_user::message::{
    BackendReq, FrontendReq, MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE, VhostUserMsgValidator,
};

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;
/// Longest accepted body, in bytes.
pub const BODY_MAX: usize = MAX_MSG_SIZE;
/// Maximum descriptors accepted with one message.
pub const FILES_MAX: usize = MAX_ATTACHED_FD_ENTRIES;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The reason why received bytes are not a vhost-user message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The header's version is not 1.
    #[error(
        "a message has protocol version {0}, but only version 1 exists: the peer may not be a vhost-user front end"
    )]
    Version(u32),
    /// The body is longer than that of any defined message.
    #[error("a message announces a body of {0} bytes; at most {BODY_MAX} are allowed")]
    TooLong(u32),
    /// There are more descriptors than any message carries.
    #[error("a message has {0} file descriptors; at most {FILES_MAX} are allowed")]
    TooManyFiles(usize),
    /// The body does not have the length that its request requires.
    #[error("request {code} has a body of {got} bytes instead of {want}")]
    BodyLength {
        /// Number of the request.
        code: u32,
        /// Length of the received body in bytes.
        got: usize,
        /// Length that the request requires in bytes.
        want: usize,
    },
    /// A field of the body has a value that the protocol does not define.
    #[error("request {0} has an undefined flag, an unaligned address, or a length out of range")]
    Body(u32),
    /// Descriptors arrived with a request that carries none.
    #[error("request {0} has file descriptors and should have none")]
    UnexpectedFiles(u32),
    /// A request arrived without its descriptor, or with several.
    #[error("request {0} does not have exactly one file descriptor per ring or region")]
    MissingFiles(u32),
    /// An answer arrived where a request was expected.
    #[error("message {0} is an answer where a request is expected")]
    Reply(u32),
    /// The connection ended in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Cut,
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request, or of the request that is answered.
    pub code: u32,
    /// Version in the lowest two bits, and flags.
    pub flags: u32,
    /// Length of the body in bytes.
    pub size: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`Malformed::Version`] and [`Malformed::TooLong`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let header = Self {
            code: word(0),
            flags: word(4),
            size: word(8),
        };
        if header.flags & VERSION_MASK != VERSION {
            return Err(Malformed::Version(header.flags & VERSION_MASK));
        }
        if header.body_len() > BODY_MAX {
            return Err(Malformed::TooLong(header.size));
        }
        Ok(header)
    }

    /// Length of the body in bytes.
    pub fn body_len(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// True if the sender requests an acknowledgement of a request that otherwise has no answer.
    pub const fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// True for an answer.
    pub const fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }
}

/// A whole message.
#[derive(Debug, Default)]
pub struct Message {
    /// Header and body.
    bytes: Vec<u8>,
    /// Descriptors that arrived with the message.
    pub files: Vec<OwnedFd>,
}

impl Message {
    fn new(code: u32, flags: u32, body: &[u8]) -> Self {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        for word in [code, VERSION | flags, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        Self {
            bytes,
            files: Vec::new(),
        }
    }

    /// The rest of messages that were partly written.
    pub const fn rest(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            files: Vec::new(),
        }
    }

    /// A request without the acknowledgement flag.
    pub fn request(request: FrontendReq, body: &[u8]) -> Self {
        Self::new(request.into(), 0, body)
    }

    /// An answer to request `code`.
    pub fn reply(code: u32, body: &[u8]) -> Self {
        Self::new(code, REPLY, body)
    }

    /// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, for the front end's back channel: the device configuration that the guest
    /// reads has changed.
    pub fn config_change() -> Self {
        Self::new(BackendReq::CONFIG_CHANGE_MSG.into(), 0, &[])
    }

    /// Reads the header of the message.
    pub fn header(&self) -> Header {
        let word = |i: usize| {
            let bytes = self.bytes.get(i..i + 4).and_then(|b| b.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        Header {
            code: word(0),
            flags: word(4),
            size: word(8),
        }
    }

    /// The bytes after the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// Header and body as sent over the socket.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body as an array of exactly `N` bytes.
    ///
    /// # Errors
    /// [`Malformed::BodyLength`].
    pub fn body_array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.body().try_into().map_err(|_| self.wrong_length(N))
    }

    /// The body as one 64-bit number.
    ///
    /// # Errors
    /// [`Malformed::BodyLength`].
    pub fn body_u64(&self) -> Result<u64, Malformed> {
        self.body_array().map(u64::from_ne_bytes)
    }

    /// The body as a `T`, and nothing else.
    ///
    /// # Errors
    /// [`Malformed::BodyLength`] and [`Malformed::Body`].
    pub fn body_as<T: VhostUserMsgValidator + Default>(&self) -> Result<T, Malformed> {
        match self.body_and_rest()? {
            (body, []) => Ok(body),
            _ => Err(self.wrong_length(size_of::<T>())),
        }
    }

    /// Splits the body into a `T` and the bytes after it.
    ///
    /// # Errors
    /// As [`body_as`](Self::body_as).
    pub fn body_and_rest<T: VhostUserMsgValidator + Default>(&self) -> Result<(T, &[u8]), Malformed> {
        let split = self.body().split_at_checked(size_of::<T>());
        let (bytes, rest) = split.ok_or_else(|| self.wrong_length(size_of::<T>()))?;
        let mut body = T::default();
        body.as_mut_slice().copy_from_slice(bytes);
        if body.is_valid() {
            Ok((body, rest))
        } else {
            Err(Malformed::Body(self.header().code))
        }
    }

    fn wrong_length(&self, want: usize) -> Malformed {
        Malformed::BodyLength {
            code: self.header().code,
            got: self.body().len(),
            want,
        }
    }
}

/// Assembles messages from a byte stream.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    filled: usize,
    files: Vec<OwnedFd>,
}

impl Assembler {
    /// Buffer for the next bytes: the rest of the header, or the rest of the body. It is never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.bytes.len() < HEADER_LEN {
            self.bytes.resize(HEADER_LEN, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// The bytes and descriptors of a message that has not arrived completely.
    pub fn into_parts(mut self) -> (Vec<u8>, Vec<OwnedFd>) {
        self.bytes.truncate(self.filled);
        (self.bytes, self.files)
    }

    /// Continues a message of which these bytes and descriptors have arrived.
    ///
    /// # Errors
    /// [`Malformed`]: they are not the start of one message.
    pub fn from_parts(mut bytes: &[u8], files: Vec<OwnedFd>) -> Result<Self, Malformed> {
        let mut assembler = Self {
            files,
            ..Self::default()
        };
        while !bytes.is_empty() {
            let space = assembler.space();
            let (now, rest) = bytes.split_at(bytes.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            if let Some(message) = assembler.advance(now.len(), Vec::new())? {
                return Err(Malformed::Body(message.header().code));
            }
            bytes = rest;
        }
        Ok(assembler)
    }

    /// True between two messages, when no byte of the next one has arrived.
    pub fn is_empty(&self) -> bool {
        self.filled == 0 && self.files.is_empty()
    }

    /// Records that `n` bytes were put into [`space`](Self::space) and `files` arrived with them. Returns the message
    /// if it is now complete.
    ///
    /// # Errors
    /// [`Malformed`]: the rest of the stream cannot be interpreted.
    ///
    /// # Panics
    /// If `n` is more than the length of `space`.
    pub fn advance(&mut self, n: usize, files: Vec<OwnedFd>) -> Result<Option<Message>, Malformed> {
        assert!(n <= self.bytes.len() - self.filled, "more bytes than space");
        self.filled += n;
        self.files.extend(files);
        if self.files.len() > FILES_MAX {
            return Err(Malformed::TooManyFiles(self.files.len()));
        }
        if self.filled < HEADER_LEN {
            return Ok(None);
        }
        if let Some(header) = self.bytes.first_chunk() {
            let whole = HEADER_LEN + Header::parse(header)?.body_len();
            self.bytes.resize(whole, 0);
        }
        if self.filled < self.bytes.len() {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(Message {
            bytes: std::mem::take(&mut self.bytes),
            files: std::mem::take(&mut self.files),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(assembler: &mut Assembler, mut bytes: &[u8], step: usize) -> Result<Vec<Message>, Malformed> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let space = assembler.space();
            assert!(!space.is_empty(), "there is always space for a byte");
            let n = space.len().min(bytes.len()).min(step);
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            messages.extend(assembler.advance(n, Vec::new())?);
        }
        Ok(messages)
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let stream = [
            Message::request(FrontendReq::SET_OWNER, &[]),
            Message::request(FrontendReq::SET_VRING_ENABLE, &[3, 0, 0, 0, 1, 0, 0, 0]),
            Message::reply(17, &4_u64.to_ne_bytes()),
        ];
        let bytes: Vec<u8> = stream.iter().flat_map(|m| m.bytes().to_vec()).collect();
        for step in 1..=bytes.len() {
            let mut assembler = Assembler::default();
            let got = feed(&mut assembler, &bytes, step).unwrap();
            let got: Vec<&[u8]> = got.iter().map(Message::bytes).collect();
            let want: Vec<&[u8]> = stream.iter().map(Message::bytes).collect();
            assert_eq!(got, want, "step {step}");
            assert!(assembler.is_empty());
        }
    }

    #[test]
    fn a_body_longer_than_any_message_is_refused_before_a_byte_of_it_is_stored() {
        let header = [18_u32, 1, 4097].map(u32::to_ne_bytes).concat();
        let mut assembler = Assembler::default();
        assert_eq!(feed(&mut assembler, &header, 99).unwrap_err(), Malformed::TooLong(4097));
        assert!(assembler.bytes.capacity() < BODY_MAX);
    }

    #[test]
    fn another_protocol_version_is_refused() {
        let header = [18_u32, 2, 0].map(u32::to_ne_bytes).concat();
        assert_eq!(
            feed(&mut Assembler::default(), &header, 99).unwrap_err(),
            Malformed::Version(2)
        );
    }

    #[test]
    fn more_files_than_a_message_has_are_refused() {
        let files = (0..=FILES_MAX).map(|_| std::fs::File::open("/dev/null").unwrap().into());
        let mut assembler = Assembler::default();
        assembler.space();
        assert_eq!(
            assembler.advance(1, files.collect()).unwrap_err(),
            Malformed::TooManyFiles(FILES_MAX + 1)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_messages_or_an_error(bytes: Vec<u8>, step in 1_usize..64) {
            let mut assembler = Assembler::default();
            if let Ok(messages) = feed(&mut assembler, &bytes, step) {
                let whole: usize = messages.iter().map(|m| m.bytes().len()).sum();
                prop_assert!(whole <= bytes.len());
                for message in messages {
                    prop_assert_eq!(message.header().body_len(), message.body().len());
                }
            }
        }
    }
}
