//! Requests to the agent over its Unix socket.

use crate::api::Refusal;
use crate::cli::Failure;
use crate::exchange::{Message, exchange};
use hyper::Method;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for an answer. The store may have to elect a leader first.
const PATIENCE: Duration = Duration::from_secs(60);
/// The status of an object that does not exist.
const NOT_FOUND: u16 = 404;

/// The agent, by its socket.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
}

/// The reason why a request has no result.
#[derive(Debug)]
pub(super) enum Problem {
    /// The object does not exist.
    NotFound(String),
    /// Anything else.
    Failed(Failure),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::NotFound(message) => Self::runtime(message),
            Problem::Failed(failure) => failure,
        }
    }
}

impl Agent {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The agent does not answer, or refuses the request.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<T, Problem> {
        let socket = self.socket.display();
        let failed = |error: &dyn std::fmt::Display| {
            Problem::Failed(Failure::runtime(format_args!(
                "{socket}: {error}; check that hawser-agent runs, and give its --run-dir"
            )))
        };
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let target = format!("{path}?{query}");
        let message = Message { method, target, body };
        let (status, body) = exchange(&self.socket, message, PATIENCE).map_err(|error| failed(&error))?;
        if status != 200 {
            let refusal: Result<Refusal, _> = serde_json::from_slice(&body);
            let error = refusal.map_or_else(
                |_| String::from_utf8_lossy(&body).trim().to_owned(),
                |refusal| refusal.error,
            );
            return Err(match status {
                NOT_FOUND => Problem::NotFound(error),
                _ => Problem::Failed(Failure::runtime(error)),
            });
        }
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }
}
