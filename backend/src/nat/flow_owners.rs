//! The owner of each flow among the workers of a port.
//!
//! The directory is shared by the workers of a port. The worker that creates a flow adds the entry. The entry is
//! removed when the flow's [`Claim`] is dropped.

use crate::packet::FlowId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Worker number of a claim that was passed on.
const NO_WORKER: usize = usize::MAX;

/// The worker that owns a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The worker that looks up the flow.
    Me,
    /// Another worker.
    Worker(usize),
}

type Entries = HashMap<FlowId, usize>;

/// Access of one worker to the directory of flows.
#[derive(Clone)]
pub struct Owners {
    me: usize,
    entries: Arc<RwLock<Entries>>,
}

debug_fields!(Owners { me });

/// An entry of the directory, removed on drop. It is boxed because every flow has room for a claim, although few ports
/// have several workers.
pub struct Claim(Box<Claimed>);

struct Claimed {
    key: FlowId,
    owners: Owners,
}

impl Owners {
    /// Creates an empty directory, and one view of it for each of `workers` workers.
    pub fn of_workers(workers: usize) -> Vec<Self> {
        let entries = Arc::default();
        (0..workers)
            .map(|me| Self {
                me,
                entries: Arc::clone(&entries),
            })
            .collect()
    }

    /// Records this worker as the owner of a new flow.
    pub fn claim(&self, key: FlowId) -> Claim {
        self.write().insert(key, self.me);
        Claim(Box::new(Claimed {
            key,
            owners: self.clone(),
        }))
    }

    /// Records another worker as the owner.
    pub(super) fn assign(&self, key: FlowId, worker: usize) {
        self.write().insert(key, worker);
    }

    /// The owner of the flow, if there is one.
    pub fn owner(&self, key: &FlowId) -> Option<Owner> {
        self.read().get(key).map(|&owner| match owner {
            me if me == self.me => Owner::Me,
            other => Owner::Worker(other),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Drops the claim but keeps the entry, because another worker is about to become the owner.
    pub fn pass_on(mut self) {
        self.0.owners.me = NO_WORKER;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Claimed { key, owners } = &*self.0;
        let mut entries = owners.write();
        // In the meantime another worker may have created the flow again.
        if entries.get(key) == Some(&owners.me) {
            entries.remove(key);
        }
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({:?})", self.0.key)
    }
}
