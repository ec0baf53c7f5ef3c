//! A store shared by nodes, without a network. A step runs on a copy of the records, which is kept only if nothing has
//! changed in the meantime, as with a compare-and-swap transaction.

use crate::bindings::{
    BindError, Binding, Bound, Change, Changes, Epoch, Epochs, Flip, PortId, Revision, Watch, check_bound, flipped,
    next_epoch,
};
use crate::liveness::{Liveness, Moment, ProcessId};
use crate::memory::Memory;
use crate::range::{Number, Span};
use crate::{Holder, Lease, Ledger, NetworkRecord, RangeId, Segment, Store, StoreError, VmName};
use hawser_packet::MacAddr;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The records of all nodes.
#[derive(Clone, Default)]
pub(super) struct Cluster(Arc<Mutex<Records>>);

#[derive(Clone, Default)]
struct Records {
    revision: u64,
    memory: Memory,
    running: Running,
}

/// State of ports and of running processes.
#[derive(Clone, Default)]
struct Running {
    number: i64,
    /// The last change of each port, with its number.
    ports: Vec<(i64, Change)>,
    processes: Vec<(ProcessId, Moment)>,
}

impl Running {
    fn find(&self, port: &PortId) -> Option<&Change> {
        let of = |(_, change): &&(i64, Change)| change.port() == port;
        self.ports.iter().find(of).map(|(_, change)| change)
    }

    fn put(&mut self, change: Change) {
        self.number += 1;
        self.ports.retain(|(_, known)| known.port() != change.port());
        self.ports.push((self.number, change));
    }

    fn after(&self, network: &str, number: i64) -> impl Iterator<Item = Change> {
        let after = self.ports.iter().filter(move |(known, _)| *known > number);
        let of_network = after.filter(move |(_, change)| change.port().network == network);
        of_network.map(|(_, change)| change.clone())
    }

    const fn revision(&self) -> Revision {
        Revision {
            store: 1,
            number: self.number,
        }
    }
}

impl Cluster {
    /// Connects a node to the store.
    pub(super) fn join(&self, node: &'static str) -> Remote {
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
pub(super) struct Remote {
    cluster: Cluster,
    node: &'static str,
    /// Number of races that every step loses before it is kept.
    pub races_to_lose: u32,
    /// What another process does in each of these races. Without it, the other process makes a change that concerns no
    /// lease.
    pub rival: Option<Box<dyn FnMut()>>,
    /// Number of times that steps have run.
    pub runs: u32,
}

impl Remote {
    /// Reads a port, loses the races that are due, and stores the result of `change` if the port is still unchanged.
    fn swap<T>(
        &mut self,
        port: &PortId,
        change: impl Fn(Option<&Change>) -> Result<(Change, T), BindError>,
    ) -> Result<T, BindError> {
        let mut races_to_lose = self.races_to_lose;
        loop {
            let before = self.cluster.records().running.find(port).cloned();
            let changed = change(before.as_ref());
            if races_to_lose > 0 {
                races_to_lose -= 1;
                if let Some(rival) = &mut self.rival {
                    rival();
                }
            }
            let running = &mut self.cluster.records().running;
            if running.find(port) == before.as_ref() {
                let (change, result) = changed?;
                running.put(change);
                return Ok(result);
            }
        }
    }

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
            let Records { revision, memory, .. } = self.cluster.records().clone();
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
            // A failure that is based on outdated records does not count either.
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

impl Epochs for Remote {
    fn bind(&mut self, port: &PortId, seen: Option<Epoch>, binding: &Binding) -> Result<Epoch, BindError> {
        self.swap(port, |before| {
            let epoch = next_epoch(port, before, seen, 0)?;
            let bound = Bound {
                port: port.clone(),
                epoch,
                binding: binding.clone(),
            };
            Ok((Change::Bound(bound), epoch))
        })
    }

    fn flip(&mut self, flips: &[Flip]) -> Result<Vec<Epoch>, BindError> {
        let running = &mut self.cluster.records().running;
        let bound = flips.iter().map(|flip| flipped(flip, running.find(&flip.port)));
        let bound = bound.collect::<Result<Vec<Bound>, _>>()?;
        let epochs = bound.iter().map(|bound| bound.epoch).collect();
        for bound in bound {
            if running.find(&bound.port) != Some(&Change::Bound(bound.clone())) {
                running.put(Change::Bound(bound));
            }
        }
        Ok(epochs)
    }

    fn unbind(&mut self, port: &PortId, seen: Epoch) -> Result<(), BindError> {
        self.swap(port, |before| {
            check_bound(port, before, seen)?;
            let port = port.clone();
            Ok((Change::Unbound { port, epoch: seen }, ()))
        })
    }
}

impl Watch for Remote {
    fn bindings(&self, network: &str) -> Result<(Vec<Bound>, Revision), StoreError> {
        let running = &self.cluster.records().running;
        let bound = running.after(network, 0).filter_map(|change| match change {
            Change::Bound(bound) => Some(bound),
            Change::Unbound { .. } => None,
        });
        Ok((bound.collect(), running.revision()))
    }

    fn changes(&self, network: &str, after: Revision) -> Result<Changes, StoreError> {
        let running = &self.cluster.records().running;
        let revision = running.revision();
        if after.store != revision.store || after.number > revision.number {
            return Ok(Changes::Gap);
        }
        let changes = running.after(network, after.number).collect();
        Ok(Changes::Complete { changes, revision })
    }
}

impl Liveness for Remote {
    fn keep_alive(&mut self, process: &ProcessId, now: &Moment, lifetime: Duration) -> Result<(), StoreError> {
        self.forget(process)?;
        let until = Moment {
            boot: now.boot.clone(),
            since_boot: now.since_boot + lifetime,
        };
        self.cluster.records().running.processes.push((process.clone(), until));
        Ok(())
    }

    fn dead(&self, now: &Moment) -> Result<Vec<ProcessId>, StoreError> {
        let running = &self.cluster.records().running;
        let is_over = |until: &Moment| until.boot != now.boot || until.since_boot <= now.since_boot;
        let dead = running.processes.iter().filter(|(_, until)| is_over(until));
        let mut dead: Vec<ProcessId> = dead.map(|(process, _)| process.clone()).collect();
        dead.sort();
        Ok(dead)
    }

    fn forget(&mut self, process: &ProcessId) -> Result<(), StoreError> {
        let running = &mut self.cluster.records().running;
        running.processes.retain(|(known, _)| known != process);
        Ok(())
    }
}

/// The records from a node's point of view. The stored segments contain node names.
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

    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        self.memory.networks()
    }

    fn put_network(&mut self, network: &NetworkRecord) -> Result<(), StoreError> {
        self.memory.put_network(network)
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        self.memory.remove_network(name)
    }
}
