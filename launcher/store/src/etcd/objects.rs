//! Records of agents, and the watches that say which folders are to be listed again.

use super::connection::{Etcd, PATIENCE, Page, RETRY, Shared, lock, patiently, problem};
use super::keys::KeyRange;
use super::records::damaged;
use crate::error::{StoreError, StoreProblem};
use crate::records::{Batch, Edit, MAX_EDITS, Record, RecordKey, Records};
use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchOptions};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Bounds of the pause before a watch is created again, in milliseconds: at least the first value, at most the sum of
/// both.
const PAUSE: (u64, u64) = (200, 800);

/// The folders that a connection watches, each with its stamp.
#[derive(Default)]
pub(super) struct Stamps {
    folders: Mutex<BTreeMap<RecordKey, Arc<AtomicI64>>>,
}

impl Records for Etcd {
    fn list(&self, folder: &RecordKey) -> Result<Vec<Record>, StoreError> {
        let shared = &self.shared;
        let range = shared.keys.records(folder);
        shared.wait(async { records(shared, shared.all(&range, None).await?) })
    }

    fn keys(&self, folder: &RecordKey) -> Result<Vec<RecordKey>, StoreError> {
        let shared = &self.shared;
        let range = shared.keys.records(folder);
        let found = shared.wait(async { records(shared, shared.all_keys(&range).await?) })?;
        Ok(found.into_iter().map(|record| record.key).collect())
    }

    fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        let shared = &self.shared;
        let path = shared.keys.record(key);
        shared.wait(async { Ok(records(shared, shared.one(&path, None).await?)?.pop()) })
    }

    fn change(&mut self, batch: &Batch) -> Result<bool, StoreError> {
        let shared = &self.shared;
        if batch.edits.len() > MAX_EDITS || batch.expected.len() > MAX_EDITS {
            let text = format!("a change of more than {MAX_EDITS} records at once");
            return Err(shared.failed(StoreProblem::Other(text)));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut is_repeated = false;
        loop {
            match shared.wait(shared.try_change(batch)) {
                Ok(true) => return Ok(true),
                // An earlier attempt may have been made although its answer was lost.
                Ok(false) => return Ok(is_repeated && shared.wait(shared.has_changed(batch))?),
                // The next attempt uses another member.
                Err(error) if error.problem.is_away() && Instant::now() < deadline => is_repeated = true,
                Err(error) => return Err(error),
            }
            thread::sleep(RETRY);
        }
    }

    fn stamp(&self, folder: &RecordKey) -> Result<i64, StoreError> {
        let mut folders = lock(&self.shared.stamps.folders);
        let stamp = folders.entry(folder.clone()).or_insert_with(|| {
            let stamp = Arc::<AtomicI64>::default();
            let task = Task {
                shared: Arc::downgrade(&self.shared),
                stamp: Arc::downgrade(&stamp),
                range: self.shared.keys.records(folder),
            };
            self.shared.tasks.spawn(task.run());
            stamp
        });
        Ok(stamp.load(Ordering::Acquire))
    }
}

impl Shared {
    /// Makes the edits once. False if an expectation does not hold.
    async fn try_change(&self, batch: &Batch) -> Result<bool, StoreProblem> {
        let mut compares = vec![self.same_layout()?];
        compares.extend(batch.expected.iter().map(|(key, version)| {
            Compare::mod_revision(self.keys.record(key), CompareOp::Equal, version.unwrap_or(0))
        }));
        let operation = |(key, edit): &(RecordKey, Edit)| match edit {
            Edit::Put(text) => TxnOp::put(self.keys.record(key), text.clone(), None),
            Edit::Delete => TxnOp::delete(self.keys.record(key), None),
        };
        let operations: Vec<TxnOp> = batch.edits.iter().map(operation).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let done = patiently(self.client.clone().txn(txn)).await?.succeeded();
        if !done {
            self.check_layout().await?;
        }
        Ok(done)
    }

    /// True if all records are as the edits leave them.
    async fn has_changed(&self, batch: &Batch) -> Result<bool, StoreProblem> {
        for (key, edit) in &batch.edits {
            let found = self.one(&self.keys.record(key), None).await?.records.pop();
            let is_done = match edit {
                Edit::Put(text) => found.is_some_and(|record| record.value == text.as_bytes()),
                Edit::Delete => found.is_none(),
            };
            if !is_done {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn records(shared: &Shared, page: Page) -> Result<Vec<Record>, StoreProblem> {
    let record = |record: super::connection::Record| {
        let key = shared.keys.record_of(&record.key);
        let text = String::from_utf8(record.value).ok();
        match (key, text) {
            (Some(key), Some(text)) => Ok(Record {
                key,
                version: record.changed,
                text,
            }),
            _ => Err(damaged(&record.key, "it is not text")),
        }
    };
    page.records.into_iter().map(record).collect()
}

/// The task of a folder. It ends with the connection.
struct Task {
    shared: Weak<Shared>,
    stamp: Weak<AtomicI64>,
    range: KeyRange,
}

impl Task {
    async fn run(self) {
        while let Some(client) = self.shared.upgrade().map(|shared| shared.client.clone()) {
            if let Err(problem) = self.watch(client).await {
                log::debug!("{}: the watch is created again: {problem}", self.range.first);
            }
            let (least, more) = PAUSE;
            let random = getrandom::u64().unwrap_or(more) % more;
            tokio::time::sleep(Duration::from_millis(least + random)).await;
        }
    }

    /// Changes the stamp when the watch begins, because earlier changes are unknown, and with every event.
    async fn watch(&self, mut client: etcd_client::Client) -> Result<(), StoreProblem> {
        let options = WatchOptions::new().with_range(self.range.end.clone());
        let mut events = client
            .watch(self.range.first.clone(), Some(options))
            .await
            .map_err(problem)?;
        self.ring();
        while let Some(answer) = events.message().await.map_err(problem)? {
            if answer.canceled() {
                return Err(StoreProblem::Other(format!("cancelled: {}", answer.cancel_reason())));
            }
            if answer.created() || !answer.events().is_empty() {
                self.ring();
            }
        }
        Ok(())
    }

    fn ring(&self) {
        if let (Some(shared), Some(stamp)) = (self.shared.upgrade(), self.stamp.upgrade()) {
            stamp.fetch_add(1, Ordering::Release);
            shared.followed.wake();
        }
    }
}
