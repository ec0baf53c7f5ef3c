//! Time leases of processes. The processes of a connection share one time lease of etcd, so that a node with many VMs
//! renews a single lease. The server measures the time.

use super::connection::{Etcd, lock, patiently};
use crate::error::{StoreError, StoreProblem};
use crate::liveness::{Liveness, Moment, ProcessId};
use etcd_client::{Error, PutOptions, Txn, TxnOp};
use std::collections::BTreeSet;
use std::time::Duration;

/// Shortest time lease that etcd grants, in seconds.
const SHORTEST: i64 = 2;

/// The time lease of a connection, and the processes that share it.
#[derive(Default)]
pub(super) struct Alive {
    lease: Option<i64>,
    processes: BTreeSet<ProcessId>,
}

impl Liveness for Etcd {
    /// Renews the time lease of all processes of this connection.
    fn keep_alive(&mut self, process: &ProcessId, _now: &Moment, lifetime: Duration) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut alive = lock(&shared.alive);
        shared.wait(async {
            let mut client = shared.client.clone();
            let lease = match alive.lease {
                Some(lease) if renewed(&mut client, lease).await? => lease,
                _ => {
                    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX).max(SHORTEST);
                    let granted = patiently(client.lease_grant(seconds, None)).await?;
                    // If the lease has ended, each process is attached to the new lease at its next renewal.
                    alive.processes.clear();
                    *alive.lease.insert(granted.id())
                }
            };
            if alive.processes.contains(process) {
                return Ok(());
            }
            let under = PutOptions::new().with_lease(lease);
            let put = [
                TxnOp::put(shared.keys.process(process), "", None),
                TxnOp::put(shared.keys.alive(process), "", Some(under)),
            ];
            patiently(client.txn(Txn::new().and_then(put))).await?;
            alive.processes.insert(process.clone());
            Ok(())
        })
    }

    fn dead(&self, _now: &Moment) -> Result<Vec<ProcessId>, StoreError> {
        let shared = &self.shared;
        shared.wait(async {
            let known = shared.all(&shared.keys.processes(), None).await?;
            let alive = shared.all(&shared.keys.all_alive(), Some(known.revision)).await?;
            let process = |record: &super::connection::Record| shared.keys.process_of(&record.key);
            let alive: BTreeSet<ProcessId> = alive.records.iter().filter_map(process).collect();
            let known = known.records.iter().filter_map(process);
            Ok(known.filter(|process| !alive.contains(process)).collect())
        })
    }

    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError> {
        let shared = &self.shared;
        lock(&shared.alive).processes.remove(process);
        shared.wait(async {
            let delete = [
                TxnOp::delete(shared.keys.process(process), None),
                TxnOp::delete(shared.keys.alive(process), None),
            ];
            patiently(shared.client.clone().txn(Txn::new().and_then(delete))).await?;
            Ok(())
        })
    }
}

/// Renews a time lease. False if it has ended.
async fn renewed(client: &mut etcd_client::Client, lease: i64) -> Result<bool, StoreProblem> {
    patiently(async {
        // The first answer arrives together with the stream.
        match client.lease_keep_alive(lease).await {
            Ok(_) => Ok(true),
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    })
    .await
}
