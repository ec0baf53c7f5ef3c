//! HTTP/1.1 server of the API, on `hyper`: one request per connection.
//!
//! One thread accepts clients and reads requests. Each request is answered on a thread of its own, because the store
//! blocks. The number of clients, the size of a request and its duration are bounded.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};

/// Maximum clients served at a time. Others wait in the socket's queue.
const CLIENTS: usize = 16;
/// Maximum length of a body in bytes: the manifests of many VMs.
const BODY_MAX: usize = 16 << 20;
/// Time for a request to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after the system had no descriptor left for a client.
const RETRY: Duration = Duration::from_millis(100);

/// A complete request.
#[derive(Debug)]
pub(super) struct Request {
    /// Method of the request.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Values of the query by name, percent-decoded.
    pub query: BTreeMap<String, String>,
    /// Body of the request.
    pub body: Bytes,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub kind: &'static str,
    /// Body of the answer.
    pub body: Vec<u8>,
}

/// Where clients connect.
#[derive(Debug)]
pub(super) enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// An address.
    Tcp(TcpListener),
}

/// A running server. Dropping it ends the thread.
pub(super) struct Server {
    _end: oneshot::Sender<()>,
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

impl Server {
    /// Serves clients of `listener` with `handler`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    pub(super) fn start(
        listener: Listener,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        match &listener {
            Listener::Unix(listener) => listener.set_nonblocking(true)?,
            Listener::Tcp(listener) => listener.set_nonblocking(true)?,
        }
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(CLIENTS)
            .build()?;
        let (end, ending) = oneshot::channel();
        let handler: Arc<Handler> = Arc::new(handler);
        let work = move || serve(runtime, listener, handler, ending);
        thread::Builder::new().name("api".into()).spawn(work)?;
        Ok(Self { _end: end })
    }
}

/// Serves clients until the sender of `ending` is dropped. Requests that still run then are abandoned.
fn serve(runtime: Runtime, listener: Listener, handler: Arc<Handler>, ending: oneshot::Receiver<()>) {
    runtime.spawn(async move {
        if let Err(error) = accept(listener, handler).await {
            log::error!("the API is not served: {error}");
        }
    });
    // A dropped sender means that the server must end.
    let _ = runtime.block_on(ending);
    runtime.shutdown_background();
}

async fn accept(listener: Listener, handler: Arc<Handler>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let listener = match listener {
        Listener::Unix(listener) => Accepting::Unix(tokio::net::UnixListener::from_std(listener)?),
        Listener::Tcp(listener) => Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?),
    };
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok(client) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    visit(client, handler).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    Ok(())
}

/// A listener within the runtime.
enum Accepting {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
}

/// A connection of either kind.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Accepting {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn visit(client: Box<dyn Connection>, handler: Arc<Handler>) {
    let service = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(respond(request, handler).await) }
    });
    let mut http = http1::Builder::new();
    http.half_close(true)
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    // A client that has disconnected, or has sent garbage, needs no answer.
    let _ = http.serve_connection(TokioIo::new(client), service).await;
}

async fn respond(request: hyper::Request<Incoming>, handler: Arc<Handler>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, Limited::new(body, BODY_MAX).collect()).await else {
        return plain(
            StatusCode::BAD_REQUEST,
            "the body is too large, or did not arrive in time\n",
        );
    };
    let query = head.uri.query().unwrap_or_default();
    let request = Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        body: body.to_bytes(),
    };
    match tokio::task::spawn_blocking(move || handler(&request)).await {
        Ok(answer) => {
            let mut response = Response::new(Full::from(answer.body));
            // All values are valid status codes.
            *response.status_mut() = answer.status.try_into().unwrap_or_default();
            let kind = HeaderValue::from_static(answer.kind);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        // The handler has panicked, which is logged.
        Err(_) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request failed: see the agent's log\n",
        ),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
