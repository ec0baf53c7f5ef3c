//! What asks a running process on its API socket: a subcommand in each file, and what they
//! share.

pub mod args;
pub mod capture;
pub mod forward;
pub mod loglevel;
pub mod plug;
pub mod rate;
pub mod status;
pub mod top;

use crate::api::Refusal;
use crate::api::http::Method;
use crate::exchange::{self, Answer, Question};
use crate::failure::Failure;
use args::{AskArgs, ProcessArgs};
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Status of what is granted.
const OK: u16 = 200;
/// Longest answer that is read whole.
const ANSWER_MAX: usize = 16 << 20;
/// How long an answer may take to come once it has begun.
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
        self.0
            .extend(form_urlencoded::byte_serialize(value.to_string().as_bytes()));
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
        let text = self.whole(method, target, body)?;
        serde_json::from_slice(&text).map_err(|error| {
            self.failed(&io::Error::new(
                ErrorKind::InvalidData,
                format!("what answers there is not this version of hawser: {error}"),
            ))
        })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// If nobody answers, or it is refused.
    pub fn whole(&self, method: Method, target: &Target, body: &[u8]) -> Result<Bytes, Failure> {
        let answer = self.open(method, target, body)?;
        answer.whole(ANSWER_MAX, PATIENCE).map_err(|e| self.failed(&e))
    }

    /// Asks, and has the answer come as it comes.
    ///
    /// # Errors
    /// If nobody answers, or it is refused.
    pub fn open(&self, method: Method, target: &Target, body: &[u8]) -> Result<Answer, Failure> {
        let question = Question {
            method: method.into(),
            target: &target.0,
            body: body.to_vec(),
            // A guest is waited for.
            patience: None,
        };
        let answer = exchange::ask(&self.socket, question).map_err(|e| self.failed(&e))?;
        if answer.status == OK {
            return Ok(answer);
        }
        let status = answer.status;
        let text = answer.whole(ANSWER_MAX, PATIENCE).map_err(|e| self.failed(&e))?;
        Err(Failure::runtime(match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) => format!("hawser refuses: {}: {}", refusal.error, refusal.remedy),
            Err(_) => format!("hawser refuses: {status} {}", String::from_utf8_lossy(&text).trim_end()),
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
