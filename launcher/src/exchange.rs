//! One request and its answer over a Unix socket, as HTTP/1.1 by `hyper`: what asks a running
//! hawser, and what tells cloud-hypervisor.
//!
//! Whoever asks waits: a runtime of the calling thread drives the connection while it does,
//! and there is no other thread.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, header};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io::{self, Error, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

/// Longest head of an answer.
const HEAD_MAX: usize = 16 << 10;

/// What is asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// How.
    pub method: Method,
    /// Path and query.
    pub target: &'a str,
    /// JSON that goes with it, or nothing.
    pub body: Vec<u8>,
    /// How long the head of the answer may take; `None`: as long as it takes.
    pub patience: Option<Duration>,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    body: Incoming,
    runtime: Runtime,
}

/// Asks whoever listens on `socket`.
///
/// # Errors
/// What keeps the answer from coming: [`ErrorKind::InvalidData`] if it is not HTTP,
/// [`ErrorKind::TimedOut`].
pub fn ask(socket: &Path, question: Question<'_>) -> io::Result<Answer> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let patience = question.patience;
    let answered = runtime.block_on(within(patience, converse(socket, question)))?;
    Ok(Answer {
        status: answered.status().as_u16(),
        body: answered.into_body(),
        runtime,
    })
}

async fn converse(socket: &Path, question: Question<'_>) -> io::Result<hyper::Response<Incoming>> {
    let stream = UnixStream::connect(socket).await?;
    let mut builder = http1::Builder::new();
    // As servers that know few headers know them.
    builder.title_case_headers(true).max_buf_size(HEAD_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(strange)?;
    // Its end is that of the answer, which says why.
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(question.method)
        .uri(question.target)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "*/*")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, question.body.len())
        .body(Full::new(Bytes::from(question.body)))
        .map_err(Error::other)?;
    sender.send_request(request).await.map_err(strange)
}

impl Answer {
    /// What of the body has come since; `None`: that was all of it.
    ///
    /// # Errors
    /// The connection has broken.
    pub fn piece(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(frame) = self.runtime.block_on(self.body.frame()) else {
                return Ok(None);
            };
            // There may be trailers, which say nothing to us.
            if let Ok(bytes) = frame.map_err(strange)?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The whole body, if it is not longer than `longest` and comes in time.
    ///
    /// # Errors
    /// It is, or does not; or the connection has broken.
    pub fn whole(self, longest: usize, patience: Duration) -> io::Result<Bytes> {
        let Self { body, runtime, .. } = self;
        let collected = async {
            let collected = Limited::new(body, longest).collect().await;
            collected.map_err(|error| Error::new(ErrorKind::InvalidData, error))
        };
        let body = runtime.block_on(within(Some(patience), collected))?;
        Ok(body.to_bytes())
    }
}

async fn within<T>(patience: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match patience {
        None => work.await,
        Some(patience) => tokio::time::timeout(patience, work).await?,
    }
}

/// What went wrong, as an error of the socket's if it was that.
#[allow(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn strange(error: hyper::Error) -> Error {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            return Error::new(inner.kind(), inner.to_string());
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Error::new(ErrorKind::UnexpectedEof, "the answer ends before its end");
    }
    Error::new(
        ErrorKind::InvalidData,
        format!("what answers there does not speak HTTP: {error}"),
    )
}
