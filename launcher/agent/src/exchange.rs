//! One request over a Unix socket, and its answer, in HTTP/1.1 on `hyper`. The call blocks.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

/// Maximum length of an answer in bytes.
const ANSWER_MAX: usize = 256 << 20;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub method: Method,
    /// Path with the query.
    pub target: String,
    pub body: Vec<u8>,
}

impl Message {
    /// A request that changes nothing.
    pub(crate) fn get(target: &str) -> Self {
        Self {
            method: Method::GET,
            target: target.to_owned(),
            body: Vec::new(),
        }
    }
}

/// Sends a request to the process that listens on `socket`, and waits for its answer: a status and a body.
///
/// # Errors
/// What failed, or that no answer came in time.
pub(crate) fn exchange(socket: &Path, message: Message, patience: Duration) -> Result<(u16, Bytes), String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async { tokio::time::timeout(patience, send(socket, message)).await });
    match answer {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
    }
}

async fn send(socket: &Path, message: Message) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Errors of the connection also surface through the answer.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(message.method)
        .uri(message.target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_LENGTH, message.body.len())
        .body(Full::new(Bytes::from(message.body)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?;
    Ok((status, body.to_bytes()))
}
