//! The format of the channel: messages of a length, a kind and fields, all numbers in network byte order.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of what follows, from 1 to [`LONGEST`] |
//! | 1 | kind |
//! | rest | fields of the kind |
//!
//! The peer is another host, and is trusted no more than a packet: a message that no hawser sends is an error, which ends
//! the channel.

use crate::packet::EthernetHeader;

/// Largest length of a message without the field of the length.
pub const LONGEST: usize = 1 << 20;
/// Largest number of bytes in a [`Message::Data`].
pub const PIECE: usize = 64 << 10;

/// A message of the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The source begins: a payload that describes its NIC and what it will send.
    Hello(Vec<u8>),
    /// The target serves the same NIC.
    Welcome,
    /// The side that sends it ends the channel, for this reason.
    Refuse(String),
    /// A connection of the guest: its number, its worker, and its payload.
    Flow {
        /// Number of the connection in this epoch.
        number: u32,
        /// The worker that had it.
        worker: u16,
        /// The payload.
        payload: Vec<u8>,
    },
    /// All connections of this epoch have been sent.
    Stopped {
        /// Number of the attempt.
        epoch: u64,
        /// How many there are.
        count: u32,
    },
    /// The guest runs in the source again.
    Resumed(u64),
    /// The guest runs in the target.
    Running(u64),
    /// The sockets of this epoch are anchors from now on.
    Parted(u64),
    /// Bytes of a connection.
    Data {
        /// Number of the connection.
        number: u32,
        /// At least one byte.
        bytes: Vec<u8>,
    },
    /// The peer may send this many more bytes of a connection.
    Credit {
        /// Number of the connection.
        number: u32,
        /// Number of bytes.
        bytes: u32,
    },
    /// No more bytes of a connection follow in this direction.
    End(u32),
    /// A connection was reset.
    Reset(u32),
    /// A datagram of a flow, or several of equal size.
    Datagrams {
        /// Number of the flow.
        number: u32,
        /// DSCP and ECN.
        traffic_class: u8,
        /// Length of each datagram but the last one, if there are several.
        segment: Option<u16>,
        /// Payload.
        bytes: Vec<u8>,
    },
    /// A frame for the guest that reached the process that it has left.
    Frame(Vec<u8>),
}

/// The reason why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length is zero or too large.
    #[error("a message of {0} bytes; 1 to {LONGEST} are allowed")]
    Length(usize),
    /// The kind does not exist.
    #[error("a message of unknown kind {0}")]
    Kind(u8),
    /// The fields do not match the kind.
    #[error("a message of kind {0} with the wrong fields")]
    Fields(u8),
}

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSE: u8 = 3;
const FLOW: u8 = 4;
const STOPPED: u8 = 5;
const RESUMED: u8 = 6;
const RUNNING: u8 = 7;
const PARTED: u8 = 8;
const DATA: u8 = 9;
const CREDIT: u8 = 10;
const END: u8 = 11;
const RESET: u8 = 12;
const DATAGRAMS: u8 = 13;
const FRAME: u8 = 14;

impl Message {
    /// Appends the message to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Hello(payload) => frame(to, HELLO, &[payload]),
            Self::Welcome => frame(to, WELCOME, &[]),
            Self::Refuse(why) => frame(to, REFUSE, &[why.as_bytes()]),
            Self::Flow {
                number,
                worker,
                payload,
            } => frame(to, FLOW, &[&number.to_be_bytes(), &worker.to_be_bytes(), payload]),
            Self::Stopped { epoch, count } => frame(to, STOPPED, &[&epoch.to_be_bytes(), &count.to_be_bytes()]),
            Self::Resumed(epoch) => frame(to, RESUMED, &[&epoch.to_be_bytes()]),
            Self::Running(epoch) => frame(to, RUNNING, &[&epoch.to_be_bytes()]),
            Self::Parted(epoch) => frame(to, PARTED, &[&epoch.to_be_bytes()]),
            Self::Data { number, bytes } => data(to, *number, bytes),
            Self::Credit { number, bytes } => frame(to, CREDIT, &[&number.to_be_bytes(), &bytes.to_be_bytes()]),
            Self::End(number) => frame(to, END, &[&number.to_be_bytes()]),
            Self::Reset(number) => frame(to, RESET, &[&number.to_be_bytes()]),
            Self::Datagrams {
                number,
                traffic_class,
                segment,
                bytes,
            } => datagrams(to, *number, (*traffic_class, *segment), bytes),
            Self::Frame(bytes) => frame(to, FRAME, &[bytes]),
        }
    }

    fn decode(kind: u8, fields: &[u8]) -> Result<Self, WireError> {
        let wrong = WireError::Fields(kind);
        let epoch = || fields.try_into().map(u64::from_be_bytes).map_err(|_| wrong);
        let number = || fields.try_into().map(u32::from_be_bytes).map_err(|_| wrong);
        Ok(match kind {
            HELLO => Self::Hello(fields.to_vec()),
            WELCOME if fields.is_empty() => Self::Welcome,
            REFUSE => Self::Refuse(String::from_utf8_lossy(fields).into_owned()),
            FLOW => {
                let (number, rest) = split(fields).ok_or(wrong)?;
                let (worker, payload) = split(rest).ok_or(wrong)?;
                Self::Flow {
                    number: u32::from_be_bytes(number),
                    worker: u16::from_be_bytes(worker),
                    payload: payload.to_vec(),
                }
            }
            STOPPED => {
                let (epoch, count) = split(fields).ok_or(wrong)?;
                Self::Stopped {
                    epoch: u64::from_be_bytes(epoch),
                    count: u32::from_be_bytes(count.try_into().map_err(|_| wrong)?),
                }
            }
            RESUMED => Self::Resumed(epoch()?),
            RUNNING => Self::Running(epoch()?),
            PARTED => Self::Parted(epoch()?),
            DATA => {
                let (number, bytes) = split(fields).ok_or(wrong)?;
                if !(1..=PIECE).contains(&bytes.len()) {
                    return Err(wrong);
                }
                Self::Data {
                    number: u32::from_be_bytes(number),
                    bytes: bytes.to_vec(),
                }
            }
            CREDIT => {
                let (number, bytes) = split(fields).ok_or(wrong)?;
                Self::Credit {
                    number: u32::from_be_bytes(number),
                    bytes: u32::from_be_bytes(bytes.try_into().map_err(|_| wrong)?),
                }
            }
            END => Self::End(number()?),
            RESET => Self::Reset(number()?),
            DATAGRAMS => {
                let (number, rest) = split(fields).ok_or(wrong)?;
                let ([traffic_class], rest) = split(rest).ok_or(wrong)?;
                let (segment, bytes) = split(rest).ok_or(wrong)?;
                if bytes.len() > PIECE {
                    return Err(wrong);
                }
                Self::Datagrams {
                    number: u32::from_be_bytes(number),
                    traffic_class,
                    segment: Some(u16::from_be_bytes(segment)).filter(|segment| *segment > 0),
                    bytes: bytes.to_vec(),
                }
            }
            FRAME if (EthernetHeader::LEN..=PIECE).contains(&fields.len()) => Self::Frame(fields.to_vec()),
            WELCOME | FRAME => return Err(wrong),
            unknown => return Err(WireError::Kind(unknown)),
        })
    }
}

/// Appends a [`Message::Data`] to `to`. `bytes` are at least one and at most [`PIECE`].
pub fn data(to: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    frame(to, DATA, &[&number.to_be_bytes(), bytes]);
}

/// Appends a [`Message::Datagrams`] to `to`. `bytes` are at most [`PIECE`]; `class` and `segment` are its other fields.
pub fn datagrams(to: &mut Vec<u8>, number: u32, (class, segment): (u8, Option<u16>), bytes: &[u8]) {
    let segment = segment.unwrap_or(0).to_be_bytes();
    frame(to, DATAGRAMS, &[&number.to_be_bytes(), &[class], &segment, bytes]);
}

fn frame(to: &mut Vec<u8>, kind: u8, fields: &[&[u8]]) {
    let length = 1 + fields.iter().map(|field| field.len()).sum::<usize>();
    debug_assert!(length <= LONGEST, "a message of {length} bytes");
    to.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    to.push(kind);
    fields.iter().for_each(|field| to.extend_from_slice(field));
}

fn split<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    Some((*first, rest))
}

/// Takes messages out of a stream of bytes, whatever pieces they arrive in.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes at the front that were taken out.
    taken: usize,
}

impl Decoder {
    /// Adds bytes that have arrived. Take all messages out before more are added, so that no more than one message and
    /// these bytes are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`WireError`], after which the stream has no meaning.
    pub fn take(&mut self) -> Result<Option<Message>, WireError> {
        const HEAD: usize = 4;
        let bytes = &self.bytes[self.taken..];
        let Some((length, rest)) = split::<HEAD>(bytes) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if !(1..=LONGEST).contains(&length) {
            return Err(WireError::Length(length));
        }
        let Some((kind, fields)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let message = Message::decode(*kind, fields)?;
        self.taken += HEAD + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = Message> {
        let bytes = || proptest::collection::vec(any::<u8>(), 1..300);
        prop_oneof![
            bytes().prop_map(Message::Hello),
            Just(Message::Welcome),
            ".{0,40}".prop_map(Message::Refuse),
            (any::<u32>(), any::<u16>(), bytes()).prop_map(|(number, worker, payload)| Message::Flow {
                number,
                worker,
                payload
            }),
            (any::<u64>(), any::<u32>()).prop_map(|(epoch, count)| Message::Stopped { epoch, count }),
            any::<u64>().prop_map(Message::Resumed),
            any::<u64>().prop_map(Message::Running),
            any::<u64>().prop_map(Message::Parted),
            (any::<u32>(), bytes()).prop_map(|(number, bytes)| Message::Data { number, bytes }),
            (any::<u32>(), any::<u32>()).prop_map(|(number, bytes)| Message::Credit { number, bytes }),
            any::<u32>().prop_map(Message::End),
            any::<u32>().prop_map(Message::Reset),
            (any::<u32>(), any::<u8>(), any::<u16>(), bytes()).prop_map(|(number, traffic_class, segment, bytes)| {
                Message::Datagrams {
                    number,
                    traffic_class,
                    segment: Some(segment).filter(|segment| *segment > 0),
                    bytes,
                }
            }),
            bytes().prop_map(|bytes| Message::Frame([&[0; 14], &bytes[..]].concat())),
        ]
    }

    proptest! {
        #[test]
        fn messages_arrive_as_they_were_sent_in_whatever_pieces(
            sent in proptest::collection::vec(messages(), 0..20),
            piece in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            sent.iter().for_each(|message| message.encode(&mut bytes));
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for part in bytes.chunks(piece) {
                decoder.push(part);
                while let Some(message) = decoder.take().unwrap() {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_are_messages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take() {}
        }
    }

    #[test]
    fn what_no_hawser_sends_is_refused() {
        let refuse = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.take().unwrap_err()
        };
        assert_eq!(refuse(&[0, 0, 0, 0]), WireError::Length(0));
        assert_eq!(refuse(&[0, 16, 0, 1]), WireError::Length(LONGEST + 1));
        assert_eq!(refuse(&[0, 0, 0, 1, 77]), WireError::Kind(77));
        assert_eq!(refuse(&[0, 0, 0, 2, WELCOME, 0]), WireError::Fields(WELCOME));
        assert_eq!(refuse(&[0, 0, 0, 5, DATA, 0, 0, 0, 1]), WireError::Fields(DATA));
        assert_eq!(refuse(&[0, 0, 0, 3, END, 0, 0]), WireError::Fields(END));
        assert_eq!(refuse(&[0, 0, 0, 4, FRAME, 0, 0, 0]), WireError::Fields(FRAME));
        assert_eq!(
            refuse(&[0, 0, 0, 6, DATAGRAMS, 0, 0, 0, 1, 0]),
            WireError::Fields(DATAGRAMS)
        );
    }
}
