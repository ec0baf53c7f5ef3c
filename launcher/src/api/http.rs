//! HTTP/1.1 as far as an operator's socket needs it: one request and one answer a connection.
//!
//! What a client can cost is bounded: [`THREADS`] requests at a time, the others wait in
//! the kernel's queue; a head of [`HEAD_MAX`] and a body of [`BODY_MAX`] bytes; and
//! [`PATIENCE`] from the first byte waited for to the last, so that half a request does not
//! keep a thread. The threads are niced: when processors are short, packets go first.

use super::refusal::Refusal;
use rustix::net::Shutdown;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Requests that are answered at a time.
pub const THREADS: usize = 4;
/// Longest request line with headers.
pub const HEAD_MAX: usize = 8 << 10;
/// Longest body: all manifests of a VM.
pub const BODY_MAX: usize = 256 << 10;
/// How long a request may take to come, and a client to take a piece of the answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Headers of a request that are looked at.
const HEADERS_MAX: usize = 32;
/// How much less a request matters than a packet (nice(2)).
const NICENESS: i32 = 10;
/// How long to wait when the system has no descriptor left for a client.
const RETRY: Duration = Duration::from_millis(100);

/// The methods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Adds or does.
    Post,
    /// Sets.
    Put,
    /// Removes.
    Delete,
}

impl Method {
    /// As it is written in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Delete]
            .into_iter()
            .find(|method| method.name() == name)
    }
}

/// A request that has come whole.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// With what: the path, without query.
    pub path: String,
    /// Values by name, percent-encoding undone.
    pub query: BTreeMap<String, String>,
    /// What goes with it.
    pub body: Vec<u8>,
}

/// Writes an answer whose end is not known when it begins.
pub type Stream = Box<dyn FnOnce(UnixStream) -> io::Result<()> + Send>;

/// What a request is answered.
pub enum Answer {
    /// A whole document.
    Whole {
        /// HTTP status.
        status: u16,
        /// Media type.
        kind: &'static str,
        /// Document.
        body: Vec<u8>,
    },
    /// A document that goes on until the client goes, on a thread of its own.
    Stream {
        /// Media type.
        kind: &'static str,
        /// Name of the thread.
        thread: &'static str,
        /// Who writes it.
        write: Stream,
    },
}

/// Answers requests until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    listener: UnixListener,
    handler: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
    ending: AtomicBool,
    /// Whom each thread answers.
    clients: [Mutex<Option<Arc<UnixStream>>>; THREADS],
}

impl Server {
    /// Has `handler` answer whoever comes to `listener`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        listener: UnixListener,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut server = Self {
            shared: Arc::new(Shared {
                listener,
                handler: Box::new(handler),
                ending: AtomicBool::new(false),
                clients: Default::default(),
            }),
            threads: Vec::with_capacity(THREADS),
        };
        for index in 0..THREADS {
            let shared = Arc::clone(&server.shared);
            let thread = thread::Builder::new().name(format!("api-{index}"));
            server.threads.push(thread.spawn(move || shared.serve(index))?);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // Wakes all that wait for a client: what accept(2) waits for can no longer come.
        let _ = rustix::net::shutdown(&self.shared.listener, Shutdown::Both);
        for client in &self.shared.clients {
            let client = client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(client) = &*client {
                // A client that has gone is as good.
                let _ = client.shutdown(std::net::Shutdown::Both);
            }
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, index: usize) {
        // Where the system does not let us, requests matter as much as packets.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let slot = || self.clients[index].lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let accepted = self.listener.accept();
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            let Ok((client, _)) = accepted else {
                thread::sleep(RETRY);
                continue;
            };
            let client = Arc::new(client);
            *slot() = Some(Arc::clone(&client));
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            let stream = self.answer(&client);
            *slot() = None;
            if let (Some(stream), Some(client)) = (stream, Arc::into_inner(client)) {
                start_stream(stream, client);
            }
        }
    }

    /// Answers a client; what is left to do if the answer has no end yet.
    fn answer(&self, client: &UnixStream) -> Option<(&'static str, Stream)> {
        let answer = match read_request(client) {
            Ok(request) => (self.handler)(&request),
            Err(Some(refusal)) => refusal.into(),
            Err(None) => return None,
        };
        // A client that has gone needs no answer.
        match answer {
            Answer::Whole { status, kind, body } => {
                let _ = write_whole(client, status, kind, &body);
                None
            }
            Answer::Stream { kind, thread, write } => {
                write_head(client, 200, kind, None).ok()?;
                client.set_write_timeout(None).ok()?;
                Some((thread, write))
            }
        }
    }
}

fn start_stream((name, stream): (&'static str, Stream), client: UnixStream) {
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        // It ends when the client goes, which is what ends most.
        let _ = stream(client);
    });
    if let Err(error) = thread {
        log::warn!("cannot start a thread for a request: {error}");
    }
}

/// Reads a request; `None`: the client has gone.
fn read_request(client: &UnixStream) -> Result<Request, Option<Refusal>> {
    client.set_write_timeout(Some(PATIENCE)).map_err(|_| None)?;
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::with_capacity(1 << 10);
    loop {
        if let Some((mut request, head_len, body_len)) = parse_head(&bytes)? {
            if body_len > BODY_MAX {
                return Err(Some(Refusal::too_large(format!(
                    "a body of {body_len} bytes is longer than {BODY_MAX}"
                ))));
            }
            while bytes.len() < head_len + body_len {
                read_more(client, deadline, &mut bytes)?;
            }
            request.body = bytes.split_off(head_len);
            request.body.truncate(body_len);
            return Ok(request);
        }
        if bytes.len() >= HEAD_MAX {
            return Err(Some(Refusal::too_large(format!("a head longer than {HEAD_MAX} bytes"))));
        }
        read_more(client, deadline, &mut bytes)?;
    }
}

fn read_more(mut client: &UnixStream, deadline: Instant, bytes: &mut Vec<u8>) -> Result<(), Option<Refusal>> {
    let late = || Some(Refusal::timeout());
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late());
    }
    client.set_read_timeout(Some(left)).map_err(|_| None)?;
    let mut piece = [0; 4 << 10];
    match client.read(&mut piece) {
        Ok(0) => Err(None),
        Ok(n) => {
            bytes.extend_from_slice(&piece[..n]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(late()),
        Err(_) => Err(None),
    }
}

/// Reads a head; with it its own length and that of the body. `None`: it has not come whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let parsed = head.parse(bytes).map_err(|error| Refusal::not_http(&error))?;
    let httparse::Status::Complete(head_len) = parsed else {
        return Ok(None);
    };
    let method = head.method.unwrap_or_default();
    let method = Method::parse(method).ok_or_else(|| Refusal::unknown_method(method))?;
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| {
        head.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
    };
    if header("Transfer-Encoding").is_some() {
        return Err(Refusal::length_required());
    }
    let body_len = match header("Content-Length") {
        None => 0,
        Some(length) => std::str::from_utf8(length.value)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(Refusal::length_required)?,
    };
    let request = Request {
        method,
        path: decode(path),
        query: parse_query(query),
        body: Vec::new(),
    };
    Ok(Some((request, head_len, body_len)))
}

fn write_whole(client: &UnixStream, status: u16, kind: &str, body: &[u8]) -> io::Result<()> {
    write_head(client, status, kind, Some(body.len()))?;
    let mut client = client;
    client.write_all(body)
}

fn write_head(mut client: &UnixStream, status: u16, kind: &str, len: Option<usize>) -> io::Result<()> {
    let length = len.map(|len| format!("Content-Length: {len}\r\n")).unwrap_or_default();
    let phrase = phrase(status);
    let head = format!("HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n");
    client.write_all(head.as_bytes())
}

/// What a status means (RFC 9110 15).
const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        501 => "Not Implemented",
        _ => "Internal Server Error",
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Undoes percent-encoding (RFC 3986 2.1); what is no encoding stays as it is.
fn decode(text: &str) -> String {
    let (bytes, mut decoded) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < bytes.len() {
        let byte = text
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Percent-encodes what a query's value cannot have.
pub fn encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,:=".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            byte if is_plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
