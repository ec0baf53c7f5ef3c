//! A copy of a store's leases, in memory: claims are tried on it, and nothing is kept.

use crate::range::Number;
use crate::{Holder, Lease, Ledger, StoreError, VmName};
use hawser_packet::MacAddr;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The leases, and what of each range was given out last since the copy was made.
#[derive(Debug, Default)]
pub struct Copy {
    leases: Vec<Lease>,
    cursors: BTreeMap<String, Number>,
}

impl Copy {
    /// Of these leases.
    pub const fn new(leases: Vec<Lease>) -> Self {
        Self {
            leases,
            cursors: BTreeMap::new(),
        }
    }

    fn holder(&self, segment: Option<&str>, has: impl Fn(&Lease) -> bool) -> Option<Holder> {
        let here = |lease: &&Lease| segment.is_none_or(|segment| lease.segment == segment) && has(lease);
        self.leases.iter().find(here).map(|lease| lease.holder.clone())
    }
}

impl Ledger for Copy {
    fn leases(&self, vm: Option<&VmName>) -> Result<Vec<Lease>, StoreError> {
        let of_vm = |lease: &&Lease| vm.is_none_or(|vm| lease.holder.vm == *vm);
        Ok(self.leases.iter().filter(of_vm).cloned().collect())
    }

    fn mac_holder(&self, segment: Option<&str>, mac: MacAddr) -> Result<Option<Holder>, StoreError> {
        Ok(self.holder(segment, |lease| lease.mac == Some(mac)))
    }

    fn address_holder(&self, segment: Option<&str>, address: IpAddr) -> Result<Option<Holder>, StoreError> {
        Ok(self.holder(segment, |lease| lease.addresses.iter().any(|net| net.addr() == address)))
    }

    fn cursor(&self, range: &str) -> Result<Option<Number>, StoreError> {
        Ok(self.cursors.get(range).copied())
    }

    fn set_cursor(&mut self, range: &str, last: Number) -> Result<(), StoreError> {
        self.cursors.insert(range.to_owned(), last);
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

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
