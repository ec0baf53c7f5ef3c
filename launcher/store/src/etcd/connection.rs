//! The connection to the cluster. One thread runs the client's tasks, and calls wait for their answers.

use super::epochs::LastRead;
use super::follow::Followed;
use super::keys::{KeyRange, Keys};
use super::liveness::Alive;
use super::objects::Stamps;
use super::options::{EtcdOptions, Tls};
use super::records::{LAYOUT, SchemaValue, read, written};
use crate::error::{StoreError, StoreProblem};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse, Identity, TlsOptions, Txn,
    TxnOp, TxnOpResponse,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Longest wait for an answer. etcd elects a new leader within a few seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// Longest wait for a connection to one member.
const CONNECT: Duration = Duration::from_secs(2);
/// Time without an answer to an HTTP/2 ping after which a member is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// Interval between such pings.
const PING: Duration = Duration::from_secs(5);
/// Pause before another member is tried.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// Codes of gRPC.
const INVALID: i32 = 3;
const DENIED: i32 = 7;
const EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;
/// Maximum records that one read returns.
pub(super) const PAGE: i64 = 500;

/// A connection to the store. Clones share the connection and the networks that are watched over it.
#[derive(Clone)]
pub struct Etcd {
    pub(super) shared: Arc<Shared>,
}

/// State of a connection.
pub(super) struct Shared {
    pub(super) options: EtcdOptions,
    pub(super) keys: Keys,
    pub(super) client: Client,
    pub(super) tasks: Handle,
    pub(super) followed: Followed,
    pub(super) stamps: Stamps,
    pub(super) alive: Mutex<Alive>,
    pub(super) last_read: LastRead,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<()>,
}

/// Records that were read at one revision.
pub(super) struct Page {
    /// Key, revision of the last change, and value of each record, ordered by key.
    pub records: Vec<Record>,
    pub revision: i64,
    /// Identifier of the cluster.
    pub cluster: u64,
    /// True if the range contains more records.
    pub more: bool,
}

/// A record that was read.
pub(super) struct Record {
    pub key: String,
    pub changed: i64,
    pub value: Vec<u8>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects to a cluster. Creates the store there if it does not exist.
    ///
    /// # Errors
    /// [`StoreError`]: no member answers, etcd refuses this client, or a newer hawser created the store.
    pub fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let failed = |problem| StoreError {
            store: options.url(),
            problem,
        };
        let thread_failed =
            |error: std::io::Error| failed(StoreProblem::Other(format!("cannot start a thread: {error}")));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(thread_failed)?;
        let tasks = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || {
            // This fails when the sender is dropped, which is the signal to end.
            let _ = runtime.block_on(ended);
        };
        thread::Builder::new()
            .name("etcd".into())
            .spawn(run)
            .map_err(thread_failed)?;
        let connect = async {
            let endpoints: &[String] = &options.endpoints;
            Client::connect(endpoints, Some(connect_options(&options))).await
        };
        let client = tasks.block_on(patiently(connect)).map_err(failed)?;
        let shared = Shared {
            keys: Keys::new(&options.cluster),
            client,
            tasks,
            followed: Followed::default(),
            stamps: Stamps::default(),
            alive: Mutex::new(Alive::default()),
            last_read: LastRead::default(),
            _end: end,
            options,
        };
        shared.join().map_err(|problem| shared.failed(problem))?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}

impl Etcd {
    /// The options of the connection.
    pub fn options(&self) -> &EtcdOptions {
        &self.shared.options
    }
}

fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING, SILENCE)
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the other members must not serve a watch.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(user) = &options.user {
        connect = connect.with_user(&user.name, &user.password);
    }
    if let Some(Tls { authority, identity }) = &options.tls {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(tls);
    }
    connect
}

/// Waits for an answer of the cluster.
pub(super) async fn patiently<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, StoreProblem> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(problem),
        Err(_) => Err(late()),
    }
}

/// Sends a request that may be repeated, until a member answers.
pub(super) async fn repeatedly<T, F>(request: impl Fn() -> F) -> Result<T, StoreProblem>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout_at(deadline, request()).await {
            Ok(Err(error)) if is_away(&error) && Instant::now() + RETRY < deadline => tokio::time::sleep(RETRY).await,
            Ok(answer) => return answer.map_err(problem),
            Err(_) => return Err(late()),
        }
    }
}

fn late() -> StoreProblem {
    StoreProblem::Away(format!("no answer within {} s", PATIENCE.as_secs()))
}

fn is_away(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => status.code() as i32 == UNAVAILABLE,
        _ => matches!(
            error,
            Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_)
        ),
    }
}

/// Converts an error of the client to a message for the operator.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn problem(error: Error) -> StoreProblem {
    let text = causes(&error);
    match &error {
        Error::GRpcStatus(status) => match status.code() as i32 {
            EXHAUSTED if status.message().contains("database space exceeded") => StoreProblem::NoSpace,
            DENIED | UNAUTHENTICATED => StoreProblem::Denied(text),
            INVALID if status.message().contains("authentication failed") => StoreProblem::Denied(text),
            INVALID => StoreProblem::Other(text),
            _ => StoreProblem::Away(text),
        },
        Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_) | Error::WatchError(_) => {
            StoreProblem::Away(text)
        }
        _ => StoreProblem::Other(text),
    }
}

/// The message of an error and those of its causes. The client's own message contains only the outermost error.
fn causes(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut cause = match error {
        Error::GRpcStatus(status) => std::error::Error::source(status),
        Error::TransportError(error) => std::error::Error::source(error),
        _ => None,
    };
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// True if the revision of a read no longer exists.
pub(super) fn is_compacted(problem: &StoreProblem) -> bool {
    matches!(problem, StoreProblem::Away(text) | StoreProblem::Other(text) if text.contains("revision has been compacted"))
}

impl Shared {
    pub(super) fn failed(&self, problem: StoreProblem) -> StoreError {
        StoreError {
            store: self.options.url(),
            problem,
        }
    }

    /// Runs a task and waits for its result.
    pub(super) fn wait<T>(&self, task: impl Future<Output = Result<T, StoreProblem>>) -> Result<T, StoreError> {
        self.tasks.block_on(task).map_err(|problem| self.failed(problem))
    }

    /// Checks the layout of the store, or creates the store.
    fn join(&self) -> Result<(), StoreProblem> {
        let key = self.keys.schema();
        let value = written(&SchemaValue { layout: LAYOUT })?;
        let create = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), value, None)])
            .or_else([TxnOp::get(key, None)]);
        self.tasks.block_on(async {
            // Created twice is created once.
            let request = || {
                let (mut client, create) = (self.client.clone(), create.clone());
                async move { client.txn(create).await }
            };
            if repeatedly(request).await?.succeeded() {
                Ok(())
            } else {
                self.check_layout().await
            }
        })
    }

    /// Checks that this version can use the layout of the store.
    ///
    /// # Errors
    /// A newer hawser has changed the layout of the store.
    pub(super) async fn check_layout(&self) -> Result<(), StoreProblem> {
        let key = self.keys.schema();
        let page = self.one(&key, None).await?;
        let Some(record) = page.records.first() else {
            return Err(super::records::damaged(&key, "it was removed"));
        };
        match read::<SchemaValue>(&key, &record.value)?.layout {
            LAYOUT => Ok(()),
            found => Err(StoreProblem::Newer { found, known: LAYOUT }),
        }
    }

    /// The comparison that makes every transaction fail once the layout has changed.
    pub(super) fn same_layout(&self) -> Result<Compare, StoreProblem> {
        let value = written(&SchemaValue { layout: LAYOUT })?;
        Ok(Compare::value(self.keys.schema(), CompareOp::Equal, value))
    }

    /// Reads one record, at `revision` or at the newest revision.
    pub(super) async fn one(&self, key: &str, revision: Option<i64>) -> Result<Page, StoreProblem> {
        let options = GetOptions::new().with_revision(revision.unwrap_or(0));
        page(self.get(key, options).await?)
    }

    /// Reads two records at the newest revision, by one request.
    pub(super) async fn both(&self, keys: [&str; 2]) -> Result<[Option<Record>; 2], StoreProblem> {
        let read = || {
            let mut client = self.client.clone();
            let gets = keys.map(|key| TxnOp::get(key, None));
            async move { client.txn(Txn::new().and_then(gets)).await }
        };
        let found = repeatedly(read)
            .await?
            .op_responses()
            .into_iter()
            .map(|answer| match answer {
                TxnOpResponse::Get(mut answer) => answer.take_kvs().into_iter().map(record).next(),
                _ => None,
            });
        let mut found = found.fuse();
        Ok([found.next().flatten(), found.next().flatten()])
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<GetResponse, StoreProblem> {
        let read = || {
            let mut client = self.client.clone();
            let options = options.clone();
            async move { client.get(key, Some(options)).await }
        };
        repeatedly(read).await
    }

    /// Reads the first records of a range, at `revision` or at the newest revision.
    pub(super) async fn page(&self, range: &KeyRange, revision: Option<i64>, limit: i64) -> Result<Page, StoreProblem> {
        let options = GetOptions::new()
            .with_range(range.end.clone())
            .with_revision(revision.unwrap_or(0))
            .with_limit(limit);
        page(self.get(&range.first, options).await?)
    }

    /// Reads all keys of a range. The values are empty.
    pub(super) async fn all_keys(&self, range: &KeyRange) -> Result<Page, StoreProblem> {
        let options = GetOptions::new().with_range(range.end.clone()).with_keys_only();
        page(self.get(&range.first, options).await?)
    }

    /// Reads all records of a range, at `revision` or at the newest revision.
    pub(super) async fn all(&self, range: &KeyRange, revision: Option<i64>) -> Result<Page, StoreProblem> {
        let mut whole = self.page(range, revision, PAGE).await?;
        while whole.more {
            let Some(last) = whole.records.last() else { break };
            let rest = self.page(&range.after(&last.key), Some(whole.revision), PAGE).await?;
            whole.records.extend(rest.records);
            whole.more = rest.more;
        }
        Ok(whole)
    }
}

fn record(record: etcd_client::KeyValue) -> Record {
    let changed = record.mod_revision();
    let (key, value) = record.into_key_value();
    let key = String::from_utf8_lossy(&key).into_owned();
    Record { key, changed, value }
}

fn page(mut answer: GetResponse) -> Result<Page, StoreProblem> {
    let (revision, cluster) = match answer.header() {
        Some(header) => (header.revision(), header.cluster_id()),
        None => return Err(StoreProblem::Other("an answer of etcd has no header".to_owned())),
    };
    let more = answer.more();
    Ok(Page {
        records: answer.take_kvs().into_iter().map(record).collect(),
        revision,
        cluster,
        more,
    })
}

/// Locks a mutex. A thread that panicked while it held the lock leaves usable state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
