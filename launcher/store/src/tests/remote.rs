//! A store that nodes share, without a network: a step runs on a copy of the records and is kept only
//! if nothing has changed meanwhile, as with a compare-and-swap transaction.

use crate::memory::Memory;
use crate::range::{Number, Span};
use crate::{Holder, Lease, Ledger, RangeId, Segment, Store, StoreError, VmName};
use hawser_packet::MacAddr;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// The records of all nodes.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<Records>>);

#[derive(Clone, Default)]
struct Records {
    revision: u64,
    memory: Memory,
}

impl Cluster {
    /// The store as a node has it.
    pub fn join(&self, node: &'static str) -> Remote {
        Remote {
            cluster: self.clone(),
            node,
            races_to_lose: 0,
            rival: None,
            runs: 0,
        }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap()
    }
}

/// A node's connection to the store.
pub struct Remote {
    cluster: Cluster,
    node: &'static str,
    /// Races that every step loses before it is kept.
    pub races_to_lose: u32,
    /// What another process does at each of these; without it, a change that concerns no lease.
    pub rival: Option<Box<dyn FnMut()>>,
    /// How often steps have run.
    pub runs: u32,
}

impl Remote {
    fn view(&self, memory: Memory) -> View {
        View {
            memory,
            node: self.node,
        }
    }
}

impl Store for Remote {
    fn step<T, E: From<StoreError>>(&mut self, mut step: impl FnMut(&mut dyn Ledger) -> Result<T, E>) -> Result<T, E> {
        let mut races_to_lose = self.races_to_lose;
        loop {
            let Records { revision, memory } = self.cluster.records().clone();
            let mut view = self.view(memory);
            self.runs += 1;
            let result = step(&mut view);
            if races_to_lose > 0 {
                races_to_lose -= 1;
                match &mut self.rival {
                    Some(rival) => rival(),
                    None => self.cluster.records().revision += 1,
                }
            }
            let mut records = self.cluster.records();
            // A failure that rests on old records is none either.
            if records.revision != revision {
                continue;
            }
            let result = result?;
            records.revision += 1;
            records.memory = view.memory;
            return Ok(result);
        }
    }

    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        self.view(self.cluster.records().memory.clone()).leases(vm)
    }
}

/// The records as a node sees them: kept are the names of nodes.
struct View {
    memory: Memory,
    node: &'static str,
}

impl View {
    fn kept(&self, segment: &Segment) -> Segment {
        match segment {
            Segment::ThisNode(name) => Segment::OtherNode {
                node: self.node.into(),
                name: name.clone(),
            },
            other => other.clone(),
        }
    }

    fn seen(&self, segment: Segment) -> Segment {
        match segment {
            Segment::OtherNode { node, name } if node == self.node => Segment::ThisNode(name),
            other => other,
        }
    }

    fn kept_range(&self, range: &RangeId) -> RangeId {
        match range {
            RangeId::Addresses(segment, network) => RangeId::Addresses(self.kept(segment), *network),
            RangeId::Macs(macs) => RangeId::Macs(*macs),
        }
    }
}

impl Ledger for View {
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        let leases = self.memory.leases(vm)?.into_iter().map(|lease| Lease {
            segment: self.seen(lease.segment.clone()),
            ..lease
        });
        Ok(leases.collect())
    }

    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError> {
        self.memory.mac_holder(&self.kept(segment), mac)
    }

    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError> {
        let segment = segment.map(|segment| self.kept(segment));
        self.memory.address_holder(segment.as_ref(), address)
    }

    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        self.memory.held_macs(span, limit)
    }

    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let segment = segment.map(|segment| self.kept(segment));
        self.memory.held_addresses(segment.as_ref(), span, limit)
    }

    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError> {
        self.memory.cursor(&self.kept_range(range))
    }

    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError> {
        self.memory.set_cursor(&self.kept_range(range), last)
    }

    fn put(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let segment = self.kept(&lease.segment);
        self.memory.put(&Lease {
            segment,
            ..lease.clone()
        })
    }

    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError> {
        self.memory.remove(holder)
    }
}
