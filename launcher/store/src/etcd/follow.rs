//! Follows the bindings of networks. A task for each network keeps the network's table up to date.

use super::connection::{Etcd, Page, Shared, lock};
use super::keys::KeyRange;
use super::records::{PortValue, read};
use super::table::{Table, bound};
use crate::bindings::{Bound, Change, Changes, PortId, Revision, Watch};
use crate::error::{StoreError, StoreProblem};
use etcd_client::{EventType, WatchOptions, WatchResponse};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// Longest wait until the table of a network includes a change that this connection has made.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Bounds of the pause before a network is listed again, in milliseconds: at least the first value, at most the sum of
/// both. The random part keeps many nodes from listing at the same moment after an outage of etcd.
const PAUSE: (u64, u64) = (200, 2_000);

/// Networks that a connection follows.
#[derive(Default)]
pub(super) struct Followed {
    networks: Mutex<BTreeMap<String, Arc<Network>>>,
    wake: std::sync::OnceLock<OwnedFd>,
}

/// A network that is followed.
#[derive(Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    table: Table,
    /// Identifier of the cluster. `None` until the first list.
    cluster: Option<u64>,
    /// Latest revision at which this connection changed a port of the network.
    wrote: i64,
}

impl Followed {
    /// Records that this connection changed a port of a network.
    pub(super) fn wrote(&self, network: &str, revision: i64) {
        if let Some(network) = lock(&self.networks).get(network) {
            let mut state = lock(&network.state);
            state.wrote = state.wrote.max(revision);
        }
    }

    pub(super) fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            // If the counter is full, the descriptor is readable as well.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }
}

const fn store(cluster: u64) -> i64 {
    cluster.cast_signed()
}

impl Watch for Etcd {
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError> {
        self.shared.wait(async {
            let page = self.shared.all(&self.shared.keys.ports(Some(network)), None).await?;
            let revision = Revision {
                store: store(page.cluster),
                number: page.revision,
            };
            let changes = changes_of(&self.shared, page)?;
            Ok((bound(changes.into_iter().map(|(_, change)| change)), revision))
        })
    }

    fn bound(&self, port: &PortId) -> Result<Option<Bound>, StoreError> {
        self.shared.read_bound(port)
    }

    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError> {
        let followed = self.follow(network);
        let deadline = Instant::now() + CATCH_UP;
        let mut state = lock(&followed.state);
        while state.cluster.is_none() || state.table.position < state.wrote {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = format!(
                    "the bindings of network {network} did not arrive within {} s",
                    CATCH_UP.as_secs()
                );
                return Err(self.shared.failed(StoreProblem::Away(text)));
            }
            let waited = followed.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        if state.cluster.map(store) != Some(after.store) {
            return Ok(Changes::Gap);
        }
        if let Some(changes) = state
            .table
            .after(after.number)
            .filter(|_| after.number <= state.table.position)
        {
            let number = state.table.position;
            let revision = Revision { number, ..after };
            return Ok(Changes::Complete { changes, revision });
        }
        if after.number <= state.table.position {
            return Ok(Changes::Gap);
        }
        drop(state);
        // The table may be older than the list that the watcher has, or the cluster may have been restored to an
        // earlier state.
        let now = self
            .shared
            .wait(async { self.shared.one(&self.shared.keys.schema(), None).await })?;
        if store(now.cluster) != after.store || now.revision < after.number {
            return Ok(Changes::Gap);
        }
        Ok(Changes::Complete {
            changes: Vec::new(),
            revision: after,
        })
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        let wake = &self.shared.followed.wake;
        if wake.get().is_none() {
            // Without the descriptor a watcher calls `changes` at intervals.
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            // Another thread may have created it first.
            let _ = wake.set(made);
        }
        wake.get().map(|wake| wake.as_fd())
    }
}

impl Etcd {
    /// Returns the network, which is followed from now on.
    fn follow(&self, name: &str) -> Arc<Network> {
        let mut networks = lock(&self.shared.followed.networks);
        let followed = networks.entry(name.to_owned()).or_insert_with(|| {
            let network = Arc::<Network>::default();
            let task = Task {
                shared: Arc::downgrade(&self.shared),
                network: Arc::downgrade(&network),
                range: self.shared.keys.ports(Some(name)),
                name: name.to_owned(),
            };
            self.shared.tasks.spawn(task.run());
            network
        });
        Arc::clone(followed)
    }

    /// Stops following a network that has no port on this node any longer.
    pub fn unfollow(&self, name: &str) {
        lock(&self.shared.followed.networks).remove(name);
    }
}

/// The task of a network. It ends with the connection, or once the network is no longer followed.
struct Task {
    shared: Weak<Shared>,
    network: Weak<Network>,
    range: KeyRange,
    name: String,
}

impl Task {
    async fn run(self) {
        while let (Some(shared), Some(network)) = (self.shared.upgrade(), self.network.upgrade()) {
            match self.list(&shared, &network).await {
                Ok(revision) => {
                    let client = shared.client.clone();
                    drop((shared, network));
                    if let Err(problem) = self.watch(client, revision + 1).await {
                        log::debug!("network {}: its bindings are listed again: {problem}", self.name);
                    }
                }
                Err(problem) => {
                    log::debug!("network {}: its bindings cannot be listed: {problem}", self.name);
                    drop((shared, network));
                }
            }
            let (least, more) = PAUSE;
            let random = getrandom::u64().unwrap_or(more) % more;
            tokio::time::sleep(Duration::from_millis(least + random)).await;
        }
    }

    /// Replaces the table with the records of one revision, and returns this revision.
    async fn list(&self, shared: &Shared, network: &Network) -> Result<i64, StoreProblem> {
        let page = shared.all(&self.range, None).await?;
        let (revision, cluster) = (page.revision, page.cluster);
        let changes = changes_of(shared, page)?;
        let mut state = lock(&network.state);
        if state.cluster != Some(cluster) {
            state.table = Table::default();
        }
        state.cluster = Some(cluster);
        state.table.replace(revision, changes);
        // A restored cluster may lack what this connection has written.
        state.wrote = state.wrote.min(revision);
        drop(state);
        network.changed.notify_all();
        shared.followed.wake();
        Ok(revision)
    }

    /// Applies events until the watch ends.
    async fn watch(&self, mut client: etcd_client::Client, first: i64) -> Result<(), StoreProblem> {
        let options = WatchOptions::new()
            .with_range(self.range.end.clone())
            .with_start_revision(first)
            .with_progress_notify();
        let watch = client.watch(self.range.first.clone(), Some(options)).await;
        let mut events = watch.map_err(super::connection::problem)?;
        while let Some(answer) = events.message().await.map_err(super::connection::problem)? {
            if answer.canceled() {
                return Err(StoreProblem::Other(format!(
                    "the watch was cancelled: {}",
                    answer.cancel_reason()
                )));
            }
            let (Some(shared), Some(network)) = (self.shared.upgrade(), self.network.upgrade()) else {
                return Ok(());
            };
            apply(&shared, &network, &answer)?;
        }
        Ok(())
    }
}

fn apply(shared: &Shared, network: &Network, answer: &WatchResponse) -> Result<(), StoreProblem> {
    let mut state = lock(&network.state);
    for event in answer.events() {
        let Some(record) = event.kv() else { continue };
        let key = String::from_utf8_lossy(record.key());
        let Some(port) = shared.keys.port_of(&key) else {
            continue;
        };
        match event.event_type() {
            EventType::Put => {
                let change = read::<PortValue>(&key, record.value())?.change(port, &key)?;
                state.table.put(record.mod_revision(), change);
            }
            EventType::Delete => state.table.remove(record.mod_revision(), &port),
        }
    }
    if !answer.created() {
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let has_events = !answer.events().is_empty();
        // Only an answer without events shows that everything up to its revision has been sent.
        if !has_events {
            state.table.position = state.table.position.max(revision);
        }
        drop(state);
        network.changed.notify_all();
        if has_events {
            shared.followed.wake();
        }
    }
    Ok(())
}

/// The changes in a list of records, each with its revision.
fn changes_of(shared: &Shared, page: Page) -> Result<Vec<(i64, Change)>, StoreProblem> {
    let change = |record: super::connection::Record| {
        let port: PortId = shared
            .keys
            .port_of(&record.key)
            .ok_or_else(|| super::records::damaged(&record.key, "its key is not that of a port"))?;
        let change = read::<PortValue>(&record.key, &record.value)?.change(port, &record.key)?;
        Ok((record.changed, change))
    };
    page.records.into_iter().map(change).collect()
}
