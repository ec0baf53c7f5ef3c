//! A process that starts to take over from hawser, and does not go all the way.

use crate::{Result, failure};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time that hawser takes to say something.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors in one batch.
const BATCH: usize = 128;
/// Kinds of payloads that hawser writes.
const KINDS: [&str; 17] = [
    "attachment",
    "bridge",
    "echo-socket",
    "journal",
    "link-claim",
    "listening-socket",
    "masquerade",
    "nat-engine",
    "nic",
    "nic-identity",
    "port",
    "port-forward",
    "socket-lookup",
    "tcp-flow",
    "tcp-secret",
    "udp-flow",
    "vhost-user-server",
];
/// A version that no payload has yet.
const NEWEST: u32 = 1000;

/// One end of a takeover socket.
#[derive(Debug)]
pub struct HalfTaker(UnixStream);

/// What such a process says first.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Version of the protocol.
    pub protocol: u32,
    /// Payload that it reads in this version only, if there is one.
    pub old: Option<(&'static str, u32)>,
}

impl Hello {
    /// A process that reads everything.
    pub const NEWER: Self = Self { protocol: 2, old: None };
}

impl HalfTaker {
    /// Connects to a process, and says `hello`.
    pub fn connect(socket: &Path, hello: &Hello) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut taker = Self(stream);
        let version = |kind| match hello.old {
            Some((old, version)) if old == kind => version,
            _ => NEWEST,
        };
        let formats: Value = KINDS
            .iter()
            .map(|kind| ((*kind).to_owned(), Value::from(version(*kind))))
            .collect();
        let words = json!({"protocol": hello.protocol, "program": "test", "formats": formats, "nics": {}});
        taker.say(&json!({ "hello": words }))?;
        Ok(taker)
    }

    /// Says a word.
    pub fn say(&mut self, word: &Value) -> Result<()> {
        let word = serde_json::to_vec(word)?;
        let length = u32::try_from(word.len())?;
        let head = [length.to_le_bytes(), [0; 4], [0; 4]].concat();
        Ok(self.0.write_all(&[head, word].concat())?)
    }

    /// The next word. Blobs and descriptors are received and dropped.
    pub fn hear(&mut self) -> Result<Value> {
        let mut head = [0; 12];
        self.0.read_exact(&mut head)?;
        let mut lengths = head.chunks_exact(4).map(|field| {
            let field = field.try_into().unwrap_or_default();
            usize::try_from(u32::from_le_bytes(field))
        });
        let mut next = || -> Result<usize> { Ok(lengths.next().transpose()?.unwrap_or_default()) };
        let (word, blob, descriptors) = (next()?, next()?, next()?);
        let (mut word, mut blob) = (vec![0; word], vec![0; blob]);
        self.0.read_exact(&mut word)?;
        self.0.read_exact(&mut blob)?;
        let batches = descriptors.div_ceil(BATCH);
        for batch in 1..=batches {
            self.0.read_exact(&mut [0])?;
            if batch < batches {
                self.0.write_all(b".")?;
            }
        }
        Ok(serde_json::from_slice(&word)?)
    }

    /// Hears words up to `last`.
    pub fn hear_until(&mut self, last: &str) -> Result<()> {
        loop {
            let word = self.hear()?;
            if word == last {
                return Ok(());
            }
            if word.get("refused").is_some() {
                return Err(failure(word.to_string()));
            }
        }
    }

    /// Goes on until the guest's rings rest.
    pub fn take(&mut self) -> Result<()> {
        let hello = self.hear()?;
        if hello.get("hello").is_none() {
            return Err(failure(hello.to_string()));
        }
        for word in ["prepare", "ahead"] {
            self.say(&word.into())?;
            self.hear_until("done")?;
        }
        self.say(&"take".into())
    }

    /// The reason for which hawser goes on.
    pub fn refusal(&mut self) -> Result<String> {
        let word = self.hear()?;
        let why = word.get("refused").and_then(Value::as_str).map(str::to_owned);
        why.ok_or_else(|| failure(word.to_string()))
    }
}
