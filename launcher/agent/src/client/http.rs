//! HTTP/1.1 client for the agent's Unix socket, on `hyper`. Calls block.

use crate::api::Refusal;
use crate::cli::Failure;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

/// Longest wait for an answer. The store may have to elect a leader first.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum length of an answer in bytes.
const ANSWER_MAX: usize = 256 << 20;
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
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let exchange = self.exchange(method, format!("{path}?{query}"), body);
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
        let (status, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format!("no answer within {} s", PATIENCE.as_secs()))),
        };
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

    async fn exchange(
        &self,
        method: Method,
        target: String,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Errors of the connection also surface through the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    }
}
