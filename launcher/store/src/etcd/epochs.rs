//! Changes bindings of ports by compare-and-swap.

use super::connection::{Etcd, Record, Shared, lock, patiently};
use super::records::{FloorValue, PortValue, read, written};
use crate::bindings::{
    BindError, Binding, Bound, Change, Epoch, Epochs, Flip, PortId, check_bound, flipped, is_flipped, next_epoch,
};
use crate::error::{StoreError, StoreProblem};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use std::sync::Mutex;

/// Maximum ports that one transaction forgets. etcd accepts 128 operations.
const FORGOTTEN: usize = 100;

/// The last change of a port, and the revisions that must be unchanged when a transaction replaces it.
struct Last {
    change: Option<Change>,
    /// Revision of the port's record; 0 if it has none.
    changed: i64,
    floor: Floor,
}

/// The lowest epoch of a port without a record.
struct Floor {
    epoch: u32,
    /// Revision of this record; 0 if it does not exist.
    changed: i64,
}

/// The port that was read last.
#[derive(Default)]
pub(super) struct LastRead(Mutex<Option<(PortId, Last)>>);

impl Floor {
    fn of(key: &str, record: Option<Record>) -> Result<Self, StoreProblem> {
        let Some(record) = record else {
            return Ok(Self { epoch: 0, changed: 0 });
        };
        let FloorValue { epoch } = read(key, &record.value)?;
        let changed = record.changed;
        Ok(Self { epoch, changed })
    }
}

impl Epochs for Etcd {
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError> {
        let mut tried = None;
        let mut known = self.shared.known(port);
        // What is known may be out of date, so the store has the last word on a refusal.
        known.take_if(|last| next_epoch(port, last.change.as_ref(), seen, last.floor.epoch).is_err());
        loop {
            let last = known.take().map_or_else(|| self.shared.last(port), Ok)?;
            if is_written(&last, tried.as_ref())
                && let Some(Change::Bound(bound)) = last.change
            {
                return Ok(bound.epoch);
            }
            let epoch = next_epoch(port, last.change.as_ref(), seen, last.floor.epoch)?;
            let bound = Bound {
                port: port.clone(),
                epoch,
                binding: binding.clone(),
            };
            let change = tried.insert(Change::Bound(bound)).clone();
            if self.shared.replace(&[(last, change)])? {
                return Ok(epoch);
            }
        }
    }

    fn flip(&mut self, flips: &[Flip]) -> Result<Vec<Epoch>, BindError> {
        loop {
            let mut epochs = Vec::new();
            let mut writes = Vec::new();
            for flip in flips {
                let last = self.shared.last(&flip.port)?;
                let bound = flipped(flip, last.change.as_ref())?;
                epochs.push(bound.epoch);
                if !is_flipped(flip, last.change.as_ref()) {
                    writes.push((last, Change::Bound(bound)));
                }
            }
            if writes.is_empty() || self.shared.replace(&writes)? {
                return Ok(epochs);
            }
        }
    }

    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError> {
        let mut tried = None;
        loop {
            let last = self.shared.last(port)?;
            if is_written(&last, tried.as_ref()) {
                return Ok(());
            }
            check_bound(port, last.change.as_ref(), seen)?;
            let port = port.clone();
            let unbound = tried.insert(Change::Unbound { port, epoch: seen }).clone();
            if self.shared.replace(&[(last, unbound)])? {
                return Ok(());
            }
        }
    }
}

/// True if the change of an earlier attempt was written, although its answer did not arrive. No other process writes the
/// same.
fn is_written(last: &Last, tried: Option<&Change>) -> bool {
    tried.is_some() && last.change.as_ref() == tried
}

impl Etcd {
    /// Forgets all unbound ports except the `kept` ones that changed last. Their epochs stay below those of later
    /// bindings. Returns how many ports it has forgotten. Any node may call this from time to time.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn forget_unbound(&mut self, kept: usize) -> Result<usize, StoreError> {
        let shared = &self.shared;
        shared.wait(async {
            let page = shared.all(&shared.keys.ports(None), None).await?;
            let mut unbound = Vec::new();
            for record in page.records {
                let Some(port) = shared.keys.port_of(&record.key) else {
                    continue;
                };
                let change = read::<PortValue>(&record.key, &record.value)?.change(port, &record.key)?;
                if let Change::Unbound { epoch, .. } = change {
                    unbound.push((record.changed, record.key, epoch.0));
                }
            }
            unbound.sort();
            unbound.truncate(unbound.len().saturating_sub(kept));
            let mut forgotten = 0;
            for ports in unbound.chunks(FORGOTTEN) {
                let floor = shared.floor(None).await?;
                let highest = ports.iter().map(|(_, _, epoch)| *epoch).fold(floor.epoch, u32::max);
                let key = shared.keys.floor();
                let mut compares = vec![
                    shared.same_layout()?,
                    Compare::mod_revision(key.clone(), CompareOp::Equal, floor.changed),
                ];
                let mut operations = vec![TxnOp::put(key, written(&FloorValue { epoch: highest })?, None)];
                for (changed, key, _) in ports {
                    compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, *changed));
                    operations.push(TxnOp::delete(key.clone(), None));
                }
                let txn = Txn::new().when(compares).and_then(operations);
                // A port was bound in the meantime, or another node forgets ports. The next call continues.
                if patiently(shared.client.clone().txn(txn)).await?.succeeded() {
                    forgotten += ports.len();
                }
            }
            Ok(forgotten)
        })
    }
}

impl Shared {
    /// The last change of a port, and the floor of epochs at the same revision.
    fn last(&self, port: &PortId) -> Result<Last, StoreError> {
        self.wait(async {
            let (key, floor) = (self.keys.port(port), self.keys.floor());
            let [record, floor_record] = self.both([&key, &floor]).await?;
            let Some(record) = record else {
                return Ok(Last {
                    change: None,
                    changed: 0,
                    floor: Floor::of(&floor, floor_record)?,
                });
            };
            // The record contains the last epoch.
            let floor = Floor { epoch: 0, changed: 0 };
            let change = read::<PortValue>(&key, &record.value)?.change(port.clone(), &key)?;
            Ok(Last {
                change: Some(change),
                changed: record.changed,
                floor,
            })
        })
    }

    /// The binding of a port. A following change of the port need not read it again.
    pub(super) fn read_bound(&self, port: &PortId) -> Result<Option<Bound>, StoreError> {
        let last = self.last(port)?;
        let bound = match &last.change {
            Some(Change::Bound(bound)) => Some(bound.clone()),
            Some(Change::Unbound { .. }) | None => None,
        };
        *lock(&self.last_read.0) = Some((port.clone(), last));
        Ok(bound)
    }

    /// What [`read_bound`](Self::read_bound) has read of a port, if that was the last port. It may be out of date: a change
    /// is compared with the store, and a refusal by it does not count.
    fn known(&self, port: &PortId) -> Option<Last> {
        let mut known = lock(&self.last_read.0);
        known.take_if(|(of, _)| of == port).map(|(_, last)| last)
    }

    async fn floor(&self, revision: Option<i64>) -> Result<Floor, StoreProblem> {
        let key = self.keys.floor();
        let page = self.one(&key, revision).await?;
        Floor::of(&key, page.records.into_iter().next())
    }

    /// Replaces the last changes of ports in one transaction. False if another process was first, or if it is unknown
    /// whether the changes were written.
    fn replace(&self, writes: &[(Last, Change)]) -> Result<bool, StoreError> {
        let written = self.wait(async {
            let mut compares = vec![self.same_layout()?];
            let mut puts = Vec::new();
            for (last, change) in writes {
                let key = self.keys.port(change.port());
                compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, last.changed));
                if last.change.is_none() {
                    let floor = Compare::mod_revision(self.keys.floor(), CompareOp::Equal, last.floor.changed);
                    compares.push(floor);
                }
                puts.push(TxnOp::put(key, written(&PortValue::of(change))?, None));
            }
            let done = patiently(self.client.clone().txn(Txn::new().when(compares).and_then(puts))).await?;
            if !done.succeeded() {
                self.check_layout().await?;
            }
            Ok((
                done.succeeded(),
                done.header().map_or(0, etcd_client::ResponseHeader::revision),
            ))
        });
        let (done, revision) = match written {
            // The next read tries another member, and fails if all are away.
            Err(error) if error.problem.is_away() => return Ok(false),
            written => written?,
        };
        for (_, change) in writes.iter().filter(|_| done) {
            self.followed.wrote(&change.port().network, revision);
        }
        Ok(done)
    }
}
