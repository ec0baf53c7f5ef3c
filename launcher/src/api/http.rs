//! HTTP/1.1 server of the API, on `hyper`: one request and one response per connection.
//!
//! One thread serves all clients, on a single-threaded runtime. Their cost is bounded:
//! [`CONNECTIONS`] at a time and [`CLIENTS`] per [`SPAN`], while others wait in the kernel's queue;
//! a head of [`HEAD_MAX`] and a body of [`BODY_MAX`] bytes; [`PATIENCE`] for the complete request
//! and again for the client to read the response, so that half a request does not occupy a place.
//! The thread is niced, so packets take precedence when processors are busy.
//!
//! `hyper` itself answers malformed HTTP, with a status and no body.

use super::refusal::Refusal;
use crate::failure::Failure;
use crate::sandbox::{Sandbox, ThreadKind};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Name of the API thread.
pub(crate) const THREAD: &str = "api";
/// Maximum clients served at a time.
pub(crate) const CONNECTIONS: usize = 16;
/// Maximum clients accepted per [`SPAN`]. This is enough for any use, and too few to slow down packets.
pub(crate) const CLIENTS: u32 = 20;
/// Period for [`CLIENTS`].
pub(crate) const SPAN: Duration = Duration::from_millis(200);
/// Maximum length of the request line with headers, in bytes.
pub(crate) const HEAD_MAX: usize = 8 << 10;
/// Maximum length of a body in bytes. All manifests of a VM fit into it.
pub(crate) const BODY_MAX: usize = 256 << 10;
/// Time for a request to arrive, and again for a client to read the response.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum headers of a request.
const HEADERS_MAX: usize = 32;
/// Value that is added to the nice value of the process (nice(2)), so that packets take precedence over requests.
const NICENESS: i32 = 10;
/// Pause after the system had no descriptor left for a client.
const RETRY: Duration = Duration::from_millis(100);
/// Maximum chunks of a stream that may wait for the client.
const PIECES: usize = 4;
const PIECE: usize = 32 << 10;

/// Supported methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Reads. HEAD is treated in the same way, because `hyper` omits the body.
    Get,
    /// Adds an object or performs an action.
    Post,
    /// Sets a value.
    Put,
    /// Removes an object.
    Delete,
}

impl Method {
    /// The name of the method in a request line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    fn of(method: &hyper::Method) -> Option<Self> {
        if *method == hyper::Method::HEAD {
            return Some(Self::Get);
        }
        [Self::Get, Self::Post, Self::Put, Self::Delete]
            .into_iter()
            .find(|known| known.name() == method.as_str())
    }
}

impl From<Method> for hyper::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
        }
    }
}

/// A complete request.
#[derive(Debug)]
pub(crate) struct Request {
    /// Method of the request.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Values of the query by name, percent-decoded.
    pub query: BTreeMap<String, String>,
    /// Body of the request.
    pub body: Vec<u8>,
}

/// Writes a response of unknown length, on a thread of its own.
pub(crate) type Stream = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// A response that is sent as a whole.
#[derive(Debug)]
pub(crate) struct Document {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub kind: &'static str,
    /// Contents of the document.
    pub body: Vec<u8>,
}

/// Result of a handler.
pub(crate) enum Answer {
    /// A document that is ready.
    Whole(Document),
    /// A document that takes time to create. Other clients are served in the meantime.
    Later(Pin<Box<dyn Future<Output = Document>>>),
    /// A document that continues until the client disconnects.
    Stream {
        /// Media type.
        kind: &'static str,
        /// Kind of the thread, for the sandbox.
        thread: ThreadKind,
        /// Name of the thread.
        name: &'static str,
        /// Function that writes the stream.
        write: Stream,
    },
}

/// A running server. Dropping it ends the thread.
pub(crate) struct Server {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves clients of `listener` with `handler`, on a confined thread.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    pub(crate) fn start(
        sandbox: &Sandbox,
        listener: UnixListener,
        handler: impl Fn(&Request) -> Answer + Send + 'static,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::runtime(format_args!("the API cannot be served: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (end, ending) = oneshot::channel();
        let of_streams = sandbox.clone();
        let work = move || {
            // If this fails, requests have the priority of packets.
            let _ = rustix::process::nice(NICENESS);
            let host = Host {
                sandbox: of_streams,
                handler: Box::new(handler),
            };
            if let Err(error) = serve(&runtime, listener, host, ending) {
                log::error!("the API is not served: {error}");
            }
        };
        Ok(Self {
            end: Some(end),
            thread: Some(sandbox.spawn(ThreadKind::Api, THREAD, work)?),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

/// The handler, and the sandbox for threads that write streams.
struct Host {
    sandbox: Sandbox,
    handler: Box<dyn Fn(&Request) -> Answer>,
}

/// Serves clients until `ending` fires. Open connections are then dropped.
fn serve(runtime: &Runtime, listener: UnixListener, host: Host, ending: oneshot::Receiver<()>) -> io::Result<()> {
    let _guard = runtime.enter();
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let clients = LocalSet::new();
    clients.spawn_local(accept_clients(listener, Rc::new(host)));
    // A message and a dropped sender both mean that the server must end.
    let _ = clients.block_on(runtime, ending);
    Ok(())
}

/// Rate limit on accepted clients.
struct Turnstile {
    /// Start of the current span.
    since: Instant,
    /// Number of clients accepted in the span.
    clients: u32,
}

impl Turnstile {
    fn new(now: Instant) -> Self {
        Self { since: now, clients: 0 }
    }

    /// Counts a client that arrives `now`, and returns when it may be accepted.
    fn pass(&mut self, now: Instant) -> Instant {
        let end = self.since + SPAN;
        if now >= end {
            *self = Self::new(now);
        } else if self.clients == CLIENTS {
            *self = Self::new(end);
        }
        self.clients += 1;
        now.max(self.since)
    }
}

/// Accepts clients while places are free.
async fn accept_clients(listener: tokio::net::UnixListener, host: Rc<Host>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut turnstile = Turnstile::new(Instant::now());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                sleep_until(turnstile.pass(Instant::now())).await;
                let visit = Visit::new(Rc::clone(&host), place);
                tokio::task::spawn_local(visit.run(client));
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// The state of one client until its response is sent.
struct Visit {
    host: Rc<Host>,
    /// Deadline of the connection. `None` for a stream.
    deadline: Cell<Option<Instant>>,
    /// Place among [`CONNECTIONS`]. A stream releases it.
    place: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Visit {
    fn new(host: Rc<Host>, place: OwnedSemaphorePermit) -> Rc<Self> {
        Rc::new(Self {
            host,
            deadline: Cell::new(Some(Instant::now() + PATIENCE)),
            place: RefCell::new(Some(place)),
        })
    }

    async fn run(self: Rc<Self>, client: UnixStream) {
        let visit = Rc::clone(&self);
        let service = service_fn(move |request| {
            let visit = Rc::clone(&visit);
            async move { Ok::<_, Infallible>(visit.respond(request).await) }
        });
        let mut http = http1::Builder::new();
        // A client may close its sending side before it reads the response.
        http.half_close(true)
            .keep_alive(false)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_MAX);
        let mut connection = pin!(http.serve_connection(TokioIo::new(client), service));
        let mut alarm = pin!(sleep_until(Instant::now()));
        poll_fn(|context| {
            // A client that has disconnected, or has sent garbage, needs no response.
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let Some(deadline) = self.deadline.get() else {
                return Poll::Pending;
            };
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            alarm.as_mut().poll(context)
        })
        .await;
    }

    async fn respond(&self, request: hyper::Request<Incoming>) -> Response<Reply> {
        let is_head = request.method() == hyper::Method::HEAD;
        let answer = match self.read(request).await {
            Ok(request) => {
                self.deadline.set(None);
                (self.host.handler)(&request)
            }
            Err(refusal) => refusal.into(),
        };
        let document = match answer {
            Answer::Whole(document) => document,
            Answer::Later(document) => document.await,
            Answer::Stream {
                kind,
                thread,
                name,
                write,
            } => {
                let (sender, pieces) = mpsc::channel(PIECES);
                if !is_head {
                    drop(self.place.take());
                    start_stream(self.host.sandbox.clone(), (thread, name), write, sender);
                }
                return reply(200, kind, Either::Right(Pieces(pieces)));
            }
        };
        self.deadline.set(Some(Instant::now() + PATIENCE));
        reply(document.status, document.kind, Either::Left(Full::from(document.body)))
    }

    async fn read(&self, request: hyper::Request<Incoming>) -> Result<Request, Refusal> {
        let (head, body) = request.into_parts();
        let method = Method::of(&head.method).ok_or_else(|| Refusal::unknown_method(head.method.as_str()))?;
        let too_large = || Refusal::too_large(format!("a body of more than {BODY_MAX} bytes"));
        if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > BODY_MAX) {
            return Err(too_large());
        }
        let deadline = self.deadline.get().unwrap_or_else(Instant::now);
        let body = timeout_at(deadline, Limited::new(body, BODY_MAX).collect())
            .await
            .map_err(|_| Refusal::timeout())?
            .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => too_large(),
                None => Refusal::not_whole(&error),
            })?;
        Ok(Request {
            method,
            path: head.uri.path().to_owned(),
            query: parse_query(head.uri.query().unwrap_or_default()),
            body: body.to_bytes().to_vec(),
        })
    }
}

fn reply(status: u16, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    // All values are valid status codes.
    *response.status_mut() = status.try_into().unwrap_or_default();
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Body of a response.
type Reply = Either<Full<Bytes>, Pieces>;

/// A body that another thread writes.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Writer for that thread. It blocks while the client is slow, and fails after the client has disconnected.
struct Outlet {
    pieces: mpsc::Sender<Bytes>,
    written: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        if self.written.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.written));
        let sent = self.pieces.blocking_send(piece);
        sent.map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

fn start_stream(sandbox: Sandbox, (kind, name): (ThreadKind, &str), write: Stream, pieces: mpsc::Sender<Bytes>) {
    let work = move || {
        if let Err(error) = sandbox.enter(kind) {
            log::warn!("{error}");
            return;
        }
        let written = Vec::new();
        // An error is the usual end, because the client has disconnected.
        let _ = write(&mut Outlet { pieces, written });
    };
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(work) {
        log::warn!("cannot start a thread for a request: {error}");
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
