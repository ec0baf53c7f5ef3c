//! Messages with descriptors on a Unix stream socket.
//!
//! ```text
//!  length of the word │ length of the blob │ number of descriptors   (4 bytes each, little endian)
//!  word (JSON) │ blob │ one byte for each batch of descriptors, which the receiver acknowledges by one byte
//! ```
//!
//! The acknowledgments keep few descriptors in flight: the kernel counts them against the sender's RLIMIT_NOFILE. The last
//! batch of a message needs none.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Descriptors in one batch. The kernel allows 253 (SCM_MAX_FD).
const BATCH: usize = 128;
/// Longest word or blob.
const LONGEST: usize = 1 << 30;
/// Most descriptors of a message.
const MOST: usize = 1 << 20;
const ACKNOWLEDGED: u8 = b'.';

/// A message.
#[derive(Debug)]
pub(crate) struct Message<W> {
    pub word: W,
    /// Bytes that are not JSON, or too many to be read twice.
    pub blob: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl<W> Message<W> {
    /// A message that is a word only.
    pub(crate) const fn of(word: W) -> Self {
        Self {
            word,
            blob: Vec::new(),
            descriptors: Vec::new(),
        }
    }
}

/// One end of the socket. Each call fails with TimedOut or WouldBlock when the deadline has passed.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    deadline: Option<Instant>,
}

impl Wire {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream, deadline: None }
    }

    pub(crate) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sets the moment at which calls fail; `None`: never.
    pub(crate) const fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    pub(crate) fn send<W: Serialize>(&mut self, message: Message<W>) -> io::Result<()> {
        let word = serde_json::to_vec(&message.word)?;
        let mut bytes = Vec::with_capacity(12 + word.len() + message.blob.len());
        for length in [word.len(), message.blob.len(), message.descriptors.len()] {
            let length = u32::try_from(length).map_err(io::Error::other)?;
            bytes.extend(length.to_le_bytes());
        }
        bytes.extend(word);
        bytes.extend(message.blob);
        self.limit()?;
        self.stream.write_all(&bytes)?;
        for (number, batch) in message.descriptors.chunks(BATCH).enumerate() {
            self.limit()?;
            if number > 0 {
                self.stream.read_exact(&mut [0])?;
            }
            self.send_batch(batch)?;
        }
        Ok(())
    }

    /// Sends a word only.
    pub(crate) fn say<W: Serialize>(&mut self, word: W) -> io::Result<()> {
        self.send(Message::of(word))
    }

    pub(crate) fn receive<W: DeserializeOwned>(&mut self) -> io::Result<Message<W>> {
        let mut head = [0; 12];
        self.limit()?;
        self.stream.read_exact(&mut head)?;
        let mut lengths = head.chunks_exact(4).map(|field| {
            let field = field.try_into().unwrap_or_default();
            usize::try_from(u32::from_le_bytes(field)).unwrap_or(usize::MAX)
        });
        let mut next = || lengths.next().unwrap_or_default();
        let (word_len, blob_len, count) = (next(), next(), next());
        if word_len > LONGEST || blob_len > LONGEST || count > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
        }
        let word = self.read(word_len)?;
        let blob = self.read(blob_len)?;
        let mut descriptors = Vec::with_capacity(count);
        while descriptors.len() < count {
            self.limit()?;
            let expected = BATCH.min(count - descriptors.len());
            let batch = self.receive_batch()?;
            if batch.len() != expected {
                return Err(io::Error::other(
                    "descriptors did not arrive: raise the limit on open files (RLIMIT_NOFILE)",
                ));
            }
            descriptors.extend(batch);
            if descriptors.len() < count {
                self.stream.write_all(&[ACKNOWLEDGED])?;
            }
        }
        Ok(Message {
            word: serde_json::from_slice(&word)?,
            blob,
            descriptors,
        })
    }

    fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.limit()?;
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        (&self.stream).take(len).read_to_end(&mut bytes)?;
        match u64::try_from(bytes.len()) == Ok(len) {
            true => Ok(bytes),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Applies the deadline to the next system calls.
    fn limit(&self) -> io::Result<()> {
        let left = match self.deadline {
            None => None,
            Some(deadline) => match deadline.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                left => Some(left),
            },
        };
        self.stream.set_read_timeout(left)?;
        self.stream.set_write_timeout(left)
    }

    fn send_batch(&self, batch: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = batch.iter().map(OwnedFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&[ACKNOWLEDGED])],
            &mut rights,
            SendFlags::NOSIGNAL,
        )?;
        match sent {
            1 => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn receive_batch(&self) -> io::Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let got = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut byte)],
            &mut rights,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut batch = Vec::with_capacity(BATCH);
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                batch.extend(descriptors);
            }
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::thread;

    fn pair() -> (Wire, Wire) {
        let (a, b) = UnixStream::pair().unwrap();
        (Wire::new(a), Wire::new(b))
    }

    #[test]
    fn a_message_arrives_with_its_blob_and_all_of_its_descriptors_in_order() {
        let (mut a, mut b) = pair();
        let sender = thread::spawn(move || {
            let descriptors = (0..300).map(|n| {
                let (reader, mut writer) = io::pipe().unwrap();
                writer.write_all(&i32::to_le_bytes(n)).unwrap();
                reader.into()
            });
            let message = Message {
                word: "word",
                blob: vec![7; 1 << 20],
                descriptors: descriptors.collect(),
            };
            a.send(message).unwrap();
            a.say("next").unwrap();
        });
        let got = b.receive::<String>().unwrap();
        assert_eq!((got.word.as_str(), got.blob), ("word", vec![7; 1 << 20]));
        for (n, descriptor) in (0..).zip(got.descriptors) {
            let mut bytes = [0; 4];
            File::from(descriptor).read_exact(&mut bytes).unwrap();
            assert_eq!(i32::from_le_bytes(bytes), n);
        }
        assert_eq!(b.receive::<String>().unwrap().word, "next");
        sender.join().unwrap();
    }

    #[test]
    fn a_peer_that_says_nothing_costs_no_more_than_the_deadline() {
        let (mut a, _b) = pair();
        a.set_deadline(Some(Instant::now() + Duration::from_millis(50)));
        let error = a.receive::<String>().unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            "{error:?}"
        );
        assert_eq!(a.receive::<String>().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_message_that_is_cut_short_or_too_long_is_refused() {
        for bytes in [&[1, 0, 0][..], &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'"'], &[0xff; 12]] {
            let (a, mut b) = pair();
            a.stream().write_all(bytes).unwrap();
            drop(a);
            b.receive::<String>().unwrap_err();
        }
    }
}
