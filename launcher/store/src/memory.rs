//! A store in memory: a copy of another store's leases, on which claims can be tried.

use crate::error::StoreError;
use crate::holder::{Holder, VmName};
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::network::NetworkRecord;
use crate::range::{Number, Span, number};
use crate::segment::{RangeId, Segment};
use hawser_packet::MacAddr;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The leases, and the number leased last in each range.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    leases: Vec<Lease>,
    cursors: Vec<(RangeId, Number)>,
    networks: Vec<NetworkRecord>,
}

impl Memory {
    /// Starts with `leases` and no cursors.
    pub const fn new(leases: Vec<Lease>) -> Self {
        Self {
            leases,
            cursors: Vec::new(),
            networks: Vec::new(),
        }
    }

    fn on<'a>(&'a self, segment: Option<&'a Segment>) -> impl Iterator<Item = &'a Lease> {
        let is_on = move |lease: &&Lease| segment.is_none_or(|segment| lease.segment == *segment);
        self.leases.iter().filter(is_on)
    }
}

/// The first `limit` of `held` within `span`, in ascending order and without duplicates.
fn first(held: impl Iterator<Item = Number>, span: Span, limit: usize) -> Vec<Number> {
    let within: BTreeSet<Number> = held.filter(|number| span.contains(*number)).collect();
    within.into_iter().take(limit).collect()
}

impl Ledger for Memory {
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        let of_vm = |lease: &&Lease| vm.is_none_or(|vm| lease.holder.vm == *vm);
        let mut leases: Vec<Lease> = self.leases.iter().filter(of_vm).cloned().collect();
        leases.sort_by(|a, b| a.holder.cmp(&b.holder));
        Ok(leases)
    }

    fn mac_holder(&self, segment: &Segment, mac: MacAddr) -> Result<Option<Holder>, StoreError> {
        let lease = self.on(Some(segment)).find(|lease| lease.mac == Some(mac));
        Ok(lease.map(|lease| lease.holder.clone()))
    }

    fn address_holder(&self, segment: Option<&Segment>, address: IpAddr) -> Result<Option<Holder>, StoreError> {
        let has = |lease: &&Lease| lease.addresses.iter().any(|net| net.addr() == address);
        Ok(self.on(segment).find(has).map(|lease| lease.holder.clone()))
    }

    fn held_macs(&self, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let macs = self.on(None).filter_map(|lease| lease.mac);
        Ok(first(macs.map(crate::range::mac_number), span, limit))
    }

    fn held_addresses(&self, segment: Option<&Segment>, span: Span, limit: usize) -> Result<Vec<Number>, StoreError> {
        let addresses = self.on(segment).flat_map(|lease| &lease.addresses);
        Ok(first(addresses.map(|net| number(net.addr())), span, limit))
    }

    fn cursor(&self, range: &RangeId) -> Result<Option<Number>, StoreError> {
        let known = self.cursors.iter().find(|(known, _)| known == range);
        Ok(known.map(|(_, last)| *last))
    }

    fn set_cursor(&mut self, range: &RangeId, last: Number) -> Result<(), StoreError> {
        self.cursors.retain(|(known, _)| known != range);
        self.cursors.push((range.clone(), last));
        Ok(())
    }

    fn put(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.leases.push(lease.clone());
        Ok(())
    }

    fn remove(&mut self, holder: &Holder) -> Result<(), StoreError> {
        self.leases.retain(|lease| lease.holder != *holder);
        Ok(())
    }

    fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        let mut networks = self.networks.clone();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    fn put_network(&mut self, network: &NetworkRecord) -> Result<(), StoreError> {
        self.networks.push(network.clone());
        Ok(())
    }

    fn remove_network(&mut self, name: &str) -> Result<(), StoreError> {
        self.networks.retain(|network| network.name != name);
        Ok(())
    }
}
