//! Subcommands that communicate with a running process over its API socket: one file per subcommand, and the client
//! that they share.

pub(crate) mod announce;
pub(crate) mod capture;
pub(crate) mod forward;
pub(crate) mod loglevel;
pub(crate) mod migrate;
pub(crate) mod peers;
pub(crate) mod plug;
pub(crate) mod rate;
pub(crate) mod status;
pub(crate) mod top;

use crate::api::Refusal;
use crate::api::http::Method;
use crate::cli::client::{AskArgs, ProcessArgs};
use crate::failure::Failure;
use crate::http_client::{self, Request, Response};
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// HTTP status of a request that succeeded.
const OK: u16 = 200;
/// Maximum length of a response body that is read as a whole, in bytes.
const BODY_MAX: usize = 16 << 20;
/// Longest wait for a response body after the head of the response.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Client of a running process.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// Path and query of a request.
#[derive(Debug)]
pub(crate) struct Target(String);

impl Target {
    /// A path of the API without a query.
    pub(crate) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Adds `name=value` to the query.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0
            .extend(form_urlencoded::byte_serialize(value.to_string().as_bytes()));
        self
    }

    /// Adds the port to the query, if one is named.
    #[must_use]
    pub(crate) fn of(self, port: Option<&str>) -> Self {
        match port {
            Some(port) => self.with("port", port),
            None => self,
        }
    }
}

impl Client {
    /// A client of the process that listens on `socket`.
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// A client of the process that the options select.
    pub(crate) fn of(args: &AskArgs) -> Self {
        Self::of_process(&args.process)
    }

    /// A client of the process that the options select, for commands without a port.
    pub(crate) fn of_process(args: &ProcessArgs) -> Self {
        Self::new(&args.socket())
    }

    /// Sends a GET request and reads its JSON response.
    ///
    /// # Errors
    /// No process answers, it refuses, or the response is not a `T`.
    pub(crate) fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, Failure> {
        self.exchange(Method::Get, target, &[])
    }

    /// Sends `body` as JSON and reads the JSON response.
    ///
    /// # Errors
    /// No process answers, it refuses, or the response is not a `T`.
    pub(crate) fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::runtime)?;
        self.exchange(method, target, &body)
    }

    fn exchange<T: DeserializeOwned>(&self, method: Method, target: &Target, body: &[u8]) -> Result<T, Failure> {
        let text = self.whole(method, target, body)?;
        serde_json::from_slice(&text).map_err(|error| {
            self.failed(&io::Error::new(
                ErrorKind::InvalidData,
                format!("the response is not one of this version of hawser: {error}; use the same version as the running process"),
            ))
        })
    }

    /// Sends a request and reads the whole response body.
    ///
    /// # Errors
    /// No process answers, or it refuses.
    pub(crate) fn whole(&self, method: Method, target: &Target, body: &[u8]) -> Result<Bytes, Failure> {
        let response = self.open(method, target, body)?;
        response.into_body(BODY_MAX, BODY_TIMEOUT).map_err(|e| self.failed(&e))
    }

    /// Sends a request and returns its response, whose body can be read chunk by chunk.
    ///
    /// # Errors
    /// No process answers, or it refuses.
    pub(crate) fn open(&self, method: Method, target: &Target, body: &[u8]) -> Result<Response, Failure> {
        let request = Request {
            method: method.into(),
            target: &target.0,
            body: body.to_vec(),
            // A plug or unplug waits for the guest.
            timeout: None,
        };
        let response = http_client::send(&self.socket, request).map_err(|e| self.failed(&e))?;
        if response.status == OK {
            return Ok(response);
        }
        let status = response.status;
        let text = response
            .into_body(BODY_MAX, BODY_TIMEOUT)
            .map_err(|e| self.failed(&e))?;
        Err(Failure::runtime(match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) => format!("the running process refused: {}: {}", refusal.error, refusal.remedy),
            Err(_) => format!(
                "the running process refused: {status} {}",
                String::from_utf8_lossy(&text).trim_end()
            ),
        }))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => "; check that hawser runs there with --api-socket",
            _ => "",
        };
        Failure::runtime(format_args!("--api-socket={}: {error}{hint}", self.socket.display()))
    }
}

/// Prints a value as JSON, or as text that `text` produces.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    crate::output::print(&if json {
        serde_json::to_string_pretty(value).map_err(Failure::runtime)? + "\n"
    } else {
        text(value)
    })
}
