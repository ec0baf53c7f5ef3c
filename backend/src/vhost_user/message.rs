//! vhost-user messages as bytes: a header of three 32-bit words in the machine's byte
//! order, a body, and file descriptors that travel with the first byte.
//!
//! Nothing here does I/O. An [`Assembler`] is given bytes as they come and never asks
//! for more than the message it is in the middle of, so that descriptors stay with the
//! message they belong to.

use std::os::fd::OwnedFd;

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;
/// Longest body taken, in bytes: as much as the daemon takes.
pub const BODY_MAX: usize = 4096;
/// Most descriptors taken with one message: as many as the daemon takes.
pub const FILES_MAX: usize = 32;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The requests that are looked at on the way (vhost-user "Front-end message types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// VHOST_USER_SET_FEATURES
    SetFeatures,
    /// VHOST_USER_SET_OWNER
    SetOwner,
    /// VHOST_USER_RESET_OWNER
    ResetOwner,
    /// VHOST_USER_SET_MEM_TABLE
    SetMemTable,
    /// VHOST_USER_SET_LOG_BASE
    SetLogBase,
    /// VHOST_USER_SET_PROTOCOL_FEATURES
    SetProtocolFeatures,
    /// VHOST_USER_GET_QUEUE_NUM
    GetQueueNum,
    /// VHOST_USER_SET_VRING_ENABLE
    SetVringEnable,
    /// VHOST_USER_SEND_RARP
    SendRarp,
    /// VHOST_USER_NET_SET_MTU
    NetSetMtu,
    /// VHOST_USER_SET_BACKEND_REQ_FD
    SetBackendReqFd,
    /// VHOST_USER_RESET_DEVICE
    ResetDevice,
    /// VHOST_USER_ADD_MEM_REG
    AddMemReg,
    /// Everything else.
    Other(u32),
}

impl Request {
    const KNOWN: [(u32, Self); 13] = [
        (2, Self::SetFeatures),
        (3, Self::SetOwner),
        (4, Self::ResetOwner),
        (5, Self::SetMemTable),
        (6, Self::SetLogBase),
        (16, Self::SetProtocolFeatures),
        (17, Self::GetQueueNum),
        (18, Self::SetVringEnable),
        (19, Self::SendRarp),
        (20, Self::NetSetMtu),
        (21, Self::SetBackendReqFd),
        (34, Self::ResetDevice),
        (37, Self::AddMemReg),
    ];

    /// The request with number `code`.
    pub fn from_code(code: u32) -> Self {
        let known = Self::KNOWN.iter().find(|(c, _)| *c == code);
        known.map_or(Self::Other(code), |(_, request)| *request)
    }

    /// The request's number.
    pub fn code(self) -> u32 {
        match self {
            Self::Other(code) => code,
            known => Self::KNOWN
                .iter()
                .find(|(_, r)| *r == known)
                .map_or(0, |(code, _)| *code),
        }
    }
}

/// Why bytes are no vhost-user message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The version bits are not 1.
    #[error("a message of protocol version {0} came, only version 1 exists: is the peer a vhost-user front end?")]
    Version(u32),
    /// The body is longer than any message has.
    #[error("a message with a body of {0} bytes was announced, at most {BODY_MAX} are taken")]
    TooLong(u32),
    /// More descriptors than any message has.
    #[error("a message came with {0} file descriptors, at most {FILES_MAX} are taken")]
    TooManyFiles(usize),
    /// The body does not have the length of its request.
    #[error("request {code} came with a body of {got} bytes instead of {want}")]
    BodyLength {
        /// The request's number.
        code: u32,
        /// Bytes that came.
        got: usize,
        /// Bytes the request has.
        want: usize,
    },
    /// Descriptors with a request that has none.
    #[error("request {0} came with file descriptors, it has none")]
    UnexpectedFiles(u32),
    /// The connection ended in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Cut,
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub code: u32,
    /// Version and flags.
    pub flags: u32,
    /// Bytes of the body.
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

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// True if the sender waits for an answer to a request that has none of its own.
    pub const fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }
}

/// A whole message.
#[derive(Debug, Default)]
pub struct Message {
    /// Header and body.
    bytes: Vec<u8>,
    /// Descriptors that came with it.
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

    /// A request nobody has to answer.
    pub fn request(request: Request, body: &[u8]) -> Self {
        Self::new(request.code(), 0, body)
    }

    /// An answer that is one 64-bit number.
    pub fn reply(code: u32, value: u64) -> Self {
        Self::new(code, REPLY, &value.to_ne_bytes())
    }

    /// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, for the front end's back channel: what the guest
    /// reads of its device's configuration has changed.
    pub fn config_change() -> Self {
        const CONFIG_CHANGE: u32 = 2;
        Self::new(CONFIG_CHANGE, 0, &[])
    }

    /// A SET_VRING_ENABLE.
    pub fn vring_enable(ring: u32, enable: bool) -> Self {
        let mut body = [0; 8];
        body[..4].copy_from_slice(&ring.to_ne_bytes());
        body[4..].copy_from_slice(&u32::from(enable).to_ne_bytes());
        Self::request(Request::SetVringEnable, &body)
    }

    /// The header.
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

    /// What is asked for.
    pub fn kind(&self) -> Request {
        Request::from_code(self.header().code)
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// Header and body as they go over the socket.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body as an array of exactly `N` bytes.
    ///
    /// # Errors
    /// [`Malformed::BodyLength`].
    pub fn body_array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.body().try_into().map_err(|_| Malformed::BodyLength {
            code: self.header().code,
            got: self.body().len(),
            want: N,
        })
    }

    /// The body as one 64-bit number.
    ///
    /// # Errors
    /// [`Malformed::BodyLength`].
    pub fn body_u64(&self) -> Result<u64, Malformed> {
        self.body_array().map(u64::from_ne_bytes)
    }
}

/// Puts messages together from a byte stream.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    filled: usize,
    files: Vec<OwnedFd>,
}

impl Assembler {
    /// Where the next bytes go: the rest of the header, or the rest of the body. Never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.bytes.len() < HEADER_LEN {
            self.bytes.resize(HEADER_LEN, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// True between two messages.
    pub fn is_empty(&self) -> bool {
        self.filled == 0 && self.files.is_empty()
    }

    /// Notes that `n` bytes were put into [`space`](Self::space), and `files` came
    /// with them; returns the message if that completed it.
    ///
    /// # Errors
    /// [`Malformed`]: the stream cannot be read on.
    ///
    /// # Panics
    /// If `n` is more than there was space for.
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
            Message::request(Request::SetOwner, &[]),
            Message::vring_enable(3, true),
            Message::reply(17, 4),
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
