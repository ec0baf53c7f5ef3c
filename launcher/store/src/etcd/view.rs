//! The records at one revision, together with the changes of one step.
//!
//! Leases of a VM are read together, as one record, when a step first needs them. Searches for free numbers read the
//! index of all VMs and apply the changes of the VMs that the step has read.

use super::connection::{PAGE, Page, Record, Shared, is_compacted};
use super::keys::KeyRange;
use super::records::{HolderValue, NetworkValue, VmValue, read};
use crate::error::{StoreError, StoreProblem};
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::network::NetworkRecord;
use crate::range::{self, Number, Span};
use crate::segment::{RangeId, Segment};
use hawser_packet::MacAddr;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The records in the state that a step sees and changes.
pub(super) struct View<'a> {
    pub(super) shared: &'a Shared,
    /// Number of attempts of the step that have lost a race.
    pub(super) lost: u32,
    /// Revision of the reads, once something was read.
    pub(super) revision: Cell<Option<i64>>,
    /// True if a read failed because the revision was compacted. The step may then run again.
    pub(super) is_stale: Cell<bool>,
    pub(super) touched: RefCell<Touched>,
}

/// What a step has read and changed.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) vms: BTreeMap<VmName, Held>,
    /// True if the step has read the leases of all VMs.
    pub(super) all_vms: bool,
    /// Networks by name, once they were read.
    pub(super) networks: Option<BTreeMap<String, Agreed>>,
    pub(super) cursors: BTreeMap<String, Number>,
}

/// The leases of a VM.
#[derive(Clone, Default)]
pub(super) struct Held {
    /// Revision of the last change; 0 without a record.
    pub(super) changed: i64,
    pub(super) before: Vec<Lease>,
    pub(super) now: Vec<Lease>,
}

/// A network that nodes share.
#[derive(Clone, Default)]
pub(super) struct Agreed {
    /// Revision of the last change; 0 without a record.
    pub(super) changed: i64,
    pub(super) before: Option<NetworkRecord>,
    pub(super) now: Option<NetworkRecord>,
}

impl<'a> View<'a> {
    pub(super) fn new(shared: &'a Shared, lost: u32) -> Self {
        Self {
            shared,
            lost,
            revision: Cell::new(None),
            is_stale: Cell::new(false),
            touched: RefCell::default(),
        }
    }

    fn failed(&self, problem: StoreProblem) -> StoreError {
        if is_compacted(&problem) {
            self.is_stale.set(true);
        }
        self.shared.failed(problem)
    }

    /// Waits for a read. The first one decides the revision of all others.
    fn wait(&self, read: impl Future<Output = Result<Page, StoreProblem>>) -> Result<Page, StoreError> {
        let page = self.shared.tasks.block_on(read);
        let page = page.map_err(|problem| self.failed(problem))?;
        self.revision.set(self.revision.get().or(Some(page.revision)));
        Ok(page)
    }

    fn one(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let page = self.wait(self.shared.one(key, self.revision.get()))?;
        Ok(page.records.into_iter().next())
    }

    fn all(&self, range: &KeyRange) -> Result<Vec<Record>, StoreError> {
        Ok(self.wait(self.shared.all(range, self.revision.get()))?.records)
    }

    /// Converts a segment to the form in the store, which contains the name of the node.
    fn kept(&self, segment: &Segment) -> Segment {
        match segment {
            Segment::ThisNode(name) => Segment::OtherNode {
                node: self.shared.options.node.clone(),
                name: name.clone(),
            },
            other => other.clone(),
        }
    }

    fn kept_lease(&self, lease: &Lease) -> Lease {
        Lease {
            segment: self.kept(&lease.segment),
            ..lease.clone()
        }
    }

    fn kept_range(&self, range: &RangeId) -> RangeId {
        match range {
            RangeId::Addresses(segment, network) => RangeId::Addresses(self.kept(segment), *network),
            RangeId::Macs(macs) => RangeId::Macs(*macs),
        }
    }

    /// Reads the leases of `vm`, unless the step has already read them.
    fn touch(&self, vm: &VmName) -> Result<(), StoreError> {
        if self.touched.borrow().vms.contains_key(vm) {
            return Ok(());
        }
        let key = self.shared.keys.vm(vm);
        let held = match self.one(&key)? {
            Some(record) => self.held(vm, &record)?,
            None => Held::default(),
        };
        self.touched.borrow_mut().vms.insert(vm.clone(), held);
        Ok(())
    }

    fn held(&self, vm: &VmName, record: &Record) -> Result<Held, StoreError> {
        let leases = read::<VmValue>(&record.key, &record.value).and_then(|value| value.leases(vm, &record.key));
        let before = leases.map_err(|problem| self.failed(problem))?;
        Ok(Held {
            changed: record.changed,
            now: before.clone(),
            before,
        })
    }

    /// Reads the networks, unless the step has already read them.
    fn touch_networks(&self) -> Result<(), StoreError> {
        if self.touched.borrow().networks.is_some() {
            return Ok(());
        }
        let mut networks = BTreeMap::new();
        for record in self.all(&self.shared.keys.networks())? {
            let value = read::<NetworkValue>(&record.key, &record.value).and_then(|value| value.record(&record.key));
            let before = Some(value.map_err(|problem| self.failed(problem))?);
            let agreed = Agreed {
                changed: record.changed,
                now: before.clone(),
                before,
            };
            let name = agreed.before.as_ref().map(|network| network.name.clone());
            networks.insert(name.unwrap_or_default(), agreed);
        }
        self.touched.borrow_mut().networks = Some(networks);
        Ok(())
    }

    /// The holder in a record of an index, unless it is a VM that the step has read.
    fn other_holder(&self, record: &Record) -> Result<Option<Holder>, StoreError> {
        let value = read::<HolderValue>(&record.key, &record.value).map_err(|problem| self.failed(problem))?;
        let holder = Holder::from(value);
        let is_touched = self.touched.borrow().vms.contains_key(&holder.vm);
        Ok((!is_touched).then_some(holder))
    }

    /// The holder of a lease for which `is_it` is true, among the VMs that the step has read.
    fn touched_holder(&self, is_it: impl Fn(&Lease) -> bool) -> Option<Holder> {
        let touched = self.touched.borrow();
        let mut leases = touched.vms.values().flat_map(|held| &held.now);
        leases.find(|lease| is_it(lease)).map(|lease| lease.holder.clone())
    }

    /// The first `limit` held numbers within `span`. These are the numbers in `range` of VMs that the step has not
    /// read, and the `numbers` in the leases of VMs that it has read.
    fn held_numbers(
        &self,
        mut range: KeyRange,
        (span, limit): (Span, usize),
        numbers: impl Fn(&Lease) -> Vec<Number>,
    ) -> Result<Vec<Number>, StoreError> {
        let touched: Vec<Number> = {
            let touched = self.touched.borrow();
            let leases = touched.vms.values().flat_map(|held| &held.now);
            leases
                .flat_map(numbers)
                .filter(|number| span.contains(*number))
                .collect()
        };
        let mut held: BTreeSet<Number> = BTreeSet::new();
        loop {
            let page = self.wait(self.shared.page(&range, self.revision.get(), PAGE))?;
            for record in &page.records {
                let number = self.shared.keys.number_of(&record.key);
                if let (Some(number), Some(_)) = (number, self.other_holder(record)?) {
                    held.insert(number);
                }
            }
            match page.records.last() {
                Some(last) if page.more && held.len() < limit => range = range.after(&last.key),
                _ => break,
            }
        }
        // Numbers beyond the last page are unknown, so numbers of the step must not take their place.
        let last = held.last().copied().filter(|_| held.len() >= limit);
        held.extend(
            touched
                .into_iter()
                .filter(|number| last.is_none_or(|last| *number <= last)),
        );
        Ok(held.into_iter().take(limit).collect())
    }
}

impl Ledger for View<'_> {
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        if let Some(vm) = vm {
            self.touch(vm)?;
            let touched = self.touched.borrow();
            let now = touched.vms.get(vm).map(|held| held.now.clone());
            return Ok(seen_all(self, now.unwrap_or_default()));
        }
        let keys = &self.shared.keys;
        for record in self.all(&keys.vms())? {
            let Some(vm) = keys.vm_of(&record.key) else { continue };
            if !self.touched.borrow().vms.contains_key(&vm) {
                let held = self.held(&vm, &record)?;
                self.touched.borrow_mut().vms.insert(vm, held);
            }
        }
        let mut touched = self.touched.borrow_mut();
        touched.all_vms = true;
        let leases = touched.vms.values().flat_map(|held| held.now.clone()).collect();
        Ok(seen_all(self, leases))
    }

    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError> {
        let segment = self.kept(segment);
        let touched = self.touched_holder(|lease| lease.segment == segment && lease.mac == Some(mac));
        if touched.is_some() {
            return Ok(touched);
        }
        let record = self.one(&self.shared.keys.mac(range::mac_number(mac), &segment))?;
        record.map_or(Ok(None), |record| self.other_holder(&record))
    }

    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError> {
        let segment = segment.map(|segment| self.kept(segment));
        let is_on = |lease: &Lease| segment.as_ref().is_none_or(|segment| lease.segment == *segment);
        let has = |lease: &Lease| lease.addresses.iter().any(|net| net.addr() == address);
        let touched = self.touched_holder(|lease| is_on(lease) && has(lease));
        if touched.is_some() {
            return Ok(touched);
        }
        let number = range::number(address);
        let span = Span {
            first: number,
            last: number,
        };
        for record in self.all(&self.shared.keys.addresses(segment.as_ref(), span))? {
            if let Some(holder) = self.other_holder(&record)? {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let range = self.shared.keys.macs(span);
        let mac = |lease: &Lease| lease.mac.map(range::mac_number).into_iter().collect();
        self.held_numbers(range, (span, limit), mac)
    }

    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let segment = segment.map(|segment| self.kept(segment));
        let range = self.shared.keys.addresses(segment.as_ref(), span);
        self.held_numbers(range, (span, limit), |lease| {
            let is_on = segment.as_ref().is_none_or(|segment| lease.segment == *segment);
            let addresses = lease.addresses.iter().filter(|_| is_on);
            addresses.map(|net| range::number(net.addr())).collect()
        })
    }

    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError> {
        let range = self.kept_range(range);
        let key = self.shared.keys.cursor(&range);
        if let Some(last) = self.touched.borrow().cursors.get(&key) {
            return Ok(Some(*last));
        }
        if self.lost > 0 {
            return Ok(Some(anywhere(&range).map_err(|problem| self.failed(problem))?));
        }
        let record = self.one(&key)?;
        let last = record.map(|record| read::<String>(&record.key, &record.value));
        let last = last.transpose().map_err(|problem| self.failed(problem))?;
        Ok(last.and_then(|last| Number::from_str_radix(&last, 16).ok()))
    }

    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError> {
        let key = self.shared.keys.cursor(&self.kept_range(range));
        self.touched.get_mut().cursors.insert(key, last);
        Ok(())
    }

    fn put(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.touch(&lease.holder.vm)?;
        let kept = self.kept_lease(lease);
        let held = self.touched.get_mut().vms.entry(lease.holder.vm.clone()).or_default();
        held.now.push(kept);
        held.now.sort_by(|a, b| a.holder.cmp(&b.holder));
        Ok(())
    }

    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError> {
        self.touch(&holder.vm)?;
        if let Some(held) = self.touched.get_mut().vms.get_mut(&holder.vm) {
            held.now.retain(|lease| lease.holder != *holder);
        }
        Ok(())
    }

    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        self.touch_networks()?;
        let touched = self.touched.borrow();
        let networks = touched.networks.iter().flat_map(BTreeMap::values);
        Ok(networks.filter_map(|agreed| agreed.now.clone()).collect())
    }

    fn put_network(&mut self, network: &NetworkRecord) -> Result<(), StoreError> {
        self.touch_networks()?;
        let networks = self.touched.get_mut().networks.get_or_insert_default();
        networks.entry(network.name.clone()).or_default().now = Some(network.clone());
        Ok(())
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        self.touch_networks()?;
        let networks = self.touched.get_mut().networks.get_or_insert_default();
        if let Some(agreed) = networks.get_mut(name) {
            agreed.now = None;
        }
        Ok(())
    }
}

/// Converts the segments of leases to this node's names.
fn seen_all(view: &View<'_>, leases: Vec<Lease>) -> Vec<Lease> {
    let node = &view.shared.options.node;
    let seen = |mut lease: Lease| {
        if let Segment::OtherNode { node: of, name } = &lease.segment
            && of == node
        {
            lease.segment = Segment::ThisNode(name.clone());
        }
        lease
    };
    leases.into_iter().map(seen).collect()
}

/// A random number of a range, at which a claim continues after a lost race.
fn anywhere(range: &RangeId) -> Result<Number, StoreProblem> {
    let random = getrandom::u64().map_err(|error| StoreProblem::Other(format!("no random numbers: {error}")))?;
    Ok(match range {
        RangeId::Macs(macs) => range::begin(macs, random),
        RangeId::Addresses(_, network) => {
            let hosts = u32::from(network.max_prefix_len() - network.prefix_len());
            let mask = 1_u64.checked_shl(hosts).map_or(u64::MAX, |size| size - 1);
            range::number(network.network()) + Number::from(random & mask)
        }
    })
}
