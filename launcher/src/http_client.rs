//! HTTP/1.1 client for Unix sockets, on `hyper`, for the APIs of a running hawser and of cloud-hypervisor.
//!
//! Calls block. A single-threaded runtime drives the connection during each call, so no other thread is started.

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

/// Maximum length of a response head in bytes.
const HEAD_MAX: usize = 16 << 10;

/// A request to send.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Method of the request.
    pub method: Method,
    /// Path and query of the request.
    pub target: &'a str,
    /// JSON body. Empty if there is none.
    pub body: Vec<u8>,
    /// Longest wait for the head of the response. `None` waits without a limit.
    pub timeout: Option<Duration>,
}

/// A response whose head has arrived. The body must still be read.
#[derive(Debug)]
pub(crate) struct Response {
    /// HTTP status.
    pub status: u16,
    body: Incoming,
    runtime: Runtime,
}

/// Sends a request to the server that listens on `socket` and waits for the response head.
///
/// # Errors
/// The socket's own errors; [`ErrorKind::InvalidData`] if the server does not speak HTTP;
/// [`ErrorKind::TimedOut`].
pub(crate) fn send(socket: &Path, request: Request<'_>) -> io::Result<Response> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let timeout = request.timeout;
    let response = runtime.block_on(within(timeout, round_trip(socket, request)))?;
    Ok(Response {
        status: response.status().as_u16(),
        body: response.into_body(),
        runtime,
    })
}

async fn round_trip(socket: &Path, request: Request<'_>) -> io::Result<hyper::Response<Incoming>> {
    let stream = UnixStream::connect(socket).await?;
    let mut builder = http1::Builder::new();
    // Some servers compare header names case-sensitively. Title case is the usual spelling.
    builder.title_case_headers(true).max_buf_size(HEAD_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io_error)?;
    // Errors of the connection also surface through the response.
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(request.method)
        .uri(request.target)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "*/*")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, request.body.len())
        .body(Full::new(Bytes::from(request.body)))
        .map_err(Error::other)?;
    sender.send_request(request).await.map_err(io_error)
}

impl Response {
    /// Waits for the next chunk of the body. `None` after the last one.
    ///
    /// # Errors
    /// The connection breaks.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(frame) = self.runtime.block_on(self.body.frame()) else {
                return Ok(None);
            };
            // Trailers contain nothing of interest.
            if let Ok(bytes) = frame.map_err(io_error)?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// The body is longer than `max` bytes or takes longer than `timeout`, or the connection breaks.
    pub(crate) fn into_body(self, max: usize, timeout: Duration) -> io::Result<Bytes> {
        let Self { body, runtime, .. } = self;
        let collected = async {
            let collected = Limited::new(body, max).collect().await;
            collected.map_err(|error| Error::new(ErrorKind::InvalidData, error))
        };
        let body = runtime.block_on(within(Some(timeout), collected))?;
        Ok(body.to_bytes())
    }
}

async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout {
        None => work.await,
        Some(timeout) => tokio::time::timeout(timeout, work).await?,
    }
}

/// The socket error behind a `hyper` error, if there is one.
#[allow(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn io_error(error: hyper::Error) -> Error {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            return Error::new(inner.kind(), inner.to_string());
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Error::new(
            ErrorKind::UnexpectedEof,
            "the connection closed before the response was complete",
        );
    }
    Error::new(
        ErrorKind::InvalidData,
        format!("the server on this socket does not speak HTTP: {error}"),
    )
}
