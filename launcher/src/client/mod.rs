//! What asks a running process on its API socket: a subcommand in each file, and the HTTP
//! they share.

pub mod args;
pub mod capture;
pub mod forward;
pub mod loglevel;
pub mod plug;
pub mod rate;
pub mod status;
pub mod top;

use crate::api::Refusal;
use crate::api::http::{self, Method};
use crate::failure::Failure;
use args::{AskArgs, ProcessArgs};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest head of an answer.
const HEAD_MAX: u64 = 16 << 10;
/// Longest answer that is read whole.
const ANSWER_MAX: u64 = 16 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running process.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What is asked, and of which port.
#[derive(Debug)]
pub struct Target(String);

impl Target {
    /// A path of the API.
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// With a value in its query.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&http::encode(&value.to_string()));
        self
    }

    /// Of a port, if one is named.
    #[must_use]
    pub fn of(self, port: Option<&str>) -> Self {
        match port {
            Some(port) => self.with("port", port),
            None => self,
        }
    }
}

impl Client {
    /// The process that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The process that options name.
    pub fn of(args: &AskArgs) -> Self {
        Self::of_process(&args.process)
    }

    /// The process that options name, where no port is.
    pub fn of_process(args: &ProcessArgs) -> Self {
        Self::new(&args.socket())
    }

    /// Asks.
    ///
    /// # Errors
    /// If nobody answers, or not that.
    pub fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, Failure> {
        self.ask(Method::Get, target, &[])
    }

    /// Sends `body`.
    ///
    /// # Errors
    /// If nobody answers, or it is refused.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::runtime)?;
        self.ask(method, target, &body)
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, target: &Target, body: &[u8]) -> Result<T, Failure> {
        let mut answer = self.open(method, target, body)?;
        let stream = answer.get_ref();
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| self.failed(&e))?;
        let text = read_rest(&mut answer).map_err(|e| self.failed(&e))?;
        serde_json::from_str(&text).map_err(|error| {
            self.failed(&io::Error::new(
                ErrorKind::InvalidData,
                format!("what answers there is not this version of hawser: {error}"),
            ))
        })
    }

    /// Asks, and has the answer come as it comes.
    ///
    /// # Errors
    /// If nobody answers, or it is refused.
    pub fn open(&self, method: Method, target: &Target, body: &[u8]) -> Result<BufReader<UnixStream>, Failure> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|e| self.failed(&e))?;
        let (method, target, len) = (method.name(), &target.0, body.len());
        let head = format!("{method} {target} HTTP/1.1\r\nHost: hawser\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(|e| self.failed(&e))?;
        stream.write_all(body).map_err(|e| self.failed(&e))?;
        let mut answer = BufReader::new(stream);
        let status = read_head(&mut answer).map_err(|e| self.failed(&e))?;
        if status == 200 {
            return Ok(answer);
        }
        let text = read_rest(&mut answer).map_err(|e| self.failed(&e))?;
        Err(Failure::runtime(match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) => format!("hawser refuses: {}: {}", refusal.error, refusal.remedy),
            Err(_) => format!("hawser refuses: {}", text.trim_end()),
        }))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => "; is hawser running there, with --api-socket?",
            _ => "",
        };
        Failure::runtime(format_args!("--api-socket={}: {error}{hint}", self.socket.display()))
    }
}

/// Reads up to the empty line; the status.
fn read_head(answer: &mut impl BufRead) -> io::Result<u16> {
    let mut lines = answer.take(HEAD_MAX).lines();
    let bad = || io::Error::new(ErrorKind::InvalidData, "what answers there is not hawser");
    let first = lines.next().ok_or_else(bad)??;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    for line in lines {
        if line?.is_empty() {
            return status.ok_or_else(bad);
        }
    }
    Err(bad())
}

fn read_rest(answer: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    answer.take(ANSWER_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Prints a value as JSON, or as a person reads it.
///
/// # Errors
/// Standard output cannot be written.
pub fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    crate::print(&if json {
        serde_json::to_string_pretty(value).map_err(Failure::runtime)? + "\n"
    } else {
        text(value)
    })
}
