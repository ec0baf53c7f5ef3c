//! Runs steps over leases. Each is one transaction, which is repeated after a lost race.

use super::connection::{Etcd, PATIENCE, Shared, patiently};
use super::keys::Keys;
use super::records::{HolderValue, NetworkValue, VmValue, written};
use super::view::{Agreed, Held, Touched, View};
use crate::error::{StoreError, StoreProblem};
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::ledger::{Ledger, Store};
use crate::network::NetworkRecord;
use crate::range;
use crate::segment::Segment;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

/// Number of races that a step may lose before it fails.
const ATTEMPTS: u32 = 50;
/// Longest pause after a lost race, in milliseconds.
const LONGEST_PAUSE: u64 = 100;

impl Store for Etcd {
    fn step<T, E: From<StoreError>>(&mut self, mut step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E> {
        let (mut lost, start) = (0, Instant::now());
        while lost < ATTEMPTS {
            let mut view = View::new(&self.shared, lost);
            let result = step(&mut view);
            if !view.is_stale.get() {
                // All reads were of one revision, so a failure counts.
                let result = result?;
                match self.shared.commit(&view) {
                    Ok(true) => return Ok(result),
                    Ok(false) => {}
                    // The step may have been written all the same. Then it finds that, and has nothing left to change.
                    Err(error) if error.problem.is_away() && start.elapsed() < PATIENCE => {}
                    Err(error) => return Err(error.into()),
                }
            }
            pause(lost);
            lost += 1;
        }
        Err(self.shared.failed(StoreProblem::Contended(ATTEMPTS)).into())
    }

    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        View::new(&self.shared, 0).leases(vm)
    }
}

/// Waits for a random time, which grows with the number of lost races.
fn pause(lost: u32) {
    let limit = LONGEST_PAUSE.min(1 << lost.min(10));
    // Without random numbers, the pause has its maximum length.
    let millis = getrandom::u64().map_or(limit, |random| random % limit);
    thread::sleep(Duration::from_millis(millis));
}

/// A transaction while it is assembled.
#[derive(Default)]
struct Draft {
    compares: Vec<Compare>,
    operations: Vec<TxnOp>,
}

impl Draft {
    /// Requires that `key` has not changed since `revision`, or does not exist if `revision` is 0.
    fn unchanged(&mut self, key: String, revision: i64) {
        self.compares
            .push(Compare::mod_revision(key, CompareOp::Equal, revision));
    }

    fn put(&mut self, key: String, value: Vec<u8>) {
        self.operations.push(TxnOp::put(key, value, None));
    }

    fn delete(&mut self, key: String) {
        self.operations.push(TxnOp::delete(key, None));
    }
}

impl Shared {
    /// Writes the changes of a step. False if the step lost a race.
    fn commit(&self, view: &View<'_>) -> Result<bool, StoreError> {
        let touched = view.touched.borrow();
        let draft = self.draft(&touched, view.revision.get(), view.lost > 0);
        let draft = draft.map_err(|problem| self.failed(problem))?;
        if draft.operations.is_empty() {
            return Ok(true);
        }
        self.wait(async {
            let mut compares = draft.compares;
            compares.push(self.same_layout()?);
            let txn = Txn::new().when(compares).and_then(draft.operations);
            let done = patiently(self.client.clone().txn(txn)).await?.succeeded();
            if !done {
                self.check_layout().await?;
            }
            Ok(done)
        })
    }

    fn draft(&self, touched: &Touched, revision: Option<i64>, has_lost: bool) -> Result<Draft, StoreProblem> {
        let mut draft = Draft::default();
        let keys = &self.keys;
        for (vm, held) in &touched.vms {
            if held.now == held.before {
                continue;
            }
            match &held.now[..] {
                [] => draft.delete(keys.vm(vm)),
                leases => draft.put(keys.vm(vm), written(&VmValue::of(leases))?),
            }
        }
        index(&mut draft, keys, touched.vms.values())?;
        self.networks(&mut draft, touched, revision)?;
        if draft.operations.is_empty() {
            return Ok(draft);
        }
        if !touched.all_vms {
            for (vm, held) in &touched.vms {
                draft.unchanged(keys.vm(vm), held.changed);
            }
        } else if let Some(revision) = revision {
            // There are too many to compare one by one. A VM whose record is gone holds less than the step assumed.
            let range = keys.vms();
            let compare = Compare::mod_revision(range.first, CompareOp::Less, revision + 1);
            draft.compares.push(compare.with_range(range.end));
        }
        for (key, last) in &touched.cursors {
            // After a lost race the search began at a random place. The next search must not begin there.
            if !has_lost {
                draft.put(key.clone(), written(&format!("{last:032x}"))?);
            }
        }
        Ok(draft)
    }

    /// Adds the changes of networks, and the networks that the leases of the step rely on.
    fn networks(&self, draft: &mut Draft, touched: &Touched, revision: Option<i64>) -> Result<(), StoreProblem> {
        let Some(networks) = &touched.networks else {
            return Ok(());
        };
        let keys = &self.keys;
        let is_changed = |agreed: &Agreed| agreed.now != agreed.before;
        let vnis = |of: fn(&Agreed) -> &Option<_>| {
            let records = networks.values().filter_map(move |agreed| of(agreed).as_ref());
            records.map(|record: &NetworkRecord| (keys.vni(record.vni), record.name.clone()))
        };
        let before: BTreeMap<String, String> = vnis(|agreed| &agreed.before).collect();
        let now: BTreeMap<String, String> = vnis(|agreed| &agreed.now).collect();
        for (name, agreed) in networks {
            let is_used = touched.vms.values().filter(|held| held.now != held.before).any(|held| {
                let on = |lease: &Lease| matches!(&lease.segment, Segment::Network(network) if network == name);
                held.now.iter().any(on)
            });
            if is_changed(agreed) || is_used {
                draft.unchanged(keys.network(name), agreed.changed);
            }
            match &agreed.now {
                Some(network) if is_changed(agreed) => {
                    draft.put(keys.network(name), written(&NetworkValue::from(network))?);
                }
                None if is_changed(agreed) => draft.delete(keys.network(name)),
                _ => {}
            }
        }
        for (key, name) in &now {
            if before.get(key) != Some(name) {
                draft.put(key.clone(), written(name)?);
            }
            if !before.contains_key(key) {
                draft.unchanged(key.clone(), 0);
            }
        }
        for key in before.keys().filter(|key| !now.contains_key(*key)) {
            draft.delete(key.clone());
        }
        if networks.values().any(is_changed) && !touched.all_vms {
            // A network that is replaced must have no other VM, which only a step that reads all VMs knows. A new
            // network has none, because a claim on it relies on its record.
            let replaced = networks
                .values()
                .any(|agreed| agreed.before.is_some() && is_changed(agreed));
            if let Some(revision) = revision.filter(|_| replaced) {
                let range = keys.vms();
                let compare = Compare::mod_revision(range.first, CompareOp::Less, revision + 1);
                draft.compares.push(compare.with_range(range.end));
            }
        }
        Ok(())
    }
}

/// Adds the changes of the indexes of MACs and addresses.
fn index<'a>(draft: &mut Draft, keys: &Keys, held: impl Iterator<Item = &'a Held> + Clone) -> Result<(), StoreProblem> {
    let entries = |leases: fn(&Held) -> &Vec<Lease>| {
        let leases = held.clone().flat_map(leases);
        leases.flat_map(|lease| index_of(keys, lease).into_iter().map(|key| (key, &lease.holder)))
    };
    let before: BTreeMap<String, &Holder> = entries(|held| &held.before).collect();
    let mut now: BTreeMap<String, &Holder> = BTreeMap::new();
    for (key, holder) in entries(|held| &held.now) {
        if let Some(other) = now.insert(key.clone(), holder) {
            return Err(StoreProblem::Other(format!(
                "{other} and {holder} would both hold {key}"
            )));
        }
    }
    for (key, holder) in &now {
        match before.get(key) {
            Some(known) if known == holder => continue,
            // The record of the VM that holds it is compared.
            Some(_) => {}
            None => draft.unchanged(key.clone(), 0),
        }
        draft.put(key.clone(), written(&HolderValue::from(*holder))?);
    }
    for key in before.keys().filter(|key| !now.contains_key(*key)) {
        draft.delete(key.clone());
    }
    Ok(())
}

/// Keys under which the MAC and addresses of a lease are indexed.
fn index_of(keys: &Keys, lease: &Lease) -> Vec<String> {
    let mac = lease.mac.map(|mac| keys.mac(range::mac_number(mac), &lease.segment));
    let addresses = lease.addresses.iter().map(|net| range::number(net.addr()));
    let addresses = addresses.flat_map(|address| {
        [
            keys.address(&lease.segment, address),
            keys.address_anywhere(address, &lease.segment),
        ]
    });
    mac.into_iter().chain(addresses).collect()
}
